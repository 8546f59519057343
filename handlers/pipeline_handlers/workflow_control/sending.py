"""Sending: many signals at once, those to one workflow one after the other, each only as often as need be."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from pipeline import Reject, Throttled, Unavailable
from pipeline.ledger.clean import clean_text
from pipeline_handlers.workflow_control.asking import Asked
from pipeline_handlers.workflow_control.checks import NotConfirmed, Target, confirmed_row, look_until
from pipeline_handlers.workflow_control.options import BatchOptions, WorkflowControlOptions
from pipeline_handlers.workflow_control.pacing import Pacer

__all__ = ["Sender"]

_REMEMBERED: Final = 1_000
"""Of so many unfinished events it is remembered which workflows took their signals."""
_QUERY: Final = "the workflows of "
"""What tells a query from a workflow's id, where either waits for its turn."""


@dataclass(slots=True)
class _State:
    """What has become of a batch so far."""

    outage: Unavailable | None = None


@dataclass(slots=True)
class _Begun:
    """An event of which some workflows got their signals.

    Attributes:
        at: When it was asked for.
        answers: These workflows, and why they did not take them; None where they did.
    """

    at: datetime
    answers: dict[str, Reject | None] = field(default_factory=dict)


@dataclass(slots=True)
class _Turn:
    """Whose turn it is to signal one workflow."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class Sender:
    """Sends what events ask for.

    Args:
        options: The stage's options.
        temporal: The resource.
        pacer: Says when a workflow may be signalled.
        log: Where what was sent is told.
    """

    def __init__(self, options: WorkflowControlOptions, temporal: Any, pacer: Pacer, log: logging.Logger) -> None:
        self._options = options
        self._temporal = temporal
        self._pacer = pacer
        self._log = log
        self._slots = asyncio.Semaphore(options.in_flight)
        self._begun: OrderedDict[str, _Begun] = OrderedDict()
        self.turns: dict[str, _Turn] = {}
        """Whose turn it is, by workflow; of those only that are signalled now."""

    async def send(self, batch: Sequence[Asked]) -> None:
        """Send what events ask for; what fails stands in `Asked.errors`."""
        state = _State()
        by_workflow: dict[str, list[Asked]] = {}
        for asked in batch:
            if begun := self._begun.get(asked.request_id):
                asked.at = begun.at
            for workflow_id in asked.workflow_ids:
                by_workflow.setdefault(workflow_id, []).append(asked)
        async with asyncio.TaskGroup() as tasks:
            for workflow_id, orders in by_workflow.items():
                tasks.create_task(self._send_in_order(workflow_id, orders, state))
            for asked in batch:
                if asked.query:
                    tasks.create_task(self._start_batch(asked, state))

    def forget(self, asked: Asked) -> None:
        """An event is over: it is not sent again."""
        self._begun.pop(asked.request_id, None)

    def forget_rejections(self, asked: Asked) -> None:
        """Ask those workflows again that took no signal: the event may be tried much later, after a redrive."""
        begun = self._begun.get(asked.request_id)
        if begun is not None:
            begun.answers = {name: answer for name, answer in begun.answers.items() if answer is None}

    async def _send_in_order(self, workflow_id: str, orders: Sequence[Asked], state: _State) -> None:
        async with self._turn(workflow_id):
            for asked in orders:
                error = await self._send(workflow_id, asked, state)
                if error is not None:
                    asked.errors[workflow_id] = error

    async def _send(self, workflow_id: str, asked: Asked, state: _State) -> Exception | None:
        begun = self._begun.get(asked.request_id)
        try:
            if begun is None or workflow_id not in begun.answers:
                _refuse_during(state.outage)
                self._await_turn(workflow_id, asked)
                async with self._slots:
                    await self._signal(workflow_id, asked, state)
                self._note(workflow_id, asked, None)
                self._log.info("sent %s to %s", asked.signal, workflow_id)
            elif refused := begun.answers[workflow_id]:
                return refused
            await self._confirm(workflow_id, asked)
        except Unavailable as error:
            state.outage = state.outage or error
            return error
        except Reject as error:
            self._note(workflow_id, asked, Reject(str(error), kind=error.kind))
            return error
        except Exception as error:  # noqa: BLE001 - the engine decides, event by event
            return error
        return None

    async def _signal(self, workflow_id: str, asked: Asked, state: _State) -> None:
        _refuse_during(state.outage)
        try:
            await self._temporal.signal(
                workflow_id,
                asked.signal,
                request_id=asked.request_id_of(workflow_id),
                args=asked.args,
                run_id=asked.run_id,
            )
        except Unavailable:
            self._pacer.met_outage(workflow_id, asked.request_id)
            raise
        finally:
            self._pacer.sent(workflow_id, asked.request_id)  # also where it failed: the server may have taken it

    def _await_turn(self, key: str, asked: Asked) -> None:
        """Raise `Throttled` where others, or the signals before, are to come first."""
        if wait := self._pacer.wait(key, asked.request_id):
            raise Throttled(f"its signal to {key} waits for its turn", wait)

    async def _confirm(self, workflow_id: str, asked: Asked) -> None:
        """Wait until the signal is seen to have taken effect, where the stage waits for that."""
        check = self._options.verify.get(asked.signal)
        if check is None or not check.wait:
            return
        target = Target(workflow_id, asked.run_id)
        seen = await look_until(self._temporal, check, target, check.timeout)
        if not seen.confirmed:
            why = seen.reason or f"it is {seen.value!r}"
            raise NotConfirmed(f"{asked.signal} of {workflow_id} is not confirmed within {check.timeout:g} s: {why}")
        asked.rows.append(confirmed_row(asked.cause, asked.signal, check, target, asked.at, seen))

    async def _start_batch(self, asked: Asked, state: _State) -> None:
        batch = self._options.batch
        assert batch is not None  # noqa: S101 - without it no event has a query
        key = f"{_QUERY}{asked.query}"
        try:
            async with self._turn(key):
                self._await_turn(key, asked)
                async with self._slots:
                    _refuse_during(state.outage)
                    await self._start(asked, batch)
                    self._pacer.sent(key, asked.request_id)
        except Exception as error:  # noqa: BLE001 - the engine decides, event by event
            asked.errors[""] = error

    async def _start(self, asked: Asked, batch: BatchOptions) -> None:
        matched = await self._temporal.count(asked.query)
        if batch.max_workflows is not None and matched > batch.max_workflows:
            raise Reject(
                f"the query matches {matched} workflows, and batch.max_workflows allows {batch.max_workflows}: "
                f"{asked.query}",
                kind="too_many_workflows",
            )
        operation = batch.operations.get(asked.signal, "signal")
        await self._temporal.start_batch(
            asked.request_id,
            asked.query,
            operation,
            signal=asked.signal,
            args=asked.args,
            reason=clean_text(f"{asked.cause.routing_key} {asked.cause.event_id}"),
        )
        self._log.info("%s by batch %s, of %d: %s", asked.signal, asked.request_id, matched, asked.query)

    def _note(self, workflow_id: str, asked: Asked, answer: Reject | None) -> None:
        """Remember an answer: its event may come again because of other workflows."""
        self._begun.setdefault(asked.request_id, _Begun(asked.at)).answers[workflow_id] = answer
        self._begun.move_to_end(asked.request_id)
        if len(self._begun) > _REMEMBERED + self._options.in_flight:
            self._begun.popitem(last=False)  # its signals may be sent again, to no effect

    @asynccontextmanager
    async def _turn(self, workflow_id: str) -> AsyncIterator[None]:
        """Wait for one's turn at this workflow: batches overlap. First come, first served."""
        turn = self.turns.setdefault(workflow_id, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self.turns[workflow_id]


def _refuse_during(outage: Unavailable | None) -> None:
    """Raise it: the rest of a batch would only wait for the same time-out, one after the other."""
    if outage is not None:
        raise Unavailable(outage.dependency, outage.reason)
