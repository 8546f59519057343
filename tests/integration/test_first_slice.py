"""The first slice: an admin event pauses a real workflow, and leaves the reference's audit row."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import pytest

from tests.integration.rig.events import admin_event
from tests.integration.rig.site import Site, admin_pipeline
from tests.integration.rig.workflows import Seen, Workflows


@pytest.mark.parametrize("way", ["by an AMQP client through a topic exchange", "natively by rstream"])
async def test_an_admin_event_pauses_its_workflow_and_leaves_one_audit_row(
    site: Site, workflows: Callable[[int], Awaitable[Workflows]], way: str
) -> None:
    running = await workflows(1)
    [workflow_id] = running.ids
    await site.lay_out(admin_pipeline(site.stream))
    async with site.by_amqp() as amqp, site.natively() as native, site.books() as books:
        publisher = native if "rstream" in way else amqp
        runner = site.run()
        await publisher.publish([admin_event("event-1", workflow_id)])
        await site.until_processed(books, 1, 15, runner)

        assert await running.histories() == {workflow_id: [Seen("pause", "event-1")]}
        assert (await running.memories())[workflow_id].status == "paused"
        [row] = await books.rows("SELECT * FROM audit_logs")
        named = [row[name] for name in ("action", "entity_type", "entity_id", "user_id")]
        assert named == ["workflow_paused", "bom_processing", "bom-event-1", "user-uuid-54321"]
        assert json.loads(row["metadata"]) == {"workflow_id": workflow_id}
        assert (row["event_id"], row["routing_key"], row["outcome"]) == ("event-1", "admin.workflow.paused", "handled")
        assert await books.outcomes() == {"handled": 1}
        assert await books.dead_letters() == []
        await runner.stop()
