"""The commands: people look at executions, approvals, tasks and notifications, and steer them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.ledger.job_tables import JobRow
from pipeline_handlers.audit.tables import AuditLog
from pipeline_handlers.governance.tables import WorkflowExecution
from tests.handlers.governance.programs import FILE, created, rows, trigger
from tests.pipeline.cli.support import Ran, run

# Executions and approvals


def test_executions_are_listed_and_chosen(file: Path) -> None:
    waiting, done = trigger(file, created(), created("evidence", "e-7", "e-2"))
    listed = run("executions", "list", "--json").json
    assert listed["total"] == 2
    assert {one["id"] for one in listed["executions"]} == {waiting, done}
    only = run("executions", "list", "--status", "in_progress", "--entity", "policy", "--json").json
    assert [(one["id"], one["phase"], one["entity_type"], one["entity_id"]) for one in only["executions"]] == [
        (waiting, "waiting", "policy", "p-1")
    ]
    assert run("executions", "list", "--since", "1h").out.endswith("2 executions\n")
    assert run("executions", "list", "--since", "2999-01-01").out == "0 executions\n"
    text = run("executions", "list", "--limit", "1").out
    assert "1 of 2 executions" in text


def test_an_execution_is_shown_as_a_page_and_as_json(file: Path) -> None:
    [id_] = trigger(file, created())
    page = run("executions", "show", id_).out
    for words in (id_, "policy/p-1", "in_progress (waiting)", "1 of 2 actions", "Read p-1", "approval_opened", "cto"):
        assert words in page
    shown = run("executions", "show", id_, "--json").json
    assert [action["status"] for action in shown["actions"]] == ["completed", "waiting"]
    [listed] = run("executions", "list", "--json").json["executions"]
    same = listed.keys() & shown.keys()
    assert same == listed.keys()  # what both tell of has one name
    assert {name for name in same if listed[name] != shown[name]} <= {"created_at", "started_at", "completed_at"}
    assert '"assignee": null' in page  # results are JSON


def test_approvals_are_listed_granted_and_rejected(file: Path) -> None:
    first, second = trigger(file, created(), created("policy", "p-2", "e-2"))
    listed = run("approvals", "list", "--json").json["approvals"]
    assert {one["execution_id"] for one in listed} == {first, second}
    assert run("approvals", "list", "--approver", "eve").out == "0 approvals\n"

    granted = run("approvals", "grant", first, "--as", "ciso", "--comment", "fine")
    assert granted.out == f"approval {first}/1/0: ciso granted it; it has one of two grants\n"
    again = run("approvals", "grant", first, "--as", "ciso").out
    assert again.endswith("ciso had granted it before; it has one of two grants\n")
    assert run("approvals", "grant", f"{first}/1/0", "--as", "ciso", "--json").json["repeated"] is True
    last = run("approvals", "grant", f"{first}/1/0", "--as", "cto").out
    assert last.endswith("cto granted it; the step is granted\n")
    assert run("approvals", "reject", second, "--as", "cto", "--comment", "no").code == 0
    states = {row.id: (row.status, row.error) for row in rows(file, WorkflowExecution)}
    assert states == {first: ("in_progress", None), second: ("failed", "rejected by cto: no")}
    text = run("approvals", "list", "--status", "all").out
    assert "ciso: granted, cto: granted" in text
    assert text.endswith("2 approvals\n")


def test_executions_are_cancelled_and_retried(file: Path) -> None:
    waiting, failed = trigger(file, created(), created("assessment", "a-1", "e-2"))
    assert run("executions", "cancel", waiting, "--reason", "a mistake", "--as", "ann").out == "1 execution cancelled\n"
    assert run("executions", "cancel", waiting, "--json").json == {
        "cancelled": [], "cancelled_before": [waiting], "refused": {},
    }  # fmt: skip
    assert run("executions", "retry", failed).out == "1 execution queued again\n"
    [job] = rows(file, JobRow)
    assert job.id == f"execute:{failed}"
    assert {row.id: row.phase for row in rows(file, WorkflowExecution)} == {waiting: "cancelled", failed: "queued"}


def test_of_several_executions_each_is_retried_or_cancelled_and_what_can_not_be_is_told(file: Path) -> None:
    waiting, first, second = trigger(
        file, created(), created("assessment", "a-1", "e-2"), created("assessment", "a-2", "e-3")
    )
    ran = run("executions", "retry", first, waiting, second, "x")
    assert (ran.code, ran.out) == (2, "2 executions queued again\n")
    assert "only a failed one can be retried" in ran.err
    assert "no execution 'x'" in ran.err
    assert {row.id for row in rows(file, WorkflowExecution) if row.phase == "queued"} == {first, second}
    ran = run("executions", "cancel", first, "x", waiting, "--json")
    assert ran.code == 2
    assert ran.json["cancelled"] == [first, waiting]
    assert list(ran.json["refused"]) == ["x"]


def test_before_the_first_run_there_is_nothing_to_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/none.db")
    (tmp_path / "pipeline.toml").write_text(FILE)
    assert run("executions", "list").out == "0 executions\n"
    assert run("executions", "list", "--json").json == {"total": 0, "executions": []}
    assert run("approvals", "list").out == "0 approvals\n"
    assert "there is no file" in run("executions", "show", "x").err
    assert not (tmp_path / "none.db").exists()


def test_a_workflow_that_the_file_has_no_more_is_still_found(file: Path) -> None:
    two_broken(file)
    file.write_text(FILE.replace('name = "broken"', 'name = "mended"'))
    assert run("executions", "list", "--workflow", "broken", "--json").json["total"] == 2
    assert run("executions", "list", "--workflow", "broken", "--status", "completed").out == "0 executions\n"


def test_a_cancellation_without_a_reason_says_so(file: Path) -> None:
    [waiting] = trigger(file, created())
    assert run("executions", "cancel", waiting, "--as", "ann").code == 0
    assert run("executions", "show", waiting, "--json").json["error"] == "cancelled: no reason was given"


# Many at once


def two_broken(file: Path) -> tuple[str, str, str]:
    """An execution that waits, and two that failed."""
    waiting, first, second = trigger(
        file, created(), created("assessment", "a-1", "e-2"), created("assessment", "a-2", "e-3")
    )
    return waiting, first, second


def test_executions_are_retried_by_what_they_are(file: Path) -> None:
    _, first, second = two_broken(file)
    ran = run("executions", "retry", "--workflow", "broken", "--since", "1h", "--dry-run")
    assert ran.code == 0
    assert first in ran.out
    assert ran.out.endswith("would retry 2 executions; nothing was changed\n")
    assert run("executions", "retry", "--all", "--dry-run", "--json").json == {
        "dry_run": True, "total": 2, "executions": [first, second],
    }  # fmt: skip
    assert {row.status for row in rows(file, WorkflowExecution) if row.workflow == "broken"} == {"failed"}

    only = run("executions", "retry", "--entity", "assessment", "--entity-id", "a-2", "--yes")
    assert only.out == "1 execution queued again\n"
    assert run("executions", "retry", "--all", "--yes", "--json").json == {"retried": [first], "refused": {}}
    assert run("executions", "retry", "--all", "--yes").out == "0 executions queued again\n"


def test_executions_are_cancelled_by_what_they_are_and_cancelled_ones_are_not_retried(file: Path) -> None:
    waiting, _, _ = two_broken(file)
    assert run("executions", "cancel", "--phase", "queued", "--yes").out == "0 executions cancelled\n"
    assert run("executions", "cancel", "--phase", "waiting", "--yes").out == "1 execution cancelled\n"
    assert run("executions", "retry", "--entity", "policy", "--dry-run", "--json").json["total"] == 0
    assert {row.id for row in rows(file, WorkflowExecution) if row.phase == "cancelled"} == {waiting}


def test_nobody_is_asked_where_nobody_answers(file: Path) -> None:
    two_broken(file)
    ran = run("executions", "retry", "--workflow", "broken")
    assert ran.code == 2
    assert "retry 2 executions (workflow broken): say --yes" in ran.err
    assert {row.status for row in rows(file, WorkflowExecution) if row.workflow == "broken"} == {"failed"}


def test_executions_are_retried_with_the_definition_of_today(file: Path) -> None:
    _, first, second = two_broken(file)
    [before] = {row.definition_id for row in rows(file, WorkflowExecution) if row.workflow == "broken"}
    file.write_text(FILE.replace('title = "{{ data.new.title }}"', 'title = "mended"'))
    assert run("executions", "retry", first, "--current-definition", "--as", "ann").code == 0
    assert run("executions", "retry", second).code == 0
    definitions = {row.id: row.definition_id for row in rows(file, WorkflowExecution)}
    assert definitions[second] == before != definitions[first]
    told = {row.details["execution_id"]: row for row in rows(file, AuditLog) if row.action == "execution_retried"}
    assert "instead_of" not in told[second].details
    assert told[first].user_id == "ann"
    assert (told[first].details["definition_id"], told[first].details["instead_of"]) == (definitions[first], before)


def test_a_definition_that_is_wrong_in_the_file_can_not_be_gone_on_with(file: Path) -> None:
    _, first, _ = two_broken(file)
    file.write_text(FILE.replace("title = ", "titel = "))
    ran = run("executions", "retry", first, "--current-definition")
    assert ran.code == 2
    assert "did you mean 'title'?" in ran.err
    assert run("executions", "retry", first).code == 0  # as it began


# While somebody is changing the file


def test_a_mistake_in_the_file_keeps_nobody_from_looking_and_cancelling(file: Path) -> None:
    waiting, failed, _ = two_broken(file)
    file.write_text(FILE.replace("title = ", "titel = ").replace("stages = ", "stagse = "))
    ran = run("executions", "list", "--json")
    assert (ran.code, ran.json["total"]) == (0, 3)
    [told] = ran.err.splitlines()
    assert told.startswith("warning: pipeline.toml has ")
    assert told.endswith("problems: 'pipeline check pipeline.toml' shows what is wrong")
    assert run("executions", "show", waiting).code == 0
    assert run("executions", "retry", failed).code == 0
    assert run("approvals", "list").out.endswith("1 approval\n")
    assert run("tasks", "list").code == 0
    assert run("queues").code == 0
    assert run("executions", "cancel", waiting).out == "1 execution cancelled\n"


def test_what_needs_the_definitions_says_what_is_wrong_with_them(file: Path) -> None:
    [waiting] = trigger(file, created())
    file.write_text(FILE.replace("approvers", "aprovers"))
    ran = run("approvals", "grant", waiting, "--as", "ciso")
    assert ran.code == 2
    assert "action 'approval' has no option 'aprovers'" in ran.err
    file.write_text(FILE + '[stage.other]\nuse = "lgo"\n')
    assert run("approvals", "grant", waiting, "--as", "ciso").code == 0


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("[pipeline]\nnmae = 'x'\n", "pipeline.nmae: unknown key 'nmae'; did you mean 'name'?"),
        ("[database]\nurl = 'mysql://h/db'\n", "database.url"),
        ("[databse]\nurl = 'sqlite:///x.db'\n", "unknown table 'databse'; did you mean 'database'?"),
        ("[stage\n", "no valid TOML"),
    ],
)
def test_whose_database_it_is_must_be_right(file: Path, mistake: str, words: str) -> None:
    file.write_text(mistake + FILE)
    ran = run("executions", "list")
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err


def test_a_broken_local_handler_keeps_nobody_from_looking(file: Path) -> None:
    trigger(file, created())
    file.write_text('[pipeline]\nhandlers = ["mine.py"]\n' + FILE)
    ran = run("executions", "list")
    assert (ran.code, ran.out.splitlines()[-1]) == (0, "1 execution")
    assert "has 1 problem" in ran.err
    file.with_name("mine.py").write_text("import nothing_of_this_name\n")
    assert "has 1 problem" in run("executions", "list").err


# Tasks and notifications


def test_tasks_are_listed_and_done(file: Path) -> None:
    trigger(file, created(), created("evidence", "e-7", "e-2"))
    listed = run("tasks", "list", "--json").json
    assert [(one["title"], one["entity_type"], one["status"]) for one in listed["tasks"]] == [
        ("Check e-7", "evidence", "open"), ("Read p-1", "policy", "open"),
    ]  # fmt: skip
    number = str(listed["tasks"][0]["id"])
    assert run("tasks", "done", number, "--as", "ann").out == "1 task done\n"
    assert run("tasks", "done", number, "--json").json == {"done": [], "done_before": [int(number)], "refused": {}}
    assert run("tasks", "list", "--entity", "evidence").out == "0 tasks\n"
    assert "Check e-7" in run("tasks", "list", "--status", "done").out
    assert run("tasks", "list", "--status", "all", "-n", "1").out.endswith("1 of 2 tasks\n")
    [told] = [row for row in rows(file, AuditLog) if row.action == "task_done"]
    assert (told.user_id, told.entity_id, told.details["task_id"]) == ("ann", "e-7", int(number))


def test_notifications_are_listed_and_read(file: Path) -> None:
    notify = '{ use = "notify", to = ["ann", "bob"], message = "look" }'
    file.write_text(FILE.replace('{ use = "create_task", title = "Check {{ data.entity_id }}" }', notify))
    [execution] = trigger(file, created("evidence", "e-7"))
    listed = run("notifications", "list", "--to", "ann", "--execution", execution, "--json").json
    [(number, message)] = [(one["id"], one["message"]) for one in listed["notifications"]]
    assert message == "look"
    assert run("notifications", "read", str(number)).out == "1 notification read\n"
    assert [line.split()[3] for line in run("notifications", "list").out.splitlines()[1:-1]] == ["bob"]
    ran = run("notifications", "read", str(number), "99")
    assert (ran.code, ran.out) == (2, "0 notifications read, 1 had been before\n")
    assert "there is no notification 99: 'pipeline notifications list' shows them" in ran.err


# Mistakes


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("executions", "show", "x"), "there is no execution 'x': 'pipeline executions list' shows them"),
        (("executions", "list", "--status", "done"), "no execution's status is 'done'"),
        (("executions", "retry", "x"), "no execution 'x'"),
        (("executions", "cancel", "x"), "no execution 'x'"),
        (("approvals", "list", "--status", "pending"), "no approval is 'pending'"),
        (("approvals", "grant", "x", "--as", "ciso"), "there is no approval, and no execution, 'x'"),
        (("executions", "list", "--workflow", "brokn"), "there is no workflow 'brokn'; did you mean 'broken'?"),
        (("executions", "list", "--entity", "polisy"), "there is no entity 'polisy'; did you mean 'policy'?"),
        (("executions", "retry", "--workflow", "brokn", "--yes"), "there is no workflow 'brokn'"),
        (("executions", "cancel", "--workflow", "brokn", "--dry-run"), "there is no workflow 'brokn'"),
        (("approvals", "list", "--workflow", "brokn"), "there is no workflow 'brokn'"),
        (("tasks", "list", "--entity", "polisy"), "there is no entity 'polisy'"),
        (("approvals", "grant", "x/0/0", "--as", "ciso"), "no approval 'x/0/0'"),
        (("approvals", "grant", "x"), "--as"),
        (("executions", "retry"), "name the executions to retry, or choose them: --workflow, --entity, --since"),
        (("executions", "cancel", "x", "--all"), "name executions, or choose them by --all: not both"),
        (("executions", "retry", "--all", "--workflow", "w"), "--all and --workflow contradict each other"),
        (("executions", "retry", "--status", "completed"), "only failed executions can be retried"),
        (("executions", "cancel", "--status", "failed"), "only executions that are in_progress can be cancelled"),
        (("tasks", "list", "--status", "closed"), "no task's status is 'closed'; it is one of open, done"),
        (("tasks", "done", "7"), "there is no task 7"),
        (("notifications", "list", "--channel", "sms"), "no notification's channel is 'sms'"),
    ],
)
def test_mistakes_are_named_with_exit_code_2(file: Path, command: tuple[str, ...], words: str) -> None:
    ran: Ran = run(*command)
    assert ran.code == 2
    assert words in ran.err
    assert "Traceback" not in ran.err


def test_who_may_not_decide_is_told_so(file: Path) -> None:
    [id_] = trigger(file, created())
    ran = run("approvals", "grant", id_, "--as", "eve")
    assert ran.code == 2
    assert "'eve' is not entitled to decide on" in ran.err


def test_a_stage_that_the_file_does_not_have_is_named(file: Path) -> None:
    [id_] = trigger(file, created())
    text = file.read_text().replace("[stage.governance", "[stage.other").replace('["governance"]', '["other"]')
    file.write_text(text + '\n[stage.other]\nuse = "governance"\n')
    ran = run("approvals", "grant", id_, "--as", "ciso")
    assert ran.code == 2
    assert "the stage 'governance'" in ran.err
