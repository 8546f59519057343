"""Governance from end to end on real servers: an event becomes an execution, and a decision finishes it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from tests.integration.rig.database import Books
from tests.integration.rig.governance import decision_event, entity_event, governance_pipeline, statuses
from tests.integration.rig.runner import Runner, until
from tests.integration.rig.site import Site
from tests.integration.rig.webhooks import receiver
from tests.integration.rig.workflows import Seen, Workflows

ONBOARDING = """
[[stage.governance.workflow]]
name = "onboarding"
entity = "policy"
trigger = "on_create"
when = "data.new.risk == 'high'"
queue = "governance:policy"
actions = [
  { use = "approval", approvers = ["ciso", "cto"], mode = "any", timeout = "7d" },
  { use = "change_status", to = "published" },
  { use = "notify", channel = "in_app", to = "owner", message = "{{ data.entity_id }} is published" },
  { use = "create_task", title = "Announce {{ data.entity_id }}", assignee = "comms" },
]
"""
UNTIL_IT_WAITS = ["execution_queued", "execution_running", "approval_opened", "action_waiting", "execution_waiting"]
ONCE_IT_IS_GRANTED = [
    "approval_decision", "approval_granted", "action_completed", "execution_queued",
    "execution_running", "action_completed", "action_completed", "action_completed", "execution_completed",
]  # fmt: skip
NEW = {"status": "draft", "risk": "high", "owner": "bob"}


@pytest.fixture
async def governed(site: Site, redis_url: str) -> AsyncIterator[Site]:
    """The site with a queue."""
    made = replace(site, redis_url=redis_url)
    try:
        yield made
    finally:
        made.close()


async def until_execution(books: Books, *runners: Runner, **wanted: Any) -> dict[str, Any]:
    """The one execution, once it is as wanted."""
    found: list[dict[str, Any]] = []

    async def is_so() -> bool:
        found[:] = [dict(row) for row in await books.rows("SELECT * FROM workflow_executions")]
        return len(found) == 1 and all(found[0][name] == value for name, value in wanted.items())

    await until(is_so, 20, f"the execution to be {wanted}", *runners)
    return found[0]


@pytest.mark.parametrize("workers", ["in the runner", "of their own", "without a queue"])
async def test_a_policy_is_created_approved_and_published_and_each_step_is_audited(
    governed: Site, workers: str
) -> None:
    site = governed if workers != "without a queue" else replace(governed, redis_url="")
    text = governance_pipeline(site, ONBOARDING)
    await site.lay_out(text if site.redis_url else text.replace(f'[jobs]\nprefix = "{site.stream}"\n', ""))
    async with site.by_amqp() as amqp, site.books() as books:
        apart = workers == "of their own"
        runners = [site.run("--no-worker"), site.worker()] if apart else [site.run()]
        await amqp.publish([entity_event("created-1", "created", "p-1", new=NEW)])
        waiting = await until_execution(books, *runners, phase="waiting")
        assert await books.rows("SELECT * FROM jobs WHERE due_at <= now()") == []

        await amqp.publish([decision_event("grant-1", waiting["id"], "ciso", comment="go")])
        done = await until_execution(books, *runners, status="completed", phase=None)
        await site.until_processed(books, 3, 20, *runners)  # the change of the status is an event, too
        for runner in runners:
            await runner.stop()

        [entity] = await books.rows("SELECT * FROM entities")
        assert (entity["entity_id"], entity["status"], json.loads(entity["data"])["risk"]) == (
            "p-1",
            "published",
            "high",
        )
        [task] = await books.rows("SELECT * FROM tasks")
        assert (task["title"], task["assignee"], task["execution_id"]) == ("Announce p-1", "comms", done["id"])
        [note] = await books.rows("SELECT * FROM notifications")
        assert (note["recipient"], note["message"], note["status"]) == ("bob", "p-1 is published", "unread")
        [approval] = await books.rows("SELECT * FROM approvals")
        assert approval["status"] == "granted"
        actions = await books.rows("SELECT action, status, attempts FROM workflow_actions ORDER BY position")
        assert [tuple(row) for row in actions] == [
            (name, "completed", 1) for name in ("approval", "change_status", "notify", "create_task")
        ]
        audited = [row["action"] for row in await books.rows("SELECT action FROM audit_logs ORDER BY id")]
        events = {"governance.policy.created", "governance.approval.granted", "governance.policy.status_changed"}
        assert events <= set(audited)
        assert [action for action in audited if action not in events] == [*UNTIL_IT_WAITS, *ONCE_IT_IS_GRANTED]
        assert await books.outcomes() == {"handled": 3}


async def test_the_same_event_again_makes_no_second_execution(governed: Site) -> None:
    text = governance_pipeline(governed, ONBOARDING).replace('group = "governance"', 'group = "g"\ndedupe = false')
    await governed.lay_out(text)
    async with governed.by_amqp() as amqp, governed.books() as books:
        runner = governed.run()
        await amqp.publish([entity_event("created-1", "created", "p-1", new=NEW)] * 3)
        await governed.until_processed(books, 3, 20, runner)
        await until_execution(books, runner, phase="waiting")
        await runner.stop()
        assert await statuses(books) == {"in_progress": 1}
        assert len(await books.rows("SELECT * FROM approvals")) == 1


COMBINED = """
[stage.workflow-control]
when = "has(data.workflow_id)"
signal_args = ["id"]
signals = { "governance.policy.status_changed" = "pause" }

[[stage.governance.workflow]]
name = "suspension"
entity = "policy"
trigger = "on_status_change"
to = "suspended"
actions = [{ use = "create_task", title = "Look into {{ data.entity_id }}", assignee = "audit" }]

[[stage.audit.row]]
match = "governance.policy.*"
action = "'policy_' + data.new.status"
entity_type = "data.entity_type"
entity_id = "data.entity_id"
user_id = "data.actor_id"
"""


async def test_one_route_controls_a_workflow_governs_its_policy_and_audits_both(
    governed: Site, workflows: Callable[[int], Awaitable[Workflows]]
) -> None:
    running = await workflows(1)
    [workflow_id] = running.ids
    stages = '"workflow-control", "governance"'
    await governed.lay_out(governance_pipeline(governed, COMBINED, stages=stages))
    async with governed.by_amqp() as amqp, governed.books() as books:
        runner = governed.run()
        change = {"old": {"status": "active"}, "new": {"status": "suspended"}, "workflow_id": workflow_id}
        await amqp.publish([entity_event("suspended-1", "status_changed", "p-1", **change)])
        await until_execution(books, runner, status="completed")
        await runner.stop()
        assert await running.histories() == {workflow_id: [Seen("pause", "suspended-1")]}
        [task] = await books.rows("SELECT title FROM tasks")
        assert task["title"] == "Look into p-1"
        [row] = await books.rows("SELECT * FROM audit_logs WHERE action = 'policy_suspended'")
        assert (row["entity_id"], row["user_id"], row["outcome"]) == ("p-1", "ann", "handled")


HOOK = """
[jobs.queue."governance:policy"]
retry = {{ attempts = 6, backoff = "100ms" }}

[stage.governance.webhook]
allow = ["127.0.0.1"]
allow_http = true

[[stage.governance.workflow]]
name = "hooked"
entity = "policy"
trigger = "on_create"
actions = [
  {{ use = "create_task", title = "Before", assignee = "a" }},
  {{ use = "notify", channel = "webhook", to = "{url}", message = "hello" }},
  {{ use = "create_task", title = "After", assignee = "a" }},
]
"""


async def test_an_action_that_fails_five_times_and_then_succeeds_was_tried_after_two_four_eight_sixteen_and_thirty_two(
    governed: Site,
) -> None:
    """Scaled by 1/20: 100 ms for the 2 s that a queue waits first."""
    async with receiver() as hook, governed.by_amqp() as amqp, governed.books() as books:
        hook.refusals = 5
        await governed.lay_out(governance_pipeline(governed, HOOK.format(url=hook.url)))
        runner = governed.run()
        await amqp.publish([entity_event("created-1", "created", "p-1")])
        done = await until_execution(books, runner, status="completed")
        await runner.stop()
        assert hook.keys == {f"{done['id']}/1": 1}
        actions = await books.rows("SELECT attempts, failures, history FROM workflow_actions ORDER BY position")
        assert [(row["attempts"], row["failures"]) for row in actions] == [(1, 0), (6, 5), (1, 0)]
        tries = [row["started_at"] for row in await books.rows("SELECT started_at FROM job_runs ORDER BY id")]
        waits = [(later - earlier).total_seconds() for earlier, later in pairwise(tries)]
        assert len(waits) == 5
        assert all(wait >= wanted for wait, wanted in zip(waits, (0.1, 0.2, 0.4, 0.8, 1.6), strict=True)), waits
        assert [row["title"] for row in await books.rows("SELECT title FROM tasks ORDER BY id")] == ["Before", "After"]


async def test_an_execution_that_fails_six_times_is_failed_with_its_history_and_retry_finishes_it(
    governed: Site,
) -> None:
    async with receiver() as hook, governed.by_amqp() as amqp, governed.books() as books:
        hook.refusals = 6
        text = governance_pipeline(governed, HOOK.format(url=hook.url)).replace('"100ms"', '"10ms"')
        await governed.lay_out(text)
        runner = governed.run()
        await amqp.publish([entity_event("created-1", "created", "p-1")])
        failed = await until_execution(books, runner, status="failed")
        [row] = await books.rows("SELECT * FROM workflow_actions WHERE position = 1")
        assert (row["status"], row["failures"], len(json.loads(row["history"]))) == ("failed", 6, 6)
        assert "503" in failed["error"]

        code, _ = await governed.command("executions", "retry", failed["id"], "--config", str(governed.file))
        assert code == 0
        await until_execution(books, runner, status="completed")
        await runner.stop()
        assert hook.keys == {f"{failed['id']}/1": 1}
        assert [row["title"] for row in await books.rows("SELECT title FROM tasks ORDER BY id")] == ["Before", "After"]
