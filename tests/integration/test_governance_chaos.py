"""Redis loses its data, workers and runners are killed, while events trigger workflows: each effect is there once."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from tests.conftest import ServerT
from tests.integration.rig.database import Books
from tests.integration.rig.governance import entity_event, governance_pipeline, statuses
from tests.integration.rig.runner import Runner, until
from tests.integration.rig.site import Site
from tests.integration.rig.webhooks import receiver
from tests.services import Redis, start_redis

SEED = int(os.environ.get("TEST_SEED", "20260131"))
PATIENCE = 300.0
"""Seconds after the last fault within which all must be done."""

WORKFLOW = """
[stage.governance.webhook]
allow = ["127.0.0.1"]
allow_http = true

[[stage.governance.workflow]]
name = "chaotic"
entity = "policy"
trigger = "on_create"
actions = [
  {{ use = "create_task", title = "Before", assignee = "a" }},
  {{ use = "notify", channel = "webhook", to = "{url}", message = "hello" }},
  {{ use = "notify", channel = "in_app", to = "bob", message = "done" }},
  {{ use = "assign", role = "reviewer", to = "eve" }},
]
"""


class OwnServer(Protocol):
    def __call__(self, starter: Callable[[Path], ServerT], /) -> ServerT: ...


def lose_all(redis: Redis) -> None:
    """Kill it, and start it with nothing."""
    redis.kill()
    shutil.rmtree(redis.data / "appendonlydir", ignore_errors=True)
    redis.start()


class Plant:
    """A runner without workers, and a worker: one of each is always on its way."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.runner = site.run("--no-worker")
        self.worker = site.worker()

    @property
    def both(self) -> tuple[Runner, Runner]:
        return self.runner, self.worker

    async def kill_worker(self) -> None:
        await self.worker.kill()
        self.worker = self.site.worker()

    async def kill_runner(self) -> None:
        await self.runner.kill()
        self.runner = self.site.run("--no-worker")


@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.parametrize("count", [400, pytest.param(2_000, marks=pytest.mark.chaos)])
async def test_executions_survive_the_loss_of_redis_of_workers_and_of_runners(
    site: Site, own_server: OwnServer, count: int
) -> None:
    print(f"TEST_SEED={SEED}")
    dice = random.Random(SEED)
    redis = await asyncio.to_thread(own_server, start_redis)
    site = replace(site, redis_url=redis.url)
    faults = dice.sample(["redis"] * 2 + ["worker"] * 3 + ["runner"] * 2, 7)
    moments = sorted(dice.sample(range(50, count - 200), len(faults)))
    events = [entity_event(f"event-{number}", "created", f"p-{number}") for number in range(count)]
    async with receiver() as hook, site.by_amqp() as amqp, site.books() as books:
        await site.lay_out(governance_pipeline(site, WORKFLOW.format(url=hook.url)))
        plant = Plant(site)
        publishing = asyncio.create_task(publish_ahead(amqp, events, books))
        for fault, moment in zip(faults, moments, strict=True):
            await until_completed(books, moment, 60, *plant.both)
            print(f"{fault} at {moment}")
            if fault == "redis":
                await asyncio.to_thread(lose_all, redis)
            elif fault == "worker":
                await plant.kill_worker()
            else:
                await plant.kill_runner()
        last_fault = time.monotonic()
        await publishing
        await until_completed(books, count, PATIENCE, *plant.both)
        print(f"all done {time.monotonic() - last_fault:.1f} s after the last fault")
        for process in plant.both:
            await process.stop()
        await each_effect_is_there_once(books, hook.keys, count)


async def publish_ahead(publisher: object, events: list[object], books: Books) -> None:
    """Publish all the time, never further ahead of the workers than 300."""
    for begin in range(0, len(events), 100):
        while begin - await completed(books) > 300:
            await asyncio.sleep(0.05)
        await publisher.publish(events[begin : begin + 100])  # type: ignore[attr-defined]


async def completed(books: Books) -> int:
    return (await statuses(books)).get("completed", 0)


async def until_completed(books: Books, count: int, seconds: float, *runners: Runner) -> None:
    async def enough() -> bool:
        return await completed(books) >= count

    await until(enough, seconds, f"{count} executions to be completed", *runners)


async def each_effect_is_there_once(books: Books, webhooks: Counter[str], count: int) -> None:
    assert await statuses(books) == {"completed": count}
    executions = {row["id"] for row in await books.rows("SELECT id FROM workflow_executions")}
    for table, where in (("tasks", ""), ("notifications", "WHERE channel = 'in_app'"), ("assignments", "")):
        rows = await books.rows(f"SELECT execution_id FROM {table} {where}")
        assert Counter(row["execution_id"] for row in rows) == dict.fromkeys(executions, 1), table
    assert set(webhooks) == {f"{execution}/1" for execution in executions}
    audited = await books.rows("SELECT details FROM (SELECT metadata->>'execution_id' AS details FROM audit_logs "
                               "WHERE action = 'execution_completed') AS found")  # fmt: skip
    assert Counter(row["details"] for row in audited) == dict.fromkeys(executions, 1)
    assert await books.rows("SELECT id FROM jobs") == []
    print(f"{sum(webhooks.values()) - count} webhooks came more than once")
