"""`change_status`, `create_task` and `assign`: what they leave in SQL, once, and what they refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline import Reject
from pipeline.jobs.contract import NewJob
from pipeline_handlers.governance.contract import EntityView
from tests.handlers.governance.actions.books import Books, opened
from tests.handlers.governance.actions.steps import CAUSE, EXECUTION, NOW, action, step, values

POLICY = EntityView("policy", "p-1", "draft", 3, {"status": "draft", "owner": "bob"})


async def test_a_status_is_changed_in_the_record_and_told_to_others(books: Books) -> None:
    await books.know(POLICY)
    made = step(entity=POLICY)
    result = await action("change_status", to="published").run(made)
    await books.write(made)
    [row] = await books.rows("SELECT status, version, data, changed_at, event_id FROM entities")
    assert (row["status"], row["version"], row["changed_at"]) == ("published", 4, 1)
    assert row["event_id"] == f"{EXECUTION}/1"  # its own event changes nothing more when it comes back
    assert json.loads(row["data"]) == {"status": "published", "owner": "bob"}
    [(stream, message)] = made.messages
    assert (stream, message.routing_key, message.id) == (
        "stream.governance", "governance.policy.status_changed", f"{EXECUTION}/1",
    )  # fmt: skip
    assert json.loads(message.body) == {
        "entity_type": "policy",
        "entity_id": "p-1",
        "actor_id": "workflow:review",
        "old": {"status": "draft"},
        "new": {"status": "published"},
        "causation": [CAUSE],
    }
    assert result == {"from": "draft", "to": "published", "changed": True, "event_id": f"{EXECUTION}/1"}


async def test_a_change_of_what_came_from_no_stream_is_told_to_nobody_and_the_result_says_so() -> None:
    made = step(entity=POLICY)
    made.stream = ""
    result = await action("change_status", to="published").run(made)
    assert isinstance(result, dict)
    assert (result["changed"], result["reason"]) == (
        True, "no event tells of it: the workflow's own came from no stream",
    )  # fmt: skip
    assert made.messages == []


def test_a_job_that_an_action_leaves_is_its_own_stages() -> None:
    made = step()
    made.enqueue(NewJob("mine", "q"))
    made.enqueue(NewJob("theirs", "q", stage="other"))
    assert [job.stage for job in made.jobs] == [made.stage, "other"]


async def test_a_status_that_it_has_already_is_left_alone() -> None:
    made = step(entity=POLICY)
    result = await action("change_status", to="{{ entity.status }}").run(made)
    assert isinstance(result, dict)
    assert result["changed"] is False
    assert (made.statements, made.messages) == ([], [])


async def test_the_status_may_be_another_field() -> None:
    made = step(entity=EntityView("policy", "p-1", "a", 1, {"state": "a"}), settings={"status_field": "state"})
    await action("change_status", to="b").run(made)
    data = json.loads(made.messages[0][1].body)
    assert (data["old"], data["new"]) == ({"state": "a"}, {"state": "b"})


async def test_a_guard_fails_or_skips_what_has_another_status() -> None:
    guarded = action("change_status", to="published", **{"from": ["in_review", "approved"]})
    with pytest.raises(Reject, match="the status is 'draft', not 'in_review' or 'approved'") as refused:
        await guarded.run(step(entity=POLICY))
    assert refused.value.kind == "other_status"
    made = step(entity=POLICY)
    result = await action("change_status", to="published", otherwise="skip", **{"from": "in_review"}).run(made)
    assert isinstance(result, dict)
    assert result["changed"] is False
    assert made.messages == []
    made = step(entity=POLICY)
    await action("change_status", to="published", **{"from": "draft"}).run(made)
    assert len(made.messages) == 1


@pytest.mark.parametrize("use", ["change_status", "assign"])
@pytest.mark.parametrize(
    ("entity", "kind"),
    [(replace(POLICY, deleted=True), "deleted_entity"), (EntityView("policy", "p-2"), "unknown_entity")],
)
async def test_an_entity_that_is_deleted_or_unknown_is_not_changed(use: str, entity: EntityView, kind: str) -> None:
    with pytest.raises(Reject) as refused:
        await action(use, to="x").run(step(entity=entity))
    assert refused.value.kind == kind


@pytest.mark.parametrize(("new", "words"), [({}, "is empty"), ({"x": "y" * 301}, "is too long")])
async def test_a_status_must_be_a_short_text(new: dict[str, str], words: str) -> None:
    with pytest.raises(Reject, match=words):
        await action("change_status", to="{{ data.new.x }}").run(step(data=new))


async def test_a_task_is_there_once_however_often_its_step_is_written(books: Books) -> None:
    task = action(
        "create_task", title="Announce {{ data.entity_id }}", description="By {{ data.actor_id }}", assignee="owner",
        priority="high", due="3d",
    )  # fmt: skip
    for _ in range(2):
        made = step()
        result = await task.run(made)
        await books.write(made)
    [row] = await books.rows("SELECT * FROM tasks")
    wanted = {
        "key": f"{EXECUTION}/1", "execution_id": EXECUTION, "entity_type": "policy", "entity_id": "p-1",
        "title": "Announce p-1", "description": "By ann", "assignee": "bob", "priority": "high", "status": "open",
    }  # fmt: skip
    assert {name: row[name] for name in wanted} == wanted
    assert values(made)[0]["due_at"] == NOW + timedelta(days=3)
    assert result == {"key": f"{EXECUTION}/1", "assignee": "bob", "due_at": "2026-02-03T12:00:00+00:00"}


async def test_texts_are_cleaned_and_bounded(books: Books) -> None:
    made = step(data={"x": "a\0\ud800\r\n\tBcc: c", "long": "z" * 30_000})
    await action("create_task", title="{{ data.new.x }}", description="{{ data.new.x }}").run(made)
    assert (values(made)[0]["title"], values(made)[0]["description"]) == (
        "a Bcc: c", "a\\u0000\\ud800\r\n\tBcc: c",
    )  # fmt: skip
    await books.write(made)
    made = step(data={"long": "z" * 30_000})
    await action("create_task", title="{{ data.new.long }}", description="{{ data.new.long }}").run(made)
    assert values(made)[0]["title"] == "z" * 499 + "…"
    assert values(made)[0]["description"] == "z" * 19_999 + "…"


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"title": "{{ data.new.missing }}"}, "no_title"),
        ({"title": "x", "assignee": "{{ data.new.missing }}"}, "nobody"),
        ({"title": "x", "assignee": "ann, bob"}, "nobody"),
    ],
)
async def test_a_task_without_title_or_with_an_unclear_assignee_is_refused(options: dict[str, str], kind: str) -> None:
    with pytest.raises(Reject) as refused:
        await action("create_task", **options).run(step())
    assert refused.value.kind == kind


async def a_new_assignment_ends_the_one_before(books: Books) -> None:
    await books.know(POLICY)
    first, other, second = (step(entity=POLICY, position=at, now=NOW + timedelta(minutes=at)) for at in range(3))
    await action("assign", to="ann").run(first)
    await action("assign", to="eve", role="reviewer").run(other)
    await action("assign", to="kim").run(second)
    await books.write(first, other)
    await books.write(second)
    await books.write(second)  # what was committed, but not known to be
    rows = await books.rows("SELECT role, assignee, ended_at FROM assignments ORDER BY id")
    assert [(row["role"], row["assignee"], row["ended_at"] is None) for row in rows] == [
        ("owner", "ann", False), ("reviewer", "eve", True), ("owner", "kim", True),
    ]  # fmt: skip


async def test_a_new_assignment_ends_the_one_before_in_its_role_only(books: Books) -> None:
    await a_new_assignment_ends_the_one_before(books)


async def test_every_effect_is_taken_by_postgresql_too(postgres: str) -> None:
    async with opened(postgres.replace("postgresql://", "postgresql+asyncpg://")) as books:
        await a_new_assignment_ends_the_one_before(books)
        made = step(entity=POLICY, data={"x": "a\0\ud800"}, position=7)
        for use, options in (
            ("approval", {"approvers": "ann\0", "timeout": "1d"}),
            ("change_status", {"to": "{{ data.new.x }}"}),
            ("create_task", {"title": "{{ data.new.x }}", "description": "{{ data.new.x }}", "due": "1d"}),
            ("notify", {"to": ["ann", "{{ data.new.x }}"], "message": "{{ data.new.x }}"}),
        ):
            await action(use, **options).run(made)
        await books.write(made)
        await books.write(made)
        for table, number in (("approvals", 1), ("tasks", 1), ("notifications", 2)):
            assert len(await books.rows(f"SELECT * FROM {table}")) == number


async def test_of_assignments_that_one_transaction_writes_only_the_last_holds(books: Books) -> None:
    await books.know(POLICY)
    steps = [step(entity=POLICY, position=at) for at in range(3)]
    for at, made in enumerate(steps):
        await action("assign", to=f"person-{at}").run(made)
    await books.write(*steps)
    assert await books.rows("SELECT assignee FROM assignments WHERE ended_at IS NULL") == [{"assignee": "person-2"}]


async def test_the_record_names_who_is_assigned(books: Books) -> None:
    await books.know(POLICY)
    made = step(entity=POLICY)
    assert await action("assign", to="{{ data.actor_id }}").run(made) == {
        "role": "owner", "assignee": "ann", "before": "bob",
    }  # fmt: skip
    await books.write(made)
    [row] = await books.rows("SELECT version, data, event_id FROM entities")
    assert row["event_id"] == "event-0"
    assert (row["version"], json.loads(row["data"])) == (4, {"status": "draft", "owner": "ann"})
    assert made.messages == []
    made = step(entity=POLICY)
    await action("assign", to="bob").run(made)
    await books.write(made)
    assert [row["version"] for row in await books.rows("SELECT version FROM entities")] == [4]


async def test_the_status_is_no_role() -> None:
    with pytest.raises(Reject, match="is the field of the status"):
        await action("assign", to="x", role="status").run(step())


@pytest.mark.parametrize(
    ("use", "options", "words"),
    [
        ("change_status", {}, "to"),
        ("change_status", {"to": "x", "otherwise": "wait"}, "'fail' or 'skip'"),
        ("change_status", {"to": "{{ data. }}"}, "syntax error"),
        ("change_status", {"to": "{{ entty.status }}"}, "did you mean 'entity'"),
        ("create_task", {"title": "x", "due": "soon"}, "is not a duration"),
        ("create_task", {"title": "x", "priority": "huge"}, "'urgent'"),
        ("assign", {"to": "x", "role": "a b"}, "pattern"),
        ("assign", {"to": "x", "roles": "a"}, "Extra inputs"),
    ],
)
def test_wrong_options_are_told(use: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        action(use, **options)
