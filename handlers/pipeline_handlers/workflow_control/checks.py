"""Checks: whether a signal is seen to have taken effect."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from pipeline.errors import Retry
from pipeline.ledger.clean import clean_text
from pipeline.ledger.units import Row
from pipeline_handlers.workflow_control.contract import Answer, Signalled, Watcher
from pipeline_handlers.workflow_control.options import VerifyOptions
from pipeline_handlers.workflow_control.trail import Cause, audit_row, told

__all__ = ["NotConfirmed", "Seen", "Target", "confirmed_row", "look", "look_until", "superseded_row", "unconfirmed_row"]

_FIRST_WAIT: Final = 0.05
_LONGEST_WAIT: Final = 1.0
_MOST_SHOWN: Final = 200
"""Characters of what a workflow answered."""


class NotConfirmed(Retry):
    """A signal was taken by the server, but not seen to take effect in time."""


class Target(NamedTuple):
    """A workflow that was signalled.

    Attributes:
        workflow_id: Its id.
        run_id: One run of it; None for the current one.
        request_id: What its signal is known by.
    """

    workflow_id: str
    run_id: str | None = None
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look at a workflow found.

    Attributes:
        confirmed: Whether it is what it must be.
        value: What it is, short enough to be kept.
        reason: Why it is not known; empty where it is.
        at: When it was seen, or since when it is so, where the server knows (aware, UTC).
    """

    confirmed: bool
    value: Any
    reason: str
    at: datetime


async def look(watcher: Watcher, check: VerifyOptions, target: Target) -> Seen:
    """Look once. Raises `Unavailable` where Temporal itself can't be asked."""
    answer: Answer
    if check.by == "status":
        answer = await watcher.status(target.workflow_id, run_id=target.run_id)
    else:
        answer = await watcher.query(target.workflow_id, check.name, run_id=target.run_id)
    value, reason = _field(answer.value, check.field, answer.reason)
    confirmed = not reason and any(_equal(value, wanted) for wanted in check.expected)
    return Seen(confirmed, _short(value), clean_text(reason[:_MOST_SHOWN]), answer.at or datetime.now(UTC))


async def look_until(watcher: Watcher, check: VerifyOptions, target: Target, seconds: float) -> Seen:
    """Look again and again until it is confirmed, for so many seconds at most. Raises `Unavailable`."""
    ends = time.monotonic() + seconds
    wait = _FIRST_WAIT
    while True:
        seen = await look(watcher, check, target)
        left = ends - time.monotonic()
        if seen.confirmed or left <= 0:
            return seen
        await asyncio.sleep(min(wait, left))
        wait = min(wait * 2, _LONGEST_WAIT)


def confirmed_row(
    cause: Cause, signal: str, check: VerifyOptions, target: Target, requested: datetime, seen: Seen
) -> Row:
    """The row of a signal that was seen to take effect."""
    details = {**_details(signal, check, target, requested, seen), "effective_at": told(seen.at)}
    entity = ("workflow", target.workflow_id)
    return audit_row("workflow_signal_confirmed", cause, details, entity=entity, at=seen.at)


def unconfirmed_row(
    cause: Cause, signal: str, check: VerifyOptions, target: Target, requested: datetime, seen: Seen
) -> Row:
    """The row of a signal that was not seen to take effect in time."""
    details = {**_details(signal, check, target, requested, seen), "effective_at": None}
    wanted = " or ".join(json.dumps(value) for value in check.expected)
    why = seen.reason or f"it is {json.dumps(seen.value)}, not {wanted}"
    notes = f"not confirmed within {check.timeout:g} s: {why}"
    entity = ("workflow", target.workflow_id)
    return audit_row("workflow_signal_not_confirmed", cause, details, entity=entity, notes=notes)


def superseded_row(
    cause: Cause, signal: str, check: VerifyOptions, target: Target, requested: datetime, seen: Seen, by: Signalled
) -> Row:
    """The row of a signal that another one undid before it was seen to take effect."""
    details = {
        **_details(signal, check, target, requested, seen),
        "effective_at": None,
        "superseded_by": {"signal": clean_text(by.signal[:_MOST_SHOWN]), "at": told(by.at)},
    }
    return audit_row("workflow_signal_superseded", cause, details, entity=("workflow", target.workflow_id))


def _details(signal: str, check: VerifyOptions, target: Target, requested: datetime, seen: Seen) -> dict[str, Any]:
    run = {} if target.run_id is None else {"run_id": target.run_id}
    return {
        "workflow_id": target.workflow_id,
        **run,
        "signal": signal,
        "by": check.by if check.by == "status" else f"query {check.name}",
        "seen": seen.value,
        "requested_at": told(requested),
    }


def _field(value: Any, path: str, reason: str) -> tuple[Any, str]:
    """The field of an answer, and why there is none."""
    for name in path.split(".") if path and not reason else ():
        if not isinstance(value, Mapping) or name not in value:
            return None, f"the answer has no field {path!r}"
        value = value[name]
    return value, reason


def _equal(value: Any, wanted: Any) -> bool:
    """Whether two JSON values are equal: true is not 1."""
    return isinstance(value, bool) == isinstance(wanted, bool) and bool(value == wanted)


def _short(value: Any) -> Any:
    """A value that can be kept, whatever a workflow answers."""
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return clean_text(text[:_MOST_SHOWN])
