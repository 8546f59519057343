"""A dry run: what a replay would do with each message of its range, as far as that is known without its handlers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from pipeline.config.load import Loaded
from pipeline.config.models import STAGES
from pipeline.connectors import Connector, Message, MessageBatch, Start
from pipeline.dispatch.decode import Decoder, Undecodable
from pipeline.errors import ENDINGS, Reject, describe, text_of
from pipeline.events import Event, Outcome
from pipeline.ledger.lease import Lease
from pipeline.ledger.units import Progress, SourceKey
from pipeline.replay.planning import Plan
from pipeline.routing import Route, Router
from pipeline.stages import Stage

__all__ = ["DryRunReport", "EventReport", "RouteReport", "RouteTally", "StageTally", "dry_run"]


@dataclass(slots=True)
class StageTally:
    """What one stage of one route would get.

    Attributes:
        name: The stage's name.
        closing: Whether it is one of ``finally``.
        queue: The queue that it would leave its events on as jobs; None where it is not async.
        handled: Events that its handler would be given.
        filtered: Events that do not meet its condition.
        invalid: Events whose data does not fit the model that its handler declares.
    """

    name: str
    closing: bool
    queue: str | None
    handled: int = 0
    filtered: int = 0
    invalid: int = 0


@dataclass(slots=True)
class RouteTally:
    """What one route would get.

    Attributes:
        name: The route's name.
        handled: Events that meet its condition, and whose data is valid.
        filtered: Events that do not meet its condition.
        invalid: Events that would be dead because of their data.
        stages: Its stages, in order, ``finally`` last.
    """

    name: str
    handled: int = 0
    filtered: int = 0
    invalid: int = 0
    stages: list[StageTally] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RouteReport:
    """What would become of one event on one route.

    Attributes:
        route: The route's name.
        key: Its ordering key there; None where it has none.
        stages: The stages that would be given the event.
        reason: Why it would be filtered or dead; empty where it is neither.
    """

    route: str
    key: str | None
    stages: Sequence[str]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class EventReport:
    """What would become of one message.

    Attributes:
        offset: Its place in the stream.
        id: The event's id; None where it can't be decoded.
        routing_key: Its routing key, where it is known.
        routes: Its routes.
        reason: Why it can't be decoded; empty where it can.
    """

    offset: int
    id: str | None
    routing_key: str | None
    routes: Sequence[RouteReport] = ()
    reason: str = ""


@dataclass(slots=True)
class DryRunReport:
    """What a replay would do.

    Attributes:
        name: The replay's name.
        source: The source.
        stream: The stream.
        first: The first offset of the range.
        last: The last offset of the range.
        note: What is not as it was asked for; for people.
        done: How many offsets earlier runs of this replay have finished; they are left out here.
        messages: Messages that were read.
        undecodable: Those that are no events.
        unrouted: Those that none of the routes takes.
        routes: The routes.
        examples: The first messages that a route takes, or that can't be decoded.
    """

    name: str
    source: str
    stream: str
    first: int
    last: int
    note: str = ""
    done: int = 0
    messages: int = 0
    undecodable: int = 0
    unrouted: int = 0
    routes: list[RouteTally] = field(default_factory=list)
    examples: list[EventReport] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


async def dry_run(
    loaded: Loaded, plan: Plan, *, show: int = 5, on_progress: Callable[[int], object] = lambda done: None
) -> DryRunReport:
    """Read the range of a plan, and say what a replay would do with it; nothing is written anywhere.

    Messages are decoded and routed, conditions evaluated and data held against the handlers' models. What handlers
    themselves would decide is not known.

    Args:
        loaded: The checked configuration.
        plan: From `plan_replay` with ``dry_run=True``.
        show: How many examples the report holds.
        on_progress: Called with the number of offsets that are done.

    Raises:
        Unavailable: The broker can't be reached, or was lost on the way.
        BrokerRefused: It says no.
    """
    judge = _Judge(loaded, plan, show)
    done = plan.progress or Progress()
    first = max(plan.first, done.prefix + 1)
    if plan.finished_at is not None or first > plan.last:
        return judge.report
    connector = loaded.connector(loaded.config.broker.url or "")
    try:
        await connector.claim()
        await connector.connect()
        async with contextlib.aclosing(_read(connector, plan, first)) as batches:
            async for batch in batches:
                for message in batch:
                    if message.offset <= plan.last and not any(a <= message.offset <= b for a, b in done.ahead):
                        judge.take(message)
                on_progress(min(batch[-1].offset, plan.last) - plan.first + 1)
                if batch[-1].offset >= plan.last:
                    break
    finally:
        await connector.close()
    return judge.report


def _read(connector: Connector, plan: Plan, first: int) -> AsyncGenerator[MessageBatch, None]:
    table = plan.choice.table
    batches = connector.read(table.stream, Start("offset", first), name=f"{table.group} dry run", max_batch=table.batch)
    return cast("AsyncGenerator[MessageBatch, None]", batches)


class _Judge:
    """Holds messages against routes, conditions and models, and counts."""

    def __init__(self, loaded: Loaded, plan: Plan, show: int) -> None:
        choice = plan.choice
        stream = choice.table.stream
        lease = Lease(
            SourceKey(choice.source, choice.group, stream), "", 0, plan.incarnation, Progress(), started=False
        )
        self._decoder = Decoder(choice.source, stream, lease, choice.table.limits)
        self._router = Router(choice.routes)
        self._source = choice.source
        self._stages = {name: _stage(loaded, name) for name in choice.stages}
        self._show = show
        self.report = DryRunReport(choice.name, choice.source, stream, plan.first, plan.last, plan.note, plan.done)
        self._tallies: dict[int, _Chains] = {}
        for route in self._router.routes:
            chains = _Chains(route, self._stages)
            self._tallies[route.index] = chains
            self.report.routes.append(chains.tally)

    def take(self, message: Message) -> None:
        """Count what would become of a message."""
        report = self.report
        report.messages += 1
        try:
            event = self._decoder.decode(message)
        except Undecodable as reason:
            report.undecodable += 1
            self._example(EventReport(message.offset, message.id, message.routing_key, (), str(reason)))
            return
        routes = self._router.routes_for(self._source, event.routing_key)
        if not routes:
            report.unrouted += 1
            return
        taken = [self._tallies[route.index].take(event) for route in routes]
        self._example(EventReport(message.offset, event.id, event.routing_key, taken))

    def _example(self, event: EventReport) -> None:
        if len(self.report.examples) < self._show:
            self.report.examples.append(event)


class _Chains:
    """One route: its stages and the tally of what they would get."""

    def __init__(self, route: Route, stages: Mapping[str, Stage]) -> None:
        self._route = route
        self._stages = [(stages[name], _tally(stages[name], closing=False)) for name in route.stages]
        self._closing = [(stages[name], _tally(stages[name], closing=True)) for name in route.finally_]
        self.tally = RouteTally(route.name, stages=[tally for _, tally in (*self._stages, *self._closing)])

    def take(self, event: Event[Any]) -> RouteReport:
        """Count what would become of an event."""
        route, variables = self._route, event.variables()
        key = route.key_of(event)
        if route.when is not None:
            holds, reason = route.when.holds(variables)
            if not holds:
                self.tally.filtered += 1
                return RouteReport(route.name, key, (), reason or "the route's condition does not hold")
        names: list[str] = []
        error = _run(self._stages, event, variables, names, stop=True)
        outcome = Outcome.DEAD if error else Outcome.HANDLED
        late = _run(self._closing, event, variables | {"outcome": outcome.value, "error": error}, names, stop=False)
        if error or late:
            self.tally.invalid += 1
        else:
            self.tally.handled += 1
        return RouteReport(route.name, key, names, error or late)


def _run(
    chain: Sequence[tuple[Stage, StageTally]],
    event: Event[Any],
    variables: dict[str, Any],
    names: list[str],
    *,
    stop: bool,
) -> str:
    """Lead an event through stages, up to the handlers; why it would be dead, empty where it would not."""
    error = ""
    for stage, tally in chain:
        if stage.when is not None and not stage.when.holds(variables)[0]:
            tally.filtered += 1
            continue
        try:
            if stage.validates:
                stage.validated(event)
        except ENDINGS:
            raise
        except BaseException as failure:  # noqa: BLE001 - a model's validator may raise anything
            tally.invalid += 1
            error = error or f"{stage.name}: {(text_of if isinstance(failure, Reject) else describe)(failure)}"
            if stop:
                return error
        else:
            tally.handled += 1
            names.append(stage.name)
    return error


def _stage(loaded: Loaded, name: str) -> Stage:
    """The stage, not started: its condition and its handler's models."""
    table = loaded.config.stage[name]
    handler, queue = loaded.handler(name)(loaded.options(name)), table.async_queue or STAGES
    return Stage(name, handler, loaded.policy(name), loaded.when(name), is_async=table.is_async, queue=queue)


def _tally(stage: Stage, *, closing: bool) -> StageTally:
    return StageTally(stage.name, closing, stage.queue if stage.is_async else None)
