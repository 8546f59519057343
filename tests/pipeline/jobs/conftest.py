"""A migrated database of each kind, a clock that the test sets, and executors that are stopped in the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.jobs.clock import Clock
from pipeline.jobs.executor import Executor
from pipeline.ledger.database import Database
from pipeline.ledger.migrations import migrate
from tests.pipeline.jobs.samples import PIPELINE, Moment
from tests.pipeline.ledger.samples import SampleModel


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/jobs.db"
    found: str = request.getfixturevalue("postgres")
    return found


@pytest.fixture
async def db(url: str) -> AsyncIterator[Database]:
    """A database with the ledger's tables and the sample tables."""
    found = Database(url)
    await migrate(found)
    async with found.write() as connection:
        await connection.run_sync(SampleModel.metadata.create_all)
    yield found
    await found.close()


@pytest.fixture
def moment() -> Moment:
    return Moment()


@pytest.fixture
async def executor_of(db: Database, moment: Moment) -> AsyncIterator[Callable[..., Executor]]:
    """Make an executor: `executor_of({"stage": runner}, queues, owner="worker-1")`."""
    made: list[Executor] = []

    def make(runners: dict[str, Any], queues: dict[str, Any] | None = None, **options: Any) -> Executor:
        options = {"owner": f"worker-{len(made) + 1}", "clock": Clock(moment), "pipeline": PIPELINE} | options
        made.append(Executor(options.pop("database", db), runners, queues or {}, **options))
        return made[-1]

    yield make
    for executor in made:
        await executor.stop(0)
