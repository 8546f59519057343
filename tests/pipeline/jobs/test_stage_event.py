"""An event that is left for an asynchronous stage comes out of its job as it went in."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.connectors import Message
from pipeline.errors import Reject
from pipeline.events import Event, Outcome
from pipeline.handlers import Context
from pipeline.jobs.contract import Job, NewJob
from pipeline.jobs.outbox import job_values
from pipeline.jobs.stage_event import EarlierFailure, StageEvent, is_stage_event, stage_event, stage_job
from pipeline.ledger.database import Database
from tests.pipeline.jobs.samples import NOON, jobs, leave

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(["a\0b", "\ud800", "é"])
HEADERS = st.dictionaries(TEXTS, TEXTS | st.integers(-(2**80), 2**80) | st.booleans() | st.none(), max_size=3)


def event_of(message: Message, data: Any) -> Event[Any]:
    return Event(
        message.id or f"st/1/{message.offset}", message.routing_key or "", data, message.headers,
        message.content_type, message.body, message.timestamp, "source", "st", message.offset,
    )  # fmt: skip


def context_of(event: Event[Any], outcome: Outcome | None = None, error: BaseException | None = None) -> Context:
    return Context("stage", "route", "group", event.id, outcome=outcome, error=error)


def as_claimed(new: NewJob, payload: dict[str, Any] | None = None) -> Job:
    values = job_values(new, NOON, "p")
    return Job(new.id, new.queue, new.stage, payload or values["payload"], 0, 0, NOON, NOON)


def restored(new: NewJob) -> StageEvent:
    """As it comes out of a JSON column."""
    return stage_event(as_claimed(new, orjson.loads(orjson.dumps(new.payload))))


@given(
    data=st.dictionaries(st.text(max_size=5), TEXTS),
    message_id=st.none() | TEXTS.filter(lambda text: "\ud800" not in text),
    key=st.none() | TEXTS,
    headers=HEADERS,
)
def test_any_event_comes_back_as_it_was(
    data: dict[str, str],
    message_id: str | None,
    key: str | None,
    headers: dict[str, Any],
) -> None:
    try:
        body = orjson.dumps(data)
    except TypeError:
        body, data = b"{}", {}
    message = Message(7, 1_000, body, key, message_id, headers, "application/json")
    event = event_of(message, orjson.loads(body))

    back = restored(stage_job("stages", context_of(event), event, message, 3, "key"))

    assert [getattr(back.event, name) for name in Event.__slots__] == [getattr(event, name) for name in Event.__slots__]
    assert [getattr(back.message, name) for name in Message.__slots__] == [
        getattr(message, name) for name in Message.__slots__
    ]
    assert (back.incarnation, back.group, back.route, back.key) == (3, "group", "route", "key")


def test_a_redrive_leaves_a_job_of_its_own_under_the_same_request_id() -> None:
    message = Message(7, 1_000, b"{}", "a.b", "e1")
    event = event_of(message, {})
    first, second = (stage_job("stages", context_of(event), event, message, 1, redrive=number) for number in (0, 2))

    assert (restored(first).redrive, restored(second).redrive) == (0, 2)
    assert second.id == f"{first.id}:redrive:2"
    assert restored(first).context("stage", 1).request_id == restored(second).context("stage", 1).request_id


async def test_what_no_database_takes_comes_back_out_of_one(db: Database) -> None:
    message = Message(7, 1_000, b'{"text": "a\\u0000b"}', "k\0", "id\0", {"h": "\0"})
    event = event_of(message, {"text": "a\0b"})
    new = stage_job("stages", context_of(event), event, message, 1)

    await leave(db, new)

    row = (await jobs(db))[new.id]
    back = stage_event(Job(row.id, row.queue, row.stage, row.payload, 0, 0, NOON, NOON))
    assert (back.event.id, back.event.routing_key, back.event.headers) == ("id\0", "k\0", {"h": "\0"})
    assert back.event.data == {"text": "a\0b"}
    assert back.message.body == message.body


def test_its_job_is_named_after_the_request_so_a_repeat_leaves_none() -> None:
    message = Message(7, 1_000, b"{}", "a.b", "e1")
    event = event_of(message, {})
    context = context_of(event)

    first, second = (stage_job("stages", context, event, message, 1) for _ in range(2))

    assert first == second
    assert first.id == f"stage:{context.request_id}"
    assert (first.queue, first.stage) == ("stages", "stage")
    assert restored(first).context("stage", 2).request_id == context.request_id
    assert restored(first).context("stage", 2).attempt == 2


@pytest.mark.parametrize("error", [Reject("no such policy", kind="not_found"), ValueError("wrong"), None])
def test_a_closing_stage_learns_how_its_route_ended(error: BaseException | None) -> None:
    message = Message(7, 1_000, b"{}", "a.b", "e1")
    event = event_of(message, {})

    job = stage_job("stages", context_of(event, Outcome.DEAD, error), event, message, 1)
    context = restored(job).context("stage", 1)

    assert context.outcome is Outcome.DEAD
    assert str(context.error) == str(error)
    assert getattr(context.error, "kind", None) == (
        "not_found" if isinstance(error, Reject) else None if error is None else "ValueError"
    )
    assert error is None or isinstance(context.error, Reject | EarlierFailure)


def test_a_handlers_own_job_is_no_event() -> None:
    assert not is_stage_event(as_claimed(NewJob("execute:1", "queue", {"event": {}}, stage="stage")))
    assert not is_stage_event(as_claimed(NewJob("stage:1", "queue", {}, stage="stage")))
