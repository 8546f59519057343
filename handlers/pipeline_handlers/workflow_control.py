"""The handler ``workflow-control``: an event's routing key becomes a signal to the workflow that its data names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, Field

from pipeline import Context, Delivery, Event, Handler, Reject, Setup, Unavailable, hookimpl
from pipeline.expressions import FINALLY, Expression, compile_expression

__all__ = ["Signaller", "WorkflowControlHandler", "WorkflowControlOptions", "pipeline_handlers"]

DEFAULT_SIGNALS: Mapping[str, str] = {
    "admin.workflow.paused": "pause",
    "admin.workflow.resumed": "resume",
    "admin.workflow.cancelled": "cancel",
}
"""Routing key → signal."""

Name = Annotated[str, Field(min_length=1)]


class Signaller(Protocol):
    """What the handler asks of its resource."""

    async def signal(
        self, workflow_id: str, signal: str, *, request_id: str, args: Sequence[Any] = (), run_id: str | None = None
    ) -> None:
        """Signal a workflow, once per run and `request_id`. Raises `Reject` or `Unavailable`."""


class WorkflowControlOptions(BaseModel):
    """``[stage.workflow-control]``: which routing key sends which signal, and to which workflow."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    signals: Annotated[dict[str, Name], Field(min_length=1)] = Field(
        default_factory=lambda: dict(DEFAULT_SIGNALS), description="Routing key → name of the signal."
    )
    workflow_id: Expression = Field(
        default_factory=lambda: compile_expression("data.workflow_id", extra=FINALLY), description="The workflow's id."
    )
    run_id: Expression | None = Field(None, description="One run of the workflow; without it, the current one.")
    signal_args: tuple[Expression, ...] = Field((), description="The signal's arguments, as in ['id', 'data.reason'].")
    in_flight: int = Field(50, ge=1, le=1_000, description="How many signals are on their way at once.")
    resource: str = Field("temporal", min_length=1, description="The [resource.…] that reaches the workflows.")


@dataclass(frozen=True, slots=True)
class _Order:
    """One signal to send, and its place in the batch."""

    index: int
    workflow_id: str
    run_id: str | None
    signal: str
    args: tuple[Any, ...]
    request_id: str


@dataclass(slots=True)
class _Batch:
    """What has become of a batch so far."""

    errors: list[BaseException | None]
    outage: Unavailable | None = None


@dataclass(slots=True)
class _Turn:
    """Whose turn it is to signal one workflow."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class WorkflowControlHandler(Handler[WorkflowControlOptions]):
    """Sends signals, many at once, but those to one workflow one after the other, in stream order.

    Where the route's ordering key is the workflow's id, order holds whatever fails, since the events behind one that
    is tried again wait. Where it is not, a signal that is tried again may come after a later one.
    """

    name = "workflow-control"
    Options: ClassVar[type[BaseModel]] = WorkflowControlOptions
    resources: ClassVar[tuple[str, ...]] = ("temporal",)

    # A batch is done when its slowest signal is: as many as are sent at once wait for no other.
    max_batch = 50

    @classmethod
    def needs(cls, options: WorkflowControlOptions) -> tuple[str, ...]:
        """The resource that the options name."""
        return (options.resource,)

    def __init__(self, options: WorkflowControlOptions) -> None:
        super().__init__(options)
        self._slots = asyncio.Semaphore(options.in_flight)
        self._turns: dict[str, _Turn] = {}

    async def start(self, setup: Setup) -> None:
        """Take hold of the resource."""
        self._log = setup.log
        self._signaller: Signaller = setup.resource(self.options.resource)

    async def handle_batch(self, batch: Sequence[Delivery]) -> Sequence[BaseException | None]:
        """Send every event's signal; per event None, or why it was not sent."""
        state = _Batch([None] * len(batch))
        by_workflow: dict[str, list[_Order]] = {}
        for index, (event, context) in enumerate(batch):
            try:
                order = self._order(index, event, context)
            except Reject as error:
                state.errors[index] = error
            else:
                by_workflow.setdefault(order.workflow_id, []).append(order)
        async with asyncio.TaskGroup() as tasks:
            for orders in by_workflow.values():
                tasks.create_task(self._send_in_order(orders, state))
        return state.errors

    def _order(self, index: int, event: Event[Any], context: Context) -> _Order:
        """What to send. Raises `Reject` for an event that no signal can be made of."""
        signal = self.options.signals.get(event.routing_key)
        if signal is None:
            known = ", ".join(self.options.signals)
            raise Reject(f"no signal for the routing key {event.routing_key!r}; known: {known}", kind="unknown_action")
        variables = event.variables()
        run_id = None
        if self.options.run_id is not None and self.options.run_id.value(variables)[0] is not None:
            run_id = _required(self.options.run_id, variables, "run id")
        return _Order(
            index,
            _required(self.options.workflow_id, variables, "workflow id"),
            run_id,
            signal,
            tuple(argument.value(variables)[0] for argument in self.options.signal_args),
            context.request_id,
        )

    async def _send_in_order(self, orders: Sequence[_Order], state: _Batch) -> None:
        async with self._turn(orders[0].workflow_id):
            for order in orders:
                async with self._slots:
                    state.errors[order.index] = await self._send(order, state)

    async def _send(self, order: _Order, state: _Batch) -> Exception | None:
        if state.outage is not None:  # the rest would only wait for the same time-out, one after the other
            return Unavailable(state.outage.dependency, state.outage.reason)
        try:
            await self._signaller.signal(
                order.workflow_id, order.signal, request_id=order.request_id, args=order.args, run_id=order.run_id
            )
        except Unavailable as error:
            state.outage = error
            return error
        except Exception as error:  # noqa: BLE001 - the engine decides, event by event
            return error
        self._log.info("sent %s to %s", order.signal, order.workflow_id)
        return None

    @asynccontextmanager
    async def _turn(self, workflow_id: str) -> AsyncIterator[None]:
        """Wait for one's turn at this workflow: batches overlap. First come, first served."""
        turn = self._turns.setdefault(workflow_id, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[workflow_id]


def _required(expression: Expression, variables: Mapping[str, Any], what: str) -> str:
    value, reason = expression.value(variables)
    if isinstance(value, str) and value:
        return value
    if not reason:
        reason = "it is empty" if value == "" else f"it is {value!r:.80}, not a text"
    raise Reject(f"no {what}: {expression.text}: {reason}", kind="invalid_data")


@hookimpl
def pipeline_handlers() -> Sequence[type[Handler[Any]]]:
    """The handler ``workflow-control``."""
    return [WorkflowControlHandler]
