"""The engine: what becomes of executions whose actions succeed, fail, take their time, or can't be written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from pipeline import Reject, Retry, Unavailable
from pipeline.ledger.job_tables import JobRow, JobRun
from pipeline_handlers.governance.contract import Step
from pipeline_handlers.governance.tables import Entity, Notification, Task
from tests.handlers.governance.engine_rig import Rig, note, rig_on

Make = Callable[..., Awaitable[Rig]]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    async with AsyncExitStack() as stack:

        async def rig(*actions: dict[str, Any], **queue: Any) -> Rig:
            return await stack.enter_async_context(rig_on(f"sqlite:///{tmp_path}/test.db", actions, **queue))

        yield rig


def leave(what: str = "it") -> dict[str, Any]:
    return {"use": "leave", "what": what}


def call(what: str = "call", **keys: Any) -> dict[str, Any]:
    return {"use": "call", "what": what, **keys}


async def test_a_batch_of_sql_actions_is_completed_in_one_commit_with_its_effects_and_audit_rows(make: Make) -> None:
    rig = await make(leave("one"), {"use": "create_task", "title": "Look at {{ entity.id }}"})
    ids = await rig.trigger(30)
    await rig.run()
    assert {await rig.state(id_) for id_ in ids} == {("completed", None)}
    for id_ in ids:
        assert await rig.audited(id_) == [
            "execution_queued", "execution_running", "action_completed", "action_completed", "execution_completed",
        ]  # fmt: skip
    [first, second] = await rig.actions(ids[0])
    assert (first.action, first.status, first.attempts, first.failures) == ("leave", "completed", 1, 0)
    assert (second.action, second.status, second.position) == ("create_task", "completed", 1)
    assert sorted(task.title for task in await rig.rows(Task))[0] == "Look at p-1"
    assert len(await rig.rows(Notification)) == 30
    assert await rig.rows(JobRow) == []
    assert [run.state for run in await rig.rows(JobRun)] == ["completed"] * 30
    execution = await rig.execution(ids[0])
    assert (execution.position, execution.error) == (2, None)
    assert execution.started_at is not None
    assert execution.completed_at is not None


async def test_an_external_action_is_seen_running_before_it_ends(make: Make) -> None:
    rig = await make(leave("before"), call(), leave("after"))
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow(step: Step) -> dict[str, str]:
        begun.set()
        await go.wait()
        return {"key": step.key}

    rig.script.plan("call", slow)
    [id_] = await rig.trigger()
    running = asyncio.create_task(rig.run())
    await begun.wait()
    assert await rig.state(id_) == ("in_progress", "running")
    assert [(row.action, row.status) for row in await rig.actions(id_)] == [("leave", "completed"), ("call", "running")]
    go.set()
    await running
    assert await rig.state(id_) == ("completed", None)
    assert [row.result for row in await rig.actions(id_)] == [None, {"key": f"{id_}/1"}, None]
    assert await rig.audited(id_, "action") == ["action_completed", "action_running", "action_completed",
                                                "action_completed"]  # fmt: skip


async def test_a_slow_action_holds_no_other_execution_back(make: Make) -> None:
    rig = await make(call(), leave("after"))
    go = asyncio.Event()

    async def slow(step: Step) -> None:
        await go.wait()

    rig.script.plan("call", slow)
    ids = await rig.trigger(5)
    running = asyncio.create_task(rig.run())
    async with asyncio.timeout(10):
        while len([id_ for id_ in ids if await rig.state(id_) == ("completed", None)]) < 4:
            await asyncio.sleep(0.01)
    assert not running.done()
    go.set()
    await running
    assert {await rig.state(id_) for id_ in ids} == {("completed", None)}


async def test_an_action_that_fails_five_times_is_tried_after_2_4_8_16_32_seconds_and_what_is_done_stays_done(
    make: Make,
) -> None:
    rig = await make(leave("before"), leave("flaky"), leave("after"))
    rig.script.plan("flaky", *[RuntimeError(f"no {number}") for number in range(1, 6)])
    [id_] = await rig.trigger()
    await rig.run()
    assert await rig.state(id_) == ("in_progress", "backing_off")
    assert [await rig.until_next_job() for _ in range(5)] == [2, 4, 8, 16, 32]
    assert await rig.state(id_) == ("completed", None)
    assert [rig.script.tried(what) for what in ("before", "flaky", "after")] == [1, 6, 1]
    assert sorted(row.message for row in await rig.rows(Notification)) == ["after", "before", "flaky"]
    flaky = (await rig.actions(id_))[1]
    assert (flaky.attempts, flaky.failures, flaky.error) == (6, 5, None)
    assert [(entry["attempt"], entry["error"]) for entry in flaky.history] == [
        (number, f"RuntimeError: no {number}") for number in range(1, 6)
    ]
    assert (await rig.execution(id_)).error is None
    assert await rig.audited(id_, "execution_backing") == ["execution_backing_off"] * 5


async def test_an_external_action_fails_and_is_retried_with_the_same_key(make: Make) -> None:
    rig = await make(call())
    rig.script.plan("call", OSError("reset"), OSError("reset"))
    [id_] = await rig.trigger()
    await rig.run()
    assert [await rig.until_next_job() for _ in range(2)] == [2, 4]
    assert await rig.state(id_) == ("completed", None)
    assert {step.key for _, step in rig.script.tries} == {f"{id_}/0"}
    assert [step.attempt for _, step in rig.script.tries] == [1, 2, 3]


async def test_the_sixth_failure_ends_an_execution_with_its_history_and_a_retry_finishes_it(make: Make) -> None:
    rig = await make(leave("before"), leave("flaky"), leave("after"))
    rig.script.plan("flaky", *[RuntimeError("no")] * 6)
    [id_] = await rig.trigger()
    await rig.run()
    for _ in range(5):
        await rig.until_next_job()
    assert await rig.state(id_) == ("failed", None)
    assert (await rig.execution(id_)).error == "RuntimeError: no"
    flaky = (await rig.actions(id_))[1]
    assert (flaky.status, flaky.attempts, flaky.failures, len(flaky.history)) == ("failed", 6, 6, 6)
    assert await rig.rows(JobRow) == []

    await rig.executions.retry(id_, actor="ann")
    assert await rig.state(id_) == ("in_progress", "queued")
    await rig.run()
    assert await rig.state(id_) == ("completed", None)
    flaky = (await rig.actions(id_))[1]
    assert (flaky.status, flaky.round, flaky.attempts, flaky.failures) == ("completed", 1, 7, 0)
    assert rig.script.tried("before") == 1
    assert "execution_retried" in await rig.audited(id_)


async def test_one_execution_that_fails_leaves_its_batch_and_holds_none_of_the_others_back(make: Make) -> None:
    rig = await make(leave("one"), leave("two"))
    rig.script.plan("two", RuntimeError("no"))
    ids = await rig.trigger(10)
    await rig.run()
    states = [await rig.state(id_) for id_ in ids]
    assert states.count(("completed", None)) == 9
    assert states.count(("in_progress", "backing_off")) == 1


async def test_a_rejected_action_fails_its_execution_at_once(make: Make) -> None:
    rig = await make(leave("one"))
    rig.script.plan("one", Reject("never"))
    [id_] = await rig.trigger()
    await rig.run()
    assert await rig.state(id_) == ("failed", None)
    assert (await rig.execution(id_)).error == "never"
    assert await rig.rows(Notification) == []


async def test_an_action_may_say_when_it_is_to_be_tried_again(make: Make) -> None:
    rig = await make(call())
    rig.script.plan("call", Retry("later", after=77.0))
    [id_] = await rig.trigger()
    await rig.run()
    assert await rig.until_next_job() == 77
    assert await rig.state(id_) == ("completed", None)


async def test_retries_that_an_action_asks_for_are_bounded_too(make: Make) -> None:
    rig = await make(call(), retry={"attempts": 2})
    rig.script.plan("call", *[Retry("later", after=5.0)] * 3)
    [id_] = await rig.trigger()
    await rig.run()
    await rig.until_next_job()
    assert await rig.state(id_) == ("failed", None)


async def test_an_outage_counts_no_failure_and_is_waited_for_longer_each_time_up_to_five_minutes(make: Make) -> None:
    rig = await make(call(), retry={"attempts": 1})
    rig.script.plan("call", *[Unavailable("smtp", "no answer")] * 10)
    [id_] = await rig.trigger()
    await rig.run()
    waits = [await rig.until_next_job() for _ in range(10)]
    assert waits == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    [action] = await rig.actions(id_)
    assert (action.status, action.attempts, action.failures, len(action.history)) == ("completed", 11, 0, 10)


async def test_an_external_action_that_takes_too_long_is_ended_and_has_failed(make: Make) -> None:
    rig = await make(call(timeout_action=0.05), retry={"attempts": 1})
    ended = asyncio.Event()

    async def for_ever(step: Step) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    rig.script.plan("call", for_ever)
    [id_] = await rig.trigger()
    await rig.run()
    assert ended.is_set()
    assert (await rig.execution(id_)).error == "took longer than 0.05 s"


async def test_a_time_out_within_an_action_is_told_in_its_own_words(make: Make) -> None:
    rig = await make(call(), retry={"attempts": 1})
    rig.script.plan("call", TimeoutError("the server gave no answer"))
    [id_] = await rig.trigger()
    await rig.run()
    assert (await rig.execution(id_)).error == "the server gave no answer"


async def test_an_action_that_is_not_external_must_not_wait(make: Make) -> None:
    rig = await make({"use": "waits"}, retry={"attempts": 1})
    [id_] = await rig.trigger()
    await rig.run()
    assert "is_external" in str((await rig.execution(id_)).error)


async def test_what_the_database_refuses_fails_only_the_execution_that_left_it(make: Make) -> None:
    rig = await make(leave("one"), leave("two"), leave("three"))
    ids = await rig.trigger(8)

    def twice(step: Step) -> None:
        if step.execution_id == ids[3]:
            step.add(note(step, "twice", key=f"{step.execution_id}/0"))

    rig.script.plan("two", *[twice] * 100)
    await rig.run()
    states = [await rig.state(id_) for id_ in ids]
    assert states.count(("completed", None)) == 7
    bad = ids[3]
    assert await rig.state(bad) == ("failed", None)
    assert "the database refused" in str((await rig.execution(bad)).error)
    assert [(row.action, row.status) for row in await rig.actions(bad)] == [("leave", "completed"), ("leave", "failed")]
    assert [row.message for row in await rig.rows(Notification) if row.execution_id == bad] == ["one"]
    assert len(await rig.rows(Notification)) == 7 * 3 + 1
    assert await rig.rows(JobRow) == []


async def test_what_the_database_refuses_of_an_external_action_fails_its_execution(make: Make) -> None:
    rig = await make(call("first"), call("second"))
    rig.script.plan("first", lambda step: step.add(note(step, "x", status={"no": "text"})))
    [bad, good] = await rig.trigger(2)
    await rig.run()
    states = {await rig.state(bad), await rig.state(good)}
    assert states == {("failed", None), ("completed", None)}
    assert await rig.rows(Notification) == []


async def test_a_result_or_an_error_that_no_text_column_holds_is_kept_in_words(make: Make) -> None:
    rig = await make(leave("one"), call("two"), retry={"attempts": 1})
    rig.script.plan("one", {"odd": "a\0b", "lone": "\ud800"})
    rig.script.plan("two", RuntimeError("a\0b" + "x" * 5000))
    [id_] = await rig.trigger()
    await rig.run()
    one, two = await rig.actions(id_)
    assert one.result == {"odd": r"a\u0000b", "lone": r"\ud800"}
    assert two.error is not None
    assert two.error.startswith(r"RuntimeError: a\u0000bxxx")
    assert len(two.error) < 2100


async def test_an_action_that_returns_no_mapping_has_failed(make: Make) -> None:
    rig = await make(leave("one"), retry={"attempts": 1})
    rig.script.plan("one", ["a list"])
    [id_] = await rig.trigger()
    await rig.run()
    assert (
        await rig.execution(id_)
    ).error == "TypeError: the action 'leave' returned list, not a mapping, None or WAIT"
    assert await rig.rows(Notification) == []


async def test_an_execution_keeps_the_definition_that_it_started_with(make: Make) -> None:
    rig = await make(leave("old"))
    [id_] = await rig.trigger()
    rig.define([leave("new"), leave("newer")])
    await rig.run()
    assert await rig.state(id_) == ("completed", None)
    assert [row.message for row in await rig.rows(Notification)] == ["old"]


async def test_an_action_that_is_not_installed_any_more_fails_its_executions_and_names_it(make: Make) -> None:
    rig = await make(leave("one"))
    [id_] = await rig.trigger()
    rig.kinds = tuple(kind for kind in rig.kinds if kind.name != "leave")
    rig.define([{"use": "create_task", "title": "x"}])
    await rig.run()
    assert await rig.state(id_) == ("failed", None)
    assert "'leave'" in str((await rig.execution(id_)).error)


async def test_an_execution_whose_workers_died_ten_times_is_given_up(make: Make) -> None:
    rig = await make(call())
    [id_] = await rig.trigger()
    async with rig.database.write() as connection:
        await connection.run_sync(
            lambda sync: sync.execute(JobRow.__table__.update().values(lost=10))  # type: ignore[attr-defined]
        )
    await rig.run()
    await asyncio.gather(*[rig.executor.run("governance:policy", await rig.due()) for _ in range(2)])
    assert (await rig.execution(id_)).error == "its worker was lost 10 times"
    assert rig.script.tries == []


async def test_a_worker_that_stops_gives_its_execution_back_and_the_try_is_remembered(make: Make) -> None:
    rig = await make(call(), leave("after"))
    begun = asyncio.Event()

    async def for_ever(step: Step) -> None:
        begun.set()
        await asyncio.Event().wait()

    rig.script.plan("call", for_ever)
    [id_] = await rig.trigger()
    running = asyncio.create_task(rig.executor.run("governance:policy", await rig.due()))
    await begun.wait()
    assert await rig.state(id_) == ("in_progress", "running")
    await rig.executor.stop(grace=0)
    await asyncio.wait([running])
    assert await rig.state(id_) == ("in_progress", "queued")
    assert [one.phase for one in await rig.executions.list(phase="queued")] == ["queued"]
    assert await rig.executions.list(phase="running") == []
    rig.executor = rig.worker("another")
    await rig.run()
    assert await rig.state(id_) == ("completed", None)
    [called, _] = await rig.actions(id_)
    assert (called.attempts, called.failures) == (2, 0)
    assert [entry["error"] for entry in called.history] == ["its worker was lost or stopped before the try ended"]


async def test_an_action_sees_what_the_one_before_it_did_to_the_entity(make: Make) -> None:
    rig = await make(
        {"use": "change_status", "to": "published"}, {"use": "create_task", "title": "{{ entity.status }}"}
    )  # fmt: skip
    [id_] = await rig.trigger()
    await rig.run()
    assert await rig.state(id_) == ("completed", None)
    [task] = await rig.rows(Task)
    assert task.title == "published"
    [entity] = await rig.rows(Entity)
    assert (entity.status, entity.version) == ("published", 2)


async def test_executions_of_one_batch_about_one_entity_see_each_others_changes(make: Make) -> None:
    rig = await make({"use": "change_status", "to": "{{ data.new.next }}"})
    await rig.trigger(1, entity_id="p-0", new={"status": "draft", "next": "a"})
    await rig.trigger(1, entity_id="p-0", new={"status": "draft", "next": "b"})
    await rig.run()
    [entity] = await rig.rows(Entity)
    assert entity.version == 4  # two events, two changes
    assert entity.status in ("a", "b")


async def test_the_same_job_again_changes_nothing_that_is_done(make: Make) -> None:
    rig = await make(leave("one"))
    [id_] = await rig.trigger()
    await rig.run()
    rig.events = 0
    assert await rig.trigger() == [id_]  # the same event again
    await rig.run()
    assert rig.script.tried("one") == 1
    assert await rig.rows(JobRow) == []
