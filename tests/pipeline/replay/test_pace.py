"""The pace of a replay."""

from __future__ import annotations

from pipeline.connectors import Message
from pipeline.replay.pace import Pace


class Clock:
    """A clock that moves only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.naps: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds


def messages(count: int, key: str = "a") -> list[Message]:
    return [Message(number, 0, b"{}", key) for number in range(count)]


async def passed(pace: Pace, batch: list[Message]) -> list[int]:
    sizes = []
    for piece, counted in pace.steps(batch):
        await pace.wait(counted)
        sizes.append(len(piece))
    return sizes


async def test_a_batch_passes_in_steps_of_a_tenth_of_a_second() -> None:
    clock = Clock()
    pace = Pace(100, clock=clock, sleep=clock.sleep)
    assert await passed(pace, messages(500)) == [10] * 50
    assert abs(clock.now - 4.9) < 0.001
    assert max(clock.naps) < 0.11


async def test_without_a_rate_a_batch_passes_whole_and_at_once() -> None:
    clock = Clock()
    assert await passed(Pace(None, clock=clock, sleep=clock.sleep), messages(500)) == [500]
    assert clock.naps == []


async def test_less_than_one_event_a_second_is_a_rate_too() -> None:
    clock = Clock()
    await passed(Pace(0.5, clock=clock, sleep=clock.sleep), messages(3))
    assert clock.now == 4


async def test_time_that_was_not_used_is_not_made_up_for() -> None:
    clock = Clock()
    pace = Pace(100, clock=clock, sleep=clock.sleep)
    clock.now = 60.0
    await passed(pace, messages(100))
    assert clock.now > 60.8


async def test_messages_that_nobody_takes_are_free() -> None:
    clock = Clock()
    pace = Pace(1, lambda message: message.routing_key == "a", clock=clock, sleep=clock.sleep)
    await passed(pace, [*messages(1000, "b"), *messages(2)])
    assert clock.now <= 1
