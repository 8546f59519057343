"""Dead letters on real servers: redriven once their cause is mended, unless a later event has overtaken them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable

from tests.integration.rig.database import Books
from tests.integration.rig.events import admin_event
from tests.integration.rig.publishers import delete
from tests.integration.rig.runner import until
from tests.integration.rig.site import CRASH_POINT, Site, admin_pipeline
from tests.integration.rig.workflows import Seen, Workflows

CREATE = """
[broker]
create_streams = true
"""


async def states(books: Books) -> dict[str, str]:
    return {letter["event_id"]: letter["state"] for letter in await books.dead_letters()}


async def test_a_pause_for_a_workflow_that_comes_later_is_redriven_once_and_never_after_its_resume(
    site: Site, workflows: Callable[[int], Awaitable[Workflows]]
) -> None:
    late, free = f"{site.stream}.0", f"{site.stream}.1"
    text = admin_pipeline(
        site.stream, source="dead_letters = true", stages=("workflow-control", "crash-point"), more=CRASH_POINT + CREATE
    )
    await site.lay_out(text)
    async with site.by_amqp() as publisher, site.books() as books:
        runner = site.run()
        await publisher.publish([admin_event("pause-1", late), admin_event("pause-2", free)])
        await site.until_processed(books, 2, 15, runner)
        running = await workflows(2)
        await publisher.publish([admin_event("resume-1", late, "resumed")])
        await site.until_processed(books, 3, 15, runner)

        code, output = await site.command(
            "dead-letters", "redrive", "--all", "--yes", "--wait", "--reason", "they run now", "--json"
        )
        told = json.loads(output)
        assert (code, told["count"], told["outcomes"]) == (2, 1, {"handled": 1})
        [refused] = told["refused"]
        assert refused["reason"] == "a later event of its key was handled after it: resume-1"
        assert await states(books) == {"pause-1": "open", "pause-2": "redriven"}
        assert await running.histories() == {late: [Seen("resume", "resume-1")], free: [Seen("pause", "pause-2")]}
        await until(lambda: no_copy_waits(books), 10, "the copies to be published", runner)
        await runner.stop()

        # Forced, and killed between the signal and the commit.
        code, _ = await site.command("dead-letters", "redrive", str(refused["id"]), "--force", "--reason", "sure")
        assert code == 0
        dying = site.run(CRASH_POINT="handled", CRASH_EVENTS="1")
        assert await dying.ended(30) == -9
        assert await states(books) == {"pause-1": "redriving", "pause-2": "redriven"}
        runner = site.run()
        await until(lambda: all_redriven(books), 15, "the redrive to be done", runner)

        assert (await running.histories())[late] == [Seen("resume", "resume-1"), Seen("pause", "pause-1")]
        audited = await books.rows("SELECT event_id, outcome FROM audit_logs")
        assert Counter((row["event_id"], row["outcome"]) for row in audited) == {
            ("pause-1", "dead"): 1, ("pause-2", "dead"): 1, ("resume-1", "handled"): 1, ("pause-2", "handled"): 1,
            ("pause-1", "handled"): 1,
        }  # fmt: skip
        assert await books.outcomes() == {"handled": 1, "dead": 2}
        await runner.stop()
    await delete(site.amqp_url, f"{site.stream}.dead-letters")


async def all_redriven(books: Books) -> bool:
    return set((await states(books)).values()) == {"redriven"}


async def no_copy_waits(books: Books) -> bool:
    return await books.rows("SELECT id FROM outbox") == []
