"""A replay beside a running runner, on RabbitMQ and PostgreSQL: from a time, some stages only, killed and gone on."""

from __future__ import annotations

from collections import Counter

from pipeline.replay import Replay, ReplayRequest
from pipeline.replay.book import forget_replay, known_replays
from tests.integration.rig.database import Books
from tests.integration.rig.events import admin_event
from tests.integration.rig.publishers import Publisher
from tests.integration.rig.runner import Runner, until
from tests.integration.rig.site import Site

PIPELINE = """
[pipeline]
name = "proof"
[source.admin]
stream = "{stream}"
group = "consumer"
batch = 10
[[route]]
name = "control"
match = "admin.workflow.*"
key = "data.workflow_id"
stages = ["log"]
finally = ["audit"]
[[stage.audit.row]]
match = "#"
action = "routing_key"
"""
PIECE = 20
"""Events that are published at a time, each of them a chunk of its own."""


async def publish(site: Site, books: Books, publisher: Publisher, runner: Runner, number: int) -> list[str]:
    """Publish a piece, and let the runner handle it; its ids."""
    events = [admin_event(f"event-{number}-{index}", f"workflow-{index % 5}") for index in range(PIECE)]
    await publisher.publish(events)
    await site.until_processed(books, PIECE * (number + 1), 20, runner)
    return [event.id for event in events]


async def replayed(books: Books) -> int:
    """How many messages replays have finished."""
    query = "SELECT coalesce(sum(handled), 0)::bigint AS handled FROM progress WHERE consumer_group LIKE '%.replay.%'"
    [row] = await books.rows(query)
    return int(row["handled"])


async def test_a_replay_beside_a_runner_repeats_its_range_once_although_it_is_killed(site: Site) -> None:
    await site.lay_out(PIPELINE.replace("{stream}", site.stream))
    async with site.by_amqp() as publisher, site.books() as books:
        runner = site.run()
        first = await publish(site, books, publisher, runner, 0)
        later = await publish(site, books, publisher, runner, 1)
        [begin] = await books.rows("SELECT min(occurred_at) AS at FROM audit_logs WHERE event_id LIKE 'event-1-%'")

        options = ("--from", begin["at"].isoformat(), "--only", "audit")
        killed = Runner(
            site.file, site.env, site.folder / "replay.log", ("replay", *options, "--yes", "--rate", "25/s")
        )
        site.runners.append(killed)

        async def underway() -> bool:
            return await replayed(books) > 0

        await until(underway, 20, "the replay to commit", killed, runner)
        await killed.kill()
        assert await replayed(books) < PIECE

        request = ReplayRequest(begin["at"], only=["audit"])
        replay = Replay.from_file(site.file, request, environ=site.env)
        summary = await replay.complete()
        assert (summary.finished, summary.outcomes["handled"]) == (True, PIECE)
        assert summary.routes == {"control": {"handled": summary.processed}}
        assert await books.audited() == Counter(first) + Counter(later) + Counter(later)

        await forget_replay(replay.loaded, summary.name)
        assert await known_replays(replay.loaded) == []
        assert runner.exit_code is None
        owners = await books.rows("SELECT consumer_group FROM progress WHERE owner IS NOT NULL")
        assert [row["consumer_group"] for row in owners] == ["consumer"]
        await runner.stop()
