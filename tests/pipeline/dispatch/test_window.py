"""The window: room, and the progress that finished messages make."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from types import MappingProxyType

import pytest

from pipeline.connectors import Message
from pipeline.dispatch.flight import Flight
from pipeline.dispatch.window import Window
from pipeline.ledger.units import Progress


def flight(offset: int) -> Flight:
    return Flight(Message(offset, 1000 + offset, b"{}"), None, None)


def admit(window: Window, *offsets: int) -> list[Flight]:
    flights = [flight(offset) for offset in offsets]
    for one in flights:
        window.admit(one)
    window.admitted()
    return flights


def make(progress: Progress | None = None, *, limit: int = 100, max_ahead: int = 100) -> Window:
    return Window(progress or Progress(), limit, max_ahead)


def test_finished_messages_at_the_front_move_the_prefix() -> None:
    window = make()
    flights = admit(window, 0, 1, 2)
    assert window.progress(flights[:2]) == Progress(1, 1001, ())


def test_a_finished_message_beyond_an_unfinished_one_is_ahead() -> None:
    window = make()
    flights = admit(window, 0, 1, 2)
    assert window.progress([flights[1]]) == Progress(-1, None, ((1, 1),), 1001)


def test_neighbours_ahead_become_one_range_and_gaps_in_offsets_do_not_split_it() -> None:
    window = make()
    flights = admit(window, 0, 5, 6, 9, 12)
    window.progress([flights[1], flights[3]])
    assert window.progress([flights[2]]) == Progress(-1, None, ((5, 9),), 1009)


def test_what_is_ahead_joins_the_prefix_when_the_stuck_one_finishes() -> None:
    window = make()
    flights = admit(window, 0, 1, 2, 3)
    window.progress(flights[1:3])
    assert window.progress([flights[0]]) == Progress(2, 1002, ())


def test_a_restart_passes_over_what_was_ahead_and_keeps_it_until_it_is_met() -> None:
    window = make(Progress(9, 1009, ((11, 12), (20, 30))))
    assert [offset for offset in range(10, 32) if window.is_done(offset)] == [11, 12, *range(20, 31)]
    flights = admit(window, 10)
    assert window.progress(flights) == Progress(10, 1010, ((11, 12), (20, 30)))
    window.admit_done(11, 1011)
    window.admit_done(12, 1012)
    flights = admit(window, 13)
    assert window.progress(flights) == Progress(13, 1013, ((20, 30),))


def test_half_met_ranges_keep_their_rest() -> None:
    window = make(Progress(9, 1009, ((11, 15),), 1015))
    flights = admit(window, 10)
    window.admit_done(11, 1011)
    assert window.progress(flights) == Progress(11, 1011, ((12, 15),), 1015)


def test_whatever_the_order_of_finishing_progress_covers_just_the_finished() -> None:
    rng = random.Random(7)
    for _ in range(200):
        window = make(limit=1000, max_ahead=1000)
        offsets = sorted(rng.sample(range(60), 30))
        flights = admit(window, *offsets)
        rng.shuffle(flights)
        finished: set[int] = set()
        while flights:
            take = rng.randint(1, 5)
            batch, flights = flights[:take], flights[take:]
            finished |= {one.message.offset for one in batch}
            progress = window.progress(batch)
            covered = {
                offset
                for offset in offsets
                if offset <= progress.prefix or any(low <= offset <= high for low, high in progress.ahead)
            }
            assert covered == finished


async def is_open(window: Window) -> bool:
    try:
        await asyncio.wait_for(window.room(), 0.01)
    except TimeoutError:
        return False
    return True


async def test_a_full_window_pauses_admission_until_a_commit() -> None:
    window = make(limit=2)
    flights = admit(window, 0, 1)
    assert not await is_open(window)
    assert "2 messages are in flight" in window.paused["window"]
    window.progress(flights[:1])
    assert not await is_open(window)
    window.committed(flights[:1])
    assert await is_open(window)


async def test_heavy_messages_pause_admission_before_there_are_many() -> None:
    window = Window(Progress(), 100, 100, limit_bytes=10)
    flights = admit(window, 0, 1, 2, 3)
    assert await is_open(window), "2 bytes each"
    flights += admit(window, 4)
    assert not await is_open(window)
    assert window.paused == {"window": "5 messages are in flight, with 10 bytes"}
    window.committed(flights[:1])
    assert await is_open(window)
    assert window.paused == {}


async def test_headers_weigh_as_much_as_bodies() -> None:
    window = Window(Progress(), 100, 100, limit_bytes=1000)
    flights = [Flight(Message(offset, 0, b"{}", headers={"h": "x" * 400}), None, None) for offset in range(3)]
    for one in flights[:2]:
        window.admit(one)
    window.admitted()
    assert await is_open(window), "they have about 400 bytes each"
    window.admit(flights[2])
    window.admitted()
    assert not await is_open(window)
    window.committed(flights)
    assert window.bytes == 0
    assert await is_open(window)


@pytest.mark.parametrize(
    "headers",
    [
        {"h": "x" * 1000},
        {"x" * 1000: 1},
        {"h": ["x" * 500, {"a": ["x" * 500]}]},
        {"h": list(range(200))},
        {str(number): None for number in range(100)},
        MappingProxyType({"h": "x" * 1000}),
    ],
    ids=["text", "name", "nested", "many in one", "many", "another mapping"],
)
def test_a_message_s_size_is_reckoned_where_its_connector_gives_none(headers: Mapping[str, object]) -> None:
    assert 1000 <= Message(0, 0, b"", headers=headers).size <= 2000
    assert Message(0, 0, b"{}", headers=headers, size=7).size == 7
    assert Message(0, 0, b"{}").size == 2


async def test_too_many_finished_beyond_a_stuck_one_pause_admission_until_it_finishes() -> None:
    window = make(max_ahead=3)
    flights = admit(window, 0, 1, 2, 3)
    window.progress(flights[1:])
    window.committed(flights[1:])
    assert not await is_open(window)
    assert "3 messages are finished beyond one that is not" in window.paused["max_ahead"]
    window.progress(flights[:1])
    window.committed(flights[:1])
    assert await is_open(window)


async def test_each_cause_holds_admission_until_it_is_released() -> None:
    window = make()
    window.hold("temporal", "it is down")
    window.hold("database", "it is down")
    window.release("temporal")
    assert not await is_open(window)
    assert window.paused == {"database": "it is down"}
    window.release("database")
    assert await is_open(window)


async def test_an_all_finished_backlog_of_an_earlier_run_does_not_block_admission() -> None:
    window = make(Progress(0, 1000, ((1, 200),)), max_ahead=100)
    for offset in range(1, 201):
        window.admit_done(offset, 1000 + offset)
    window.admitted()
    assert await is_open(window)


def test_a_long_run_ahead_takes_no_memory_per_message() -> None:
    window = make(limit=100_000, max_ahead=100_000)
    flights = admit(window, *range(20_001))
    for start in range(1, 20_001, 500):
        window.progress(flights[start : start + 500])
    assert len(window._items) == 2


@pytest.mark.parametrize("count", [5_000])
def test_open_lists_what_is_not_finished(count: int) -> None:
    window = make(limit=count)
    flights = admit(window, *range(count))
    window.progress(flights[::2])
    assert list(window.open()) == flights[1::2]


async def test_what_an_earlier_run_finished_is_one_range_however_long_it_is() -> None:
    window = Window(Progress(0, 5, ((2, 10_001),)), 10, 100_000)
    window.admit(flight(1))
    for offset in range(2, 10_002):
        window.admit_done(offset, 6)
    window.admitted()
    assert len(window._items) == 2
    assert window.progress() == Progress(0, 5, ((2, 10_001),), 6)


async def lets_in(window: Window) -> bool:
    try:
        await asyncio.wait_for(window.room(), 0.001)
    except TimeoutError:
        return False
    return True


async def test_a_held_window_may_let_one_batch_in() -> None:
    window = make()
    window.hold("x", "down")
    assert not await lets_in(window)
    window.admit_one("x")
    assert await lets_in(window)
    admit(window, 0)
    assert not await lets_in(window)


async def test_a_window_that_is_full_or_held_by_more_lets_no_batch_in() -> None:
    window = make(limit=1)
    window.hold("x", "down")
    window.hold("lease", "lost")
    window.admit_one("x")
    assert not await lets_in(window)
    window.release("lease")
    admit(window, 0)
    window.admit_one("x")
    assert not await lets_in(window)


def test_a_want_of_room_elsewhere_pauses_admission_and_nothing_else() -> None:
    window = make()
    window.hold("queue slow", "it is full", for_room=True)
    assert (window.paused, window.is_held) == ({"queue slow": "it is full"}, False)
    window.hold("lease", "lost")
    assert window.is_held
    window.release("lease")
    assert not window.is_held
