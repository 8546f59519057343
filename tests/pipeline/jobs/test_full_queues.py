"""A source pauses while a queue that its stages leave jobs on is full, and goes on once there is room again."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import delete, insert
from sqlmodel import col

from pipeline.jobs.full_queues import FullQueues
from pipeline.jobs.outbox import job_values
from pipeline.ledger.database import Database
from pipeline.ledger.job_tables import JobRow
from pipeline.replay.supervising import ReplaySupervisor
from tests.handlers.eventually import eventually
from tests.pipeline.jobs.samples import NOON, PIPELINE, Moment, job


class Window:
    """What is held, and why."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}

    def hold(self, cause: str, reason: str, *, for_room: bool = False) -> None:
        assert for_room, "what is asked for besides the stream's messages would wait, too"
        self.held[cause] = reason

    def release(self, cause: str) -> None:
        del self.held[cause]


async def put(db: Database, names: list[str], queue: str = "queue", pipeline: str = PIPELINE, **fields: Any) -> None:
    values = [job_values(job(name, queue), NOON, pipeline) | fields for name in names]
    async with db.write() as connection:
        await connection.execute(insert(JobRow), values)


async def do(db: Database, *names: str) -> None:
    async with db.write() as connection:
        await connection.execute(delete(JobRow).where(col(JobRow.id).in_(names)))


def looking(db: Database, window: Window, limits: Mapping[str, int], at: Moment | None = None) -> FullQueues:
    return FullQueues(db, PIPELINE, limits, window, at or Moment())


async def test_a_full_queue_holds_the_source_until_a_fifth_of_it_is_free(db: Database) -> None:
    window = Window()
    look = looking(db, window, {"queue": 10}).look
    await put(db, [f"j{n}" for n in range(9)])
    await look()
    assert not window.held
    await put(db, ["j9", "j10"])
    await look()
    assert window.held == {
        "queue queue": "the queue queue is full: max_waiting = 10 jobs wait, its workers are slow or there are none"
    }
    await do(db, "j0", "j1")  # 9 are left: there is room, but not for long
    await look()
    assert window.held
    await do(db, "j2")
    await look()
    assert not window.held


async def test_a_replay_pauses_at_half_of_the_limit_so_that_it_pauses_no_other_source(db: Database) -> None:
    live, replay = Window(), Window()
    await put(db, [f"j{n}" for n in range(5)])
    await looking(db, live, {"queue": 10}).look()
    await FullQueues(
        db, PIPELINE, {"queue": 10, "other": 1}, replay, Moment(), part=ReplaySupervisor.part_of_queues
    ).look()
    assert not live.held
    assert list(replay.held) == ["queue queue"]
    assert "5 of max_waiting = 10 jobs wait" in replay.held["queue queue"]


async def test_each_queue_counts_by_itself_and_only_the_pipelines_own_jobs(db: Database) -> None:
    window = Window()
    await put(db, ["a1", "a2"], "a")
    await put(db, ["b1", "b2"], "b")
    await put(db, ["c1"], "c")
    await put(db, ["c2", "c3"], "c", pipeline="another")
    await looking(db, window, {"a": 2, "b": 3, "c": 2}).look()
    assert list(window.held) == ["queue a"]


async def test_jobs_that_run_or_are_tried_again_wait_and_those_scheduled_for_later_do_not(db: Database) -> None:
    window = Window()
    later = NOON.replace(year=NOON.year + 1)
    await put(db, ["running"], state="running", due_at=later, owner="w")
    await put(db, ["failed before"], due_at=later, failures=1)
    await put(db, ["met an outage"], due_at=later, error="smtp is down")
    await put(db, ["reminder 1", "reminder 2"], due_at=later)
    await looking(db, window, {"queue": 4}).look()
    assert not window.held
    await looking(db, window, {"queue": 3}).look()
    assert window.held


@pytest.mark.parametrize(("took", "rest"), [(0.01, 1.0), (0.5, 10.0)])
async def test_a_look_that_takes_long_is_not_repeated_soon(
    db: Database, monkeypatch: pytest.MonkeyPatch, took: float, rest: float
) -> None:
    ticks = iter([100.0, 100.0 + took])
    monkeypatch.setattr("pipeline.jobs.full_queues.time", SimpleNamespace(monotonic=lambda: next(ticks)))
    assert await looking(db, Window(), {"queue": 1}).look() == pytest.approx(rest)


async def test_it_looks_from_start_to_stop_and_not_at_all_without_limits(db: Database) -> None:
    window, idle = Window(), Window()
    await put(db, ["j"])
    watched, free = looking(db, window, {"queue": 1}), looking(db, idle, {})
    watched.start()
    free.start()
    await eventually(lambda: bool(window.held))
    await watched.stop()
    await free.stop()
    assert not idle.held
