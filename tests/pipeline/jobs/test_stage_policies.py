"""Events of an asynchronous stage obey all policies: what waits, waits in the database, and counts no try."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime
from typing import Any

import pytest

from pipeline.config.models import Policy
from pipeline.events import Event
from pipeline.handlers import Context
from pipeline.jobs.stage_jobs import StageJobs
from pipeline.ledger.database import Database
from tests.pipeline.dispatch.harness import stage
from tests.pipeline.jobs.samples import PIPELINE, Moment, jobs, leave
from tests.pipeline.jobs.stage_samples import MakeExecutor, dead, event_job


class Ran:
    """A handler that remembers its tries."""

    def __init__(self) -> None:
        self.tries: Counter[str] = Counter()
        self.error: Exception | None = None

    async def __call__(self, event: Event[Any], context: Context) -> None:
        assert context.attempt == 1
        self.tries[event.id] += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error


class Line:
    """Runs the jobs of one stage, as long as it takes."""

    def __init__(
        self, db: Database, executor_of: MakeExecutor, moment: Moment, ran: Ran, policy: dict[str, Any]
    ) -> None:
        self._db = db
        self._moment = moment
        made = stage("s", ran, Policy.model_validate(policy))
        self._executor = executor_of({"s": StageJobs(made, db, {}, PIPELINE)})

    async def run(self) -> dict[str, tuple[float, int, str | None]]:
        """Run what is due; of what is left: seconds until it is due, failures, and why it waits."""
        await self._executor.run("stages", list(await jobs(self._db)))
        return {row.id: (self._seconds(row.due_at), row.failures, row.error) for row in (await jobs(self._db)).values()}

    def _seconds(self, due: datetime) -> float:
        return (due - self._moment.at).total_seconds()


@pytest.fixture
def ran() -> Ran:
    return Ran()


async def test_what_is_over_the_rate_is_run_later_each_at_its_turn_and_counts_no_try(
    db: Database, executor_of: MakeExecutor, moment: Moment, ran: Ran
) -> None:
    await leave(db, *(event_job(number) for number in range(4)))
    line = Line(db, executor_of, moment, ran, {"rate_limit": {"rate": "2/m", "burst": 1}})

    left = await line.run()

    assert sum(ran.tries.values()) == 1
    waits = sorted(wait for wait, _, _ in left.values())
    assert waits == pytest.approx([30, 60, 90], abs=5)
    assert {(failures, error) for _, failures, error in left.values()} == {(0, "it waits for its turn: 2/m")}
    assert await dead(db) == []


async def test_no_more_of_a_key_run_at_once_than_the_limit(
    db: Database, executor_of: MakeExecutor, moment: Moment, ran: Ran
) -> None:
    await leave(db, *(event_job(number, {"tenant": "a" if number < 3 else "b"}) for number in range(4)))
    line = Line(db, executor_of, moment, ran, {"concurrency": {"per_key": 1, "key": "data.tenant"}})

    left = await line.run()
    assert ran.tries["e3"] == 1
    assert sum(ran.tries.values()) == 2
    while left:
        moment.pass_by(2)
        left = await line.run()
    assert set(ran.tries.values()) == {1}


async def test_an_open_circuit_is_an_outage(db: Database, executor_of: MakeExecutor, moment: Moment, ran: Ran) -> None:
    ran.error = ConnectionError("reset")
    ids = await leave(db, event_job(1), event_job(2))
    policy = {"circuit": {"minimum": 1, "open_for": "1h"}, "retry": {"attempts": 2}}
    line = Line(db, executor_of, moment, ran, policy)

    await line.run()
    moment.pass_by(3600)
    left = await line.run()

    assert sum(ran.tries.values()) == 2  # both were under way when it opened: only the first used a try
    assert sorted(failures for _, failures, _ in left.values()) == [0, 1]
    assert all("1 of 1 calls failed" in str(error) for _, _, error in left.values())
    assert set(left) == set(ids)
    assert await dead(db) == []
