"""Reads a stream for ever: through outages of the broker, and through the stream's deletion and re-creation."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final, Literal, cast

from pipeline.connectors import BrokerRefused, Connector, MessageBatch, Start, Unreadable
from pipeline.errors import Unavailable
from pipeline.policies.backoff import backoff
from pipeline.streams.ear import Deaf, Ear

__all__ = ["Following", "StreamState", "follow"]

_MOST_PATIENT = 16
"""So many times its first patience a read gets that was deaf again and again."""
_LEVELS: Final = {"reading": logging.INFO, "stuck": logging.ERROR}
_log = logging.getLogger("pipeline.streams")


@dataclass(frozen=True, slots=True)
class StreamState:
    """How reading a stream stands.

    Attributes:
        status: `connecting` at first; `reading`, also while there is nothing to read; `down` where the broker can't be
            reached, or delivers nothing of what the stream holds, which stands until a batch comes or nothing is
            missing; `refused` where it says no, as it does for a deleted stream; `stuck` where what comes next can't
            be read, which stands until a read delivers something, or lasts.
        reason: Why it is down, refused or stuck, for people.
    """

    status: Literal["connecting", "reading", "down", "refused", "stuck"] = "connecting"
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.status}: {self.reason}" if self.reason else self.status


_READING: Final = StreamState("reading")


@dataclass(frozen=True, slots=True)
class Following:
    """How `follow` goes about it, in seconds.

    Attributes:
        first_wait: The wait after the first failure; doubled for each further one.
        longest_wait: The longest wait.
        jitter: The part of each wait that is random, 0 to 1.
        settled: A read that lasted this long, or delivered a batch, was a success: the next failure is a first one.
        deaf: After this long without a batch the broker is asked whether there is more than was delivered. Where there
            is, the read is made anew; each time in vain it gets twice as long for that, and is down meanwhile.
        answer: How long the broker may take to answer a question.
    """

    first_wait: float = 0.1
    longest_wait: float = 10.0
    jitter: float = 0.5
    settled: float = 5.0
    deaf: float = 20.0
    answer: float = 30.0


async def follow(
    connector: Connector,
    stream: str,
    start: Callable[[], Awaitable[Start]],
    *,
    name: str,
    max_batch: int = 500,
    on_state: Callable[[StreamState], object] = lambda state: None,
    refuse_at_start: bool = True,
    how: Following = Following(),
) -> AsyncGenerator[MessageBatch, None]:
    """Yield the stream's batches for ever, connecting again whenever the broker was lost.

    Close the generator (``async with contextlib.aclosing(follow(…))``) to end the read; it ends promptly, also while
    it waits. A caller that is slow to ask for the next batch slows the broker down: that is how consumption pauses.

    Args:
        connector: Connected here where it is not yet, and again after each failure; closing it is the caller's.
        stream: The stream's name.
        start: Asked before each read, the first included, where to begin: after a loss, the last offset that was
            taken in + 1. What it raises counts as the connector's failure.
        name: Labels the reader in the broker's own tools.
        max_batch: How many messages a batch holds at most.
        on_state: Called with each new state, never twice with the same.
        refuse_at_start: Whether a `BrokerRefused` is raised as long as no read has settled. Later ones are
            waited out, like outages: a deleted stream may be created again.
        how: Waiting times.

    Raises:
        BrokerRefused: At the start, see `refuse_at_start`.
    """
    report = _Reporter(stream, on_state)
    failures = 0
    hearing = _Hearing(report, how.deaf)
    starting = refuse_at_start
    while True:
        success = _Success(how.settled)
        try:
            async with asyncio.timeout(how.answer):
                await connector.connect()
                await connector.bounds(stream)  # a read of a missing stream would say so later, or never
            begin = await start()
            batches = connector.read(stream, begin, name=name, max_batch=max_batch)
            if hearing.state is _READING:
                report.reads(how.settled)
            else:
                report(hearing.state)
            success.began()
            ear = Ear(connector, stream, begin, how.deaf, hearing.limit, how.answer, hearing.well)
            async with contextlib.aclosing(_closable(batches)) as reading, ear:
                while (batch := await ear.next(reading)) is not None:
                    success.delivered = True
                    hearing.well()
                    yield batch
            problem = StreamState("down", "the connector ended the read without saying why")
        except (asyncio.CancelledError, BrokerRefused, TimeoutError, Unavailable) as error:
            if _is_the_end(error, starting and not success):
                raise
            problem = hearing.deaf(error) if isinstance(error, Deaf) else _trouble(error, how)
        finally:
            report.cancel()
        if success:
            starting = False
            failures = 0
        failures += 1
        report(problem)
        await asyncio.sleep(backoff(failures, how.first_wait, how.longest_wait, how.jitter))


def _is_the_end(error: BaseException, at_the_start: bool) -> bool:
    """Whether no further read is to be tried: it was cancelled from without, or refused at the start."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
    return at_the_start and isinstance(error, BrokerRefused)


def _trouble(error: BaseException, how: Following) -> StreamState:
    """What a read that failed tells of the stream."""
    match error:
        case BrokerRefused():
            return StreamState("refused", str(error))
        case Unreadable():
            return StreamState("stuck", error.reason)
        case TimeoutError():
            return StreamState("down", f"the broker does not answer within {how.answer:g} s")
        case asyncio.CancelledError():
            return StreamState("down", "the read was cancelled from within the connector")
    return StreamState("down", str(error))


class _Success:
    """Whether a read has settled: it delivered a batch, or lasted for some time."""

    def __init__(self, settled: float) -> None:
        self.delivered = False
        self._settled = settled
        self._since: float | None = None

    def began(self) -> None:
        self._since = monotonic()

    def __bool__(self) -> bool:
        return self.delivered or (self._since is not None and monotonic() - self._since >= self._settled)


class _Hearing:
    """Whether reads deliver what there is: one that was deaf is made anew, which proves nothing yet.

    Attributes:
        state: How a read that stands is to be reported.
        limit: Seconds that it may be deaf before it is ended.
    """

    def __init__(self, report: _Reporter, limit: float) -> None:
        self.state = _READING
        self.limit = self._first = limit
        self._report = report

    def well(self) -> None:
        """It delivered something, or there was nothing to deliver."""
        self.state, self.limit = _READING, self._first
        self._report(_READING)

    def deaf(self, error: Deaf) -> StreamState:
        """It was deaf, and is ended."""
        self.state = StreamState("down", str(error))
        self.limit = min(2 * self.limit, _MOST_PATIENT * self._first)  # a big chunk on a slow line may take that long
        return self.state


class _Reporter:
    """Passes changes of the state on, and logs them."""

    def __init__(self, stream: str, on_state: Callable[[StreamState], object]) -> None:
        self._stream = stream
        self._on_state = on_state
        self._last: StreamState | None = None
        self._timer: asyncio.TimerHandle | None = None

    def reads(self, settled: float) -> None:
        """A read begins; where what comes next could not be read, that stands for so many seconds yet."""
        if self._last is not None and self._last.status == "stuck":
            self._timer = asyncio.get_running_loop().call_later(settled, self, _READING)
        else:
            self(_READING)

    def cancel(self) -> None:
        """The read has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __call__(self, state: StreamState) -> None:
        if state == self._last:
            return
        self._last = state
        _log.log(_LEVELS.get(state.status, logging.WARNING), "stream %s: %s", self._stream, state)
        self._on_state(state)


def _closable(batches: AsyncIterator[MessageBatch]) -> AsyncGenerator[MessageBatch, None]:
    """`Connector.read` promises a generator; its declared type is the wider one."""
    return cast("AsyncGenerator[MessageBatch, None]", batches)
