"""The event of an asynchronous stage as a job: everything that its handler would have been given, and its message."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from pipeline.connectors import Message
from pipeline.errors import PipelineError, Reject, text_of
from pipeline.events import Event, Outcome
from pipeline.handlers import Context
from pipeline.jobs.contract import Job, NewJob
from pipeline.ledger.clean import clean_json

__all__ = [
    "PREFIX", "EarlierFailure", "StageEvent", "is_stage_event", "restored_error", "stage_event", "stage_job",
    "told_error",
]  # fmt: skip

PREFIX: Final = "stage:"
"""What the ids of such jobs begin with; the context's request id follows."""


class EarlierFailure(PipelineError):
    """What ended a route's stages, as a ``finally`` stage on a worker sees it; `kind` is the error's class."""

    def __init__(self, kind: str, reason: str) -> None:
        self.kind = kind
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class StageEvent:
    """An event as an asynchronous stage gets it.

    Attributes:
        event: The event, decoded anew.
        message: Its message, with the bytes as they came.
        incarnation: The stream's.
        group: The consumer group.
        route: The route's name.
        key: Its ordering key on that route; None where it has none.
        ordered: Whether the route keeps the events of a key in order.
        outcome: What became of the route's stages, for a ``finally`` stage; else None.
        error: What ended them.
        redrive: Which redrive of the stage's own dead letter has left it, from 1; 0 for none.
    """

    event: Event[Any]
    message: Message
    incarnation: int
    group: str
    route: str
    key: str | None
    ordered: bool
    outcome: Outcome | None
    error: BaseException | None
    redrive: int = 0

    def context(self, stage: str, attempt: int) -> Context:
        """The context of one try; its request id is the one that it had where the event came in."""
        return Context(stage, self.route, self.group, self.event.id, attempt, self.outcome, self.error)


def stage_job(
    queue: str,
    context: Context,
    event: Event[Any],
    message: Message,
    incarnation: int,
    key: str | None = None,
    *,
    ordered: bool = False,
    redrive: int = 0,
) -> NewJob:
    """The job that runs an event through an asynchronous stage.

    Args:
        queue: The stage's queue.
        context: As the stage's handler would get it: stage, route, group, and for ``finally`` the outcome and error.
        event: The event; its bytes must be its message's.
        message: The message.
        incarnation: The stream's.
        key: The event's ordering key on the route; a batch holds at most one event of each.
        ordered: Whether the route keeps the events of a key in order.
        redrive: Which redrive of the stage's own dead letter this is, from 1: it is told of this very job's end, so
            the job is none that is there already. 0 for none.
    """
    fields = {
        "id": event.id,
        "message_id": message.id,
        "routing_key": event.routing_key,
        "message_key": message.routing_key,
        "headers": dict(event.headers),
        "content_type": event.content_type,
        "timestamp": event.timestamp,
        "source": event.source,
        "stream": event.stream,
        "offset": event.offset,
        "incarnation": incarnation,
        "group": context.group,
        "route": context.route,
        "key": key,
        "ordered": ordered,
        "outcome": None if context.outcome is None else context.outcome.value,
        "error": told_error(context.error),
        **({"redrive": redrive} if redrive else {}),
    }
    # Ids and headers may hold what no database takes, and must come back as they were; as JSON text they can.
    told = fields if clean_json(fields) == fields else {"encoded": json.dumps(fields)}
    payload = {"event": told, "body": bytes(event.body).decode()}  # it was decoded as JSON, so it is UTF-8 without NUL
    id_ = PREFIX + context.request_id + (f":redrive:{redrive}" if redrive else "")
    return NewJob(id_, queue, payload, stage=context.stage)


def is_stage_event(job: Job) -> bool:
    """Whether a job is an event of an asynchronous stage, and none of its handler's own."""
    return job.id.startswith(PREFIX) and "event" in job.payload


def stage_event(job: Job) -> StageEvent:
    """The inverse of `stage_job`."""
    told = job.payload["event"]
    fields = json.loads(told["encoded"]) if "encoded" in told else told
    body = str(job.payload["body"]).encode()
    headers, content_type = fields["headers"], fields["content_type"]
    timestamp, offset = fields["timestamp"], fields["offset"]
    event: Event[Any] = Event(
        fields["id"], fields["routing_key"], orjson.loads(body), headers, content_type, body, timestamp,
        fields["source"], fields["stream"], offset,
    )  # fmt: skip
    message = Message(offset, timestamp, body, fields["message_key"], fields["message_id"], headers, content_type)
    outcome = None if fields["outcome"] is None else Outcome(fields["outcome"])
    return StageEvent(
        event, message, fields["incarnation"], fields["group"], fields["route"], fields["key"],
        fields.get("ordered", True), outcome,
        restored_error(fields["error"]), fields.get("redrive", 0),
    )  # fmt: skip


def told_error(error: BaseException | None) -> dict[str, str] | None:
    """What ended a route's stages, as JSON values."""
    if error is None:
        return None
    told = {"class": type(error).__name__, "reason": text_of(error)}
    return told | {"kind": str(error.kind)} if isinstance(error, Reject) else told


def restored_error(told: Mapping[str, str] | None) -> BaseException | None:
    """The inverse of `told_error`, as a ``finally`` stage sees it."""
    if told is None:
        return None
    if "kind" in told:
        return Reject(told["reason"], kind=told["kind"])
    return EarlierFailure(told["class"], told["reason"])
