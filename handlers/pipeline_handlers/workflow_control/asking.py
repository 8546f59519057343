"""From an event to what it asks for: which signal, to which workflows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pipeline import Context, Event, Reject
from pipeline.expressions import Expression
from pipeline.ids import name_uuid
from pipeline.ledger.clean import clean_text
from pipeline.ledger.units import Row
from pipeline_handlers.workflow_control.options import WorkflowControlOptions
from pipeline_handlers.workflow_control.trail import Cause

__all__ = ["Asked", "ask"]


@dataclass(slots=True)
class Asked:
    """What one event asks for, and what has become of it so far.

    Attributes:
        context: Its context.
        cause: The event, as audit rows tell of it.
        signal: The signal.
        args: The signal's arguments.
        workflow_ids: The workflows that it names; empty where it has a query instead.
        is_list: Whether it names them in a list, of however many.
        run_id: One run of the workflow; None for the current one.
        query: The query that finds the workflows; empty where it names them.
        at: When it was asked for, the time at which this handler began with it.
        rows: Audit rows to leave.
        errors: Why workflows took no signal, by their ids; and under "" why there is no batch operation.
    """

    context: Context
    cause: Cause
    signal: str
    args: tuple[Any, ...]
    workflow_ids: tuple[str, ...] = ()
    is_list: bool = False
    run_id: str | None = None
    query: str = ""
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    rows: list[Row] = field(default_factory=list)
    errors: dict[str, Exception] = field(default_factory=dict)

    @property
    def request_id(self) -> str:
        """What the whole event is known by; the same whenever it comes again."""
        return self.context.request_id

    def request_id_of(self, workflow_id: str) -> str:
        """What its signal to one workflow is known by."""
        return name_uuid(self.request_id, clean_text(workflow_id)) if self.is_list else self.request_id


def ask(options: WorkflowControlOptions, event: Event[Any], context: Context) -> Asked:
    """What an event asks for: the first counts that it has, of a list of ids, an id, and a query.

    Raises:
        Reject: ``unknown_action``, ``invalid_data`` or ``too_many_workflows``.
    """
    signal = options.signals.get(event.routing_key)
    if signal is None:
        known = ", ".join(options.signals)
        raise Reject(f"no signal for the routing key {event.routing_key!r}; known: {known}", kind="unknown_action")
    variables = event.variables()
    user_id = options.user_id.value(variables)[0] if options.user_id is not None else None
    args = tuple(argument.value(variables)[0] for argument in options.signal_args)
    asked = Asked(context, Cause.of(event, context, user_id), signal, args)
    ids = options.workflow_ids.value(variables)[0]
    if ids is not None:
        asked.workflow_ids = _listed(ids, options)
        asked.is_list = True
    elif query := _query(options, variables):
        asked.query = query
    else:
        if options.run_id is not None and options.run_id.value(variables)[0] is not None:
            asked.run_id = _required(options.run_id, variables, "run id")
        asked.workflow_ids = (_required(options.workflow_id, variables, "workflow id"),)
    return asked


def _query(options: WorkflowControlOptions, variables: Mapping[str, Any]) -> str:
    """The query of an event that names no workflow; empty where it is to name one."""
    batch = options.batch
    if batch is None or options.workflow_id.value(variables)[0] is not None:
        return ""
    if batch.event_query is not None and (batch.query is None or batch.event_query.value(variables)[0] is not None):
        return _required(batch.event_query, variables, "query")
    return "" if batch.query is None else batch.query.render(variables)


def _listed(ids: Any, options: WorkflowControlOptions) -> tuple[str, ...]:
    """The ids of a list, each once."""
    path, most = options.workflow_ids.text, options.max_workflows
    if not isinstance(ids, list | tuple) or not all(isinstance(one, str) and one for one in ids):
        raise Reject(f"no workflow ids: {path}: it is {ids!r:.80}, not a list of texts", kind="invalid_data")
    found = tuple(dict.fromkeys(ids))
    if not found:
        raise Reject(f"no workflow ids: {path}: the list is empty", kind="invalid_data")
    if len(found) > most:
        raise Reject(
            f"{path} names {len(found)} workflows, and max_workflows allows {most}: send several events, or use a "
            "query",
            kind="too_many_workflows",
        )
    return found


def _required(expression: Expression, variables: Mapping[str, Any], what: str) -> str:
    value, reason = expression.value(variables)
    if isinstance(value, str) and value:
        return value
    if not reason:
        reason = "it is empty" if value == "" else f"it is {value!r:.80}, not a text"
    raise Reject(f"no {what}: {expression.text}: {reason}", kind="invalid_data")
