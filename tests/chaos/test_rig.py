"""The rig itself: its schedule comes from the seed alone, its verdict names what is wrong, its proxy cuts and heals."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

from tests.chaos.entries import Entry, Kind, Ledger
from tests.chaos.facts import Facts
from tests.chaos.faults import FaultKind
from tests.chaos.mix import Mix
from tests.chaos.report import Report
from tests.chaos.schedule import LEAST, schedule
from tests.chaos.verdict import judge
from tests.integration.proxy import Proxy
from tests.integration.rig.workflows import Seen

POSSIBLE = {(kind, part) for kind in FaultKind for part in ("postgres", "redis", "runner-1")}
POSSIBLE -= {(FaultKind.AMNESIA, "postgres"), (FaultKind.DROP, "runner-1"), (FaultKind.DISK, "runner-1")}


def test_one_seed_gives_one_schedule() -> None:
    assert schedule(7, POSSIBLE, 50, 100.0) == schedule(7, POSSIBLE, 50, 100.0) != schedule(8, POSSIBLE, 50, 100.0)


def test_every_kind_befalls_every_part_that_it_can_and_often_enough() -> None:
    faults = schedule(7, POSSIBLE, 60, 100.0)
    assert len(faults) == 60
    assert {(fault.kind, fault.part) for fault in faults} == POSSIBLE
    assert min(Counter(fault.kind for fault in faults).values()) >= LEAST
    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)
    assert max(fault.at for fault in faults) < 100


def test_one_seed_gives_one_mix_with_every_kind_and_repeats_within_it() -> None:
    entries = Mix(7, ["w-1", "w-2"]).take(2_000)
    assert entries == Mix(7, ["w-1", "w-2"]).take(2_000)
    assert {entry.kind for entry in entries} == set(Kind)
    assert len({entry.id for entry in entries}) == 2_000 < len(entries)


def done_well(ledger: Ledger) -> Facts:
    """What is found where all went well."""
    facts = Facts()
    for entry in ledger:
        bad = entry.kind in (Kind.REFUSED, Kind.UNREADABLE)
        if entry.kind is not Kind.UNREADABLE:
            facts.outcomes[entry.id, "dead" if bad else "handled"] += 1
            facts.audited[entry.id, "dead" if bad else "handled"] += 1
        facts.dead += [(entry.id, entry.event.body)] * bad
        if entry.kind is Kind.SIGNAL:
            name = "pause" if entry.event.routing_key.endswith("paused") else "resume"
            facts.signals.setdefault(entry.key, []).append(Seen(name, entry.id))
            facts.applied[entry.key] = facts.applied.get(entry.key, 0) + 1
        if entry.kind is Kind.EXECUTION:
            facts.executions[entry.id, f"of {entry.id}"] = "completed"
            facts.tasks[f"of {entry.id}"] = facts.notifications[f"of {entry.id}"] = 1
        if entry.kind in (Kind.EXECUTION, Kind.CHANGE):
            facts.entities[entry.key] = (entry.sequence, entry.sequence)
    return facts


def first(ledger: Ledger, kind: Kind) -> Entry:
    return ledger.of(kind)[0]


def lose(ledger: Ledger, facts: Facts) -> str:
    del facts.outcomes[first(ledger, Kind.AUDIT).id, "handled"]
    return first(ledger, Kind.AUDIT).id


def do_twice(ledger: Ledger, facts: Facts) -> str:
    facts.outcomes[first(ledger, Kind.SIGNAL).id, "handled"] += 1
    return first(ledger, Kind.SIGNAL).id


def swap(ledger: Ledger, facts: Facts) -> str:
    seen = facts.signals[first(ledger, Kind.SIGNAL).key]
    seen[0], seen[1] = seen[1], seen[0]
    return first(ledger, Kind.SIGNAL).key


def get_stuck(ledger: Ledger, facts: Facts) -> str:
    event_id = first(ledger, Kind.EXECUTION).id
    facts.executions[event_id, f"of {event_id}"] = "in_progress"
    return event_id


def do_effects_twice(ledger: Ledger, facts: Facts) -> str:
    event_id = first(ledger, Kind.EXECUTION).id
    facts.tasks[f"of {event_id}"] += 1
    return event_id


def bury_a_good_one(ledger: Ledger, facts: Facts) -> str:
    entry = first(ledger, Kind.SIGNAL)
    facts.dead.append((entry.id, entry.event.body))
    return entry.id


def miss_a_change(ledger: Ledger, facts: Facts) -> str:
    key = first(ledger, Kind.CHANGE).key
    facts.entities[key] = (1, 1)
    return key


@pytest.mark.parametrize(
    ("harm", "question"),
    [
        (lose, "events lost"),
        (do_twice, "events with more than one outcome"),
        (swap, "workflows signalled out of order"),
        (get_stuck, "executions stuck, missing or doubled"),
        (do_effects_twice, "SQL effects missing or doubled"),
        (bury_a_good_one, "dead letters missing, or of good events"),
        (miss_a_change, "entities that missed a change"),
    ],
)
def test_the_verdict_names_what_is_wrong(harm: Callable[[Ledger, Facts], str], question: str) -> None:
    ledger = Ledger()
    ledger.confirm(Mix(7, ["w-1", "w-2"]).take(300))
    facts = done_well(ledger)
    assert Report(7, findings=judge(ledger, facts)).wrong == []
    name = harm(ledger, facts)
    wrong = Report(7, findings=judge(ledger, facts)).wrong
    assert wrong
    assert all(line.startswith(question) and name in line for line in wrong)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(100):
        writer.write(data)
    writer.close()


async def test_a_proxy_cuts_all_connections_refuses_new_ones_and_heals() -> None:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, Proxy(*server.sockets[0].getsockname()) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"hello")
        assert await reader.read(100) == b"hello"
        proxy.drop()
        with pytest.raises(ConnectionResetError):
            await reader.read(100)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.close()
        await proxy.accept_again()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        proxy.fall_silent()
        writer.write(b"hello")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await reader.read(100)
        proxy.go_on()
        assert await reader.read(100) == b"hello"
        writer.close()
