"""The verdict at the end of a test on admin events: each one was done once, by every account there is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tests.integration.rig.database import Books
from tests.integration.rig.events import Sent
from tests.integration.rig.workflows import Workflows

__all__ = ["every_event_was_done_once"]

_SIGNALS = {"admin.workflow.paused": "pause", "admin.workflow.resumed": "resume"}


async def every_event_was_done_once(
    books: Books, running: Workflows, sent: Sequence[Sent], *, some_came_twice: bool = False
) -> None:
    """One audit row, one signal in the workflow's history, one outcome each; and nothing is dead.

    Args:
        books: The runner's database.
        running: The workflows.
        sent: What was published.
        some_came_twice: Whether the publisher may have published some again, which are then duplicates.
    """
    outcomes = await books.outcomes()
    if some_came_twice:
        outcomes.pop("duplicate", None)
    assert outcomes == {"handled": len(sent)}
    assert await books.dead_letters() == []
    assert await books.audited() == Counter(event.id for event in sent)
    signals = Counter((event.data["workflow_id"], _SIGNALS[event.routing_key], event.id) for event in sent)
    histories = await running.histories()
    assert Counter((name, *seen) for name, found in histories.items() for seen in found) == signals
