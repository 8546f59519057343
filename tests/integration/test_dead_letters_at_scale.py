"""Messages that can never succeed, among ten times as many good ones: each is kept with its bytes."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from tests.integration.rig.events import KINDS, Sent, admin_event
from tests.integration.rig.site import Site, admin_pipeline
from tests.integration.rig.workflows import Workflows

BROKEN_BODIES = (
    b"",
    b"{",
    b"not json",
    b'{"event_type": "admin.workflow.paused",}',
    b'["a", "list"]',
    b'"a text"',
    b"null",
    b"NaN",
    b'{"text": "\xff\xfe is no UTF-8"}',
    b"\x00\x01\x02\xff",
)


def undecodable(number: int, *, raw: bool) -> Sent:
    """A body that is no JSON object; or, natively, an entry of the stream that is no AMQP message, or half of one."""
    body = BROKEN_BODIES[number % len(BROKEN_BODIES)]
    body = body + b" %d" % number if body else body
    if raw:
        body = (b"\x00\x53\x75\xa0\xff" if number % 4 else b"raw ") + body
    return Sent(f"undecodable-{number}", "admin.workflow.paused", body, raw=raw)


def rejected(number: int, workflow_id: str) -> Sent:
    """An event without a workflow, or with an action that is no signal."""
    if number % 2:
        return admin_event(f"rejected-{number}", None)
    return admin_event(f"rejected-{number}", workflow_id, "exploded")


@pytest.mark.slow
@pytest.mark.parametrize(("good_ones", "bad_ones"), [(2_000, 100), pytest.param(10_000, 500, marks=pytest.mark.chaos)])
async def test_bad_messages_among_ten_times_as_many_good_ones_are_kept_with_their_bytes(
    site: Site, workflows: Callable[[int], Awaitable[Workflows]], good_ones: int, bad_ones: int
) -> None:
    dice = random.Random(1)
    running = await workflows(200)
    good = [admin_event(f"good-{number}", dice.choice(running.ids), dice.choice(KINDS)) for number in range(good_ones)]
    broken = [undecodable(number, raw=number % 2 == 1) for number in range(bad_ones)]
    refused = [rejected(number, dice.choice(running.ids)) for number in range(bad_ones)]
    messages = dice.sample([*good, *broken, *refused], good_ones + 2 * bad_ones)
    natively = [message for message in messages if message.raw or message.id[-1] in "13579"]
    by_amqp = [message for message in messages if not message.raw and message.id[-1] in "02468"]
    await site.lay_out(admin_pipeline(site.stream))
    async with site.by_amqp() as amqp, site.natively() as native, site.books() as books:
        runner = site.run()
        await asyncio.gather(amqp.publish(by_amqp), native.publish(natively))
        await site.until_processed(books, len(messages), 60, runner)

        assert await books.outcomes() == {"handled": good_ones, "dead": 2 * bad_ones}
        letters = await books.dead_letters()
        assert Counter(letter["body"] for letter in letters) == Counter(message.body for message in [*broken, *refused])
        by_id = {letter["event_id"]: letter for letter in letters}
        for message in [*refused, *(message for message in broken if not message.raw)]:
            assert by_id[message.id]["body"] == message.body
        kinds = Counter(letter["kind"] for letter in letters)
        assert kinds == {"undecodable": bad_ones, "invalid_data": bad_ones // 2, "unknown_action": bad_ones // 2}
        assert await books.audit_outcomes() == {"handled": good_ones, "dead": bad_ones}
        assert await books.audited() == Counter(message.id for message in [*good, *refused])
        dead_rows = await books.rows("SELECT event_id, error FROM audit_logs WHERE outcome = 'dead'")
        assert {row["event_id"] for row in dead_rows} == {message.id for message in refused}
        assert all(row["error"] for row in dead_rows)
        seen = Counter(signal.event_id for found in (await running.histories()).values() for signal in found)
        assert seen == Counter(message.id for message in good)
        await runner.stop()
