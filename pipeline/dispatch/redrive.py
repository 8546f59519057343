"""Redrives: dead letters that an operator wants run again, in the lanes of the events that are live."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from pipeline.dispatch.again import Again
from pipeline.dispatch.decode import Decoder, Undecodable
from pipeline.dispatch.flight import Flight
from pipeline.dispatch.lanes import Lanes
from pipeline.dispatch.overtaken import Overtaken
from pipeline.dispatch.passage import Passage
from pipeline.dispatch.window import Window
from pipeline.errors import Fenced, Unavailable
from pipeline.events import Outcome
from pipeline.ledger.columns import utcnow
from pipeline.ledger.database import DatabaseRefused
from pipeline.ledger.lease import Lease
from pipeline.ledger.letters import message_of
from pipeline.ledger.redriving import Redrives
from pipeline.ledger.tables import DeadLetter
from pipeline.ledger.units import Dead, Redriven
from pipeline.policies.backoff import backoff

__all__ = ["Redriver"]

_AT_ONCE: Final = 200
"""Redrives that are on their way at the same time."""
_BYTES_AT_ONCE: Final = 32 * 2**20
"""What their bodies may have together; one that has more is alone."""
_LOOK_SECONDS: Final = 1.0
_log = logging.getLogger("pipeline.redrive")


class Redriver:
    """Carries out the redrives of one source while this runner owns it.

    A redrive is no part of the window: it moves no progress and counts as no message. It begins while nothing holds
    the source, joins the lane of its key, and what comes of it is written at once with all that it leaves. After a
    crash before that it is still asked for, and the next owner runs it again.

    Args:
        redrives: Where they are asked for, and where what came of them is written.
        lease: The ownership that this is conditional on.
        decoder: Makes events of messages.
        passage: Leads them through their routes.
        overtaken: Knows what was handled since.
        window: Says whether anything holds the source.
        route: The lanes of a routing key's routes.
        lanes: The lanes of the source's routes.
        on_end: Called once when it can't go on: with None where another runner has taken the source over.
    """

    def __init__(
        self,
        redrives: Redrives,
        lease: Lease,
        decoder: Decoder,
        passage: Passage,
        overtaken: Overtaken,
        window: Window,
        route: Callable[[str], Sequence[Lanes]],
        lanes: Sequence[Lanes],
        on_end: Callable[[BaseException | None], None],
    ) -> None:
        self._redrives = redrives
        self._lease = lease
        self._decoder = decoder
        self._passage = passage
        self._overtaken = overtaken
        self._window = window
        self._route = route
        self._lanes = {each.name: each for each in lanes}
        self._on_end = on_end
        self._on_their_way: dict[int, Again] = {}
        self._finished: list[Flight] = []
        self._taking = True
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look for redrives."""
        self._task = asyncio.create_task(self._run(), name=f"redrive {self._lease.key.source}")

    def finish(self, flight: Flight) -> None:
        """Take a redrive that has come to its end."""
        self._finished.append(flight)
        self._wake.set()

    @property
    def busy(self) -> bool:
        """Whether anything waits to be written."""
        return bool(self._finished)

    def leave(self) -> None:
        """Begin no more."""
        self._taking = False

    async def close(self) -> None:
        """End at once; what is not written is asked for still."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            await self._overtaken.load()
            while True:
                self._wake.clear()
                if self._finished:
                    await self._settle(self._finished[:_AT_ONCE])
                if self._taking and not self._window.is_held and not self._passage.must_hold():
                    await self._take()
                if not self._finished:
                    await self._rest()
        except Fenced as error:
            _log.error("source %s: %s", self._lease.key.source, error)
            self._on_end(None)
        except Exception as error:  # noqa: BLE001 - whatever it is, the source must not go on without it
            self._on_end(error)

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                await self._wake.wait()
                await asyncio.sleep(0.02)  # so that several share a transaction
        except TimeoutError:
            pass

    async def _take(self) -> None:
        """Begin redrives that are asked for, as many as there is room for."""
        room = _AT_ONCE - len(self._on_their_way)
        written = self._overtaken.written()
        if room <= 0:
            self._overtaken.forget(written, {again.place for again in self._on_their_way.values()})
            return
        try:
            letters = await self._redrives.requested(self._lease.key, self._on_their_way, room, self._room_in_bytes())
        except (Unavailable, DatabaseRefused) as error:
            _log.debug("source %s: %s", self._lease.key.source, error)
            return
        if not self._taking or self._passage.must_hold():
            return
        for letter in letters:
            self._begin(letter)
        self._overtaken.forget(written, {again.place for again in self._on_their_way.values()})

    def _room_in_bytes(self) -> int:
        return _BYTES_AT_ONCE - sum(len(again.letter.body) for again in self._on_their_way.values())

    def _begin(self, letter: DeadLetter) -> None:
        message, again = message_of(letter), Again(letter)
        flight = Flight(message, None, None)
        flight.again = again
        self._on_their_way[letter.id or 0] = again
        try:
            flight.event = self._decoder.decode(message)
        except Undecodable as reason:
            now = utcnow()
            flight.die(Dead("", "", reason.kind, str(reason), 0, now, now))
            flight.outcome = Outcome.DEAD
            self._passage.note(flight, str(reason))
            self.finish(flight)
            return
        if letter.route and letter.route not in self._lanes:
            again.refusal = f"there is no route {letter.route!r} any more"
        lanes = [self._lanes[letter.route]] if letter.route in self._lanes else self._route(flight.event.routing_key)
        if again.refusal:
            self.finish(flight)
        elif not lanes:
            self._passage.note(flight, "unrouted")
            self.finish(flight)
        else:
            self._passage.launch(flight, lanes)

    # What came of them

    async def _settle(self, flights: Sequence[Flight]) -> None:
        """Write it, however long the database is away: each result is written once."""
        results = [self._result(flight) for flight in flights]
        failures = 0
        while True:
            try:
                await self._redrives.settle(self._lease, results)
            except (Unavailable, DatabaseRefused) as error:
                failures += 1
                if failures == 1:
                    _log.warning("%s; what came of redrives is written when it is back", error)
                await asyncio.sleep(backoff(failures, 0.1, 5.0, jitter=0.2))
            else:
                break
        del self._finished[: len(flights)]
        self._overtaken.committed(flights)
        self._passage.jobs.committed(flights)
        for flight, result in zip(flights, results, strict=True):
            del self._on_their_way[result.letter]
            _log.info("dead letter %d (%r): %s", result.letter, flight.message, _told(result))

    def _result(self, flight: Flight) -> Redriven:
        again = flight.again
        assert again is not None  # noqa: S101 - only redrives come here
        letter = again.letter
        result = Redriven(letter.id or 0, letter.redrives, letter.route, letter.incarnation, None, again.refusal)
        if again.refusal:
            return result
        dead = None
        if flight.dead and (letter.route or not flight.lanes):
            [dead, *_], flight.dead = flight.dead, None
            if again.only and dead.closing is not None:
                dead.closing = {**dead.closing, **(letter.closing or {}), "stages": dead.closing["stages"]}
        for left in flight.dead or ():  # of routes that it takes for the first time: others went before it
            left.order_known = left.order_known and left.key is None
        # A stage of `finally` was told of its route's outcome, which is not its own.
        outcome = Outcome.DEAD if dead else Outcome.HANDLED if again.only else flight.outcome
        overtakings = self._overtaken.by([flight])
        as_job = letter.job if again.left and dead is None else ""
        return replace(result, outcome=outcome, dead=dead, unit=flight.unit(), overtakings=overtakings, left=as_job)


def _told(result: Redriven) -> str:
    if result.outcome is None:
        return f"refused: {result.reason}"
    if result.dead:
        return f"dead again: {result.dead.reason}"
    return f"left as a job of the stage {result.left!r}" if result.left else f"redriven, {result.outcome}"
