"""Tries of an action: the row that tells of them, and what a failed one means for its execution."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from pipeline.errors import HandlerError, Reject, Retry, Unavailable, describe, text_of
from pipeline.ledger.clean import clean_json, clean_text
from pipeline.policies.backoff import backoff
from pipeline_handlers.governance.contract import Step, Wait

if TYPE_CHECKING:
    from pipeline.jobs.contract import Job
    from pipeline_handlers.governance.definitions import PlannedAction

__all__ = ["Begun", "Tried", "Verdict", "at_once", "begin", "complete", "fail", "judge", "suspend", "words"]

LONGEST_HISTORY: Final = 100
"""How many failed tries an action's row remembers: the newest ones."""
LONGEST_WORDS: Final = 2_000
"""Characters of an error that are kept."""
_FIRST_WAIT: Final = 2.0
_LONGEST_WAIT: Final = 300.0
"""Seconds to wait while what an action needs is down: doubled from the first to the longest."""
_LOST: Final = "its worker was lost or stopped before the try ended"


@dataclass(frozen=True, slots=True)
class Begun:
    """A try of an external action, which is written down as running and is now to be made."""

    job: Job
    planned: PlannedAction
    step: Step


@dataclass(frozen=True, slots=True)
class Tried:
    """What a try came to.

    Attributes:
        step: The try, and what it left; None where it did not come so far (`error` says why).
        result: What the action returned.
        error: What it raised.
    """

    step: Step | None
    result: Mapping[str, Any] | Wait | None = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a failed try means.

    Attributes:
        after: Seconds until the next try; None where the execution fails.
        counts: Whether it uses up one of the queue's tries; an outage does not.
    """

    after: float | None
    counts: bool = True


def begin(
    execution_id: str, position: int, use: str, now: datetime, before: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The action's row once another try begins.

    Args:
        execution_id: The execution.
        position: The action's index.
        use: The action's name.
        now: The time.
        before: Its row after the try before; None for the first.
    """
    row = {
        "execution_id": execution_id,
        "position": position,
        "action": use,
        "status": "running",
        "round": 0,
        "attempts": 1,
        "failures": 0,
        "history": [],
        "started_at": now,
        "ended_at": None,
        "result": None,
        "error": None,
    }
    if before is None:
        return row
    history = before["history"]
    if before["status"] == "running":  # nobody wrote down how it ended
        history = _remembered(history, before["attempts"], before["started_at"], _LOST)
    return row | {
        "round": before["round"],
        "attempts": before["attempts"] + 1,
        "failures": before["failures"],
        "history": history,
    }


def complete(row: dict[str, Any], result: Mapping[str, Any] | None, now: datetime) -> dict[str, Any]:
    """The row of a try that succeeded. Raises `TypeError` where the result is no mapping."""
    if result is not None and not isinstance(result, Mapping):
        raise TypeError(f"the action {row['action']!r} returned {type(result).__name__}, not a mapping, None or WAIT")
    kept = None if result is None else clean_json(result)
    return row | {"status": "completed", "ended_at": now, "result": kept, "error": None}


def suspend(row: dict[str, Any]) -> dict[str, Any]:
    """The row of a try that has begun something, and waits for its end."""
    return row | {"status": "waiting", "error": None}


def fail(row: dict[str, Any], error: BaseException, now: datetime, *, counts: bool = True) -> dict[str, Any]:
    """The row of a try that failed."""
    outage = isinstance(error, Unavailable)
    return row | {
        "status": "failed",
        "failures": row["failures"] + counts,
        "history": _remembered(row["history"], row["attempts"], now, words(error), outage=outage),
        "ended_at": now,
        "error": words(error),
    }


def judge(row: Mapping[str, Any], error: BaseException, retry_after: Callable[[int], float | None]) -> Verdict:
    """What follows from a failed try.

    Args:
        row: The action's row before `fail`.
        error: What the try raised.
        retry_after: The queue's policy: `Work.retry_after`.
    """
    if isinstance(error, Reject):
        return Verdict(None)
    if isinstance(error, Unavailable):
        return Verdict(backoff(_outages(row["history"]) + 1, _FIRST_WAIT, _LONGEST_WAIT), counts=False)
    wait = retry_after(row["failures"] + 1)
    if wait is not None and isinstance(error, Retry) and error.after is not None:
        wait = error.after
    return Verdict(wait)


def at_once(call: Coroutine[Any, Any, Mapping[str, Any] | Wait | None]) -> Mapping[str, Any] | Wait | None:
    """The result of a coroutine that waits for nothing.

    Within a transaction nothing may wait: others would wait for its locks, and an action that asks for the database
    itself would wait for ever.
    """
    try:
        call.send(None)
    except StopIteration as end:
        result: Mapping[str, Any] | Wait | None = end.value
        return result
    call.close()
    raise TypeError("the action waits for something, although it is not external: let is_external() return True")


def words(error: BaseException) -> str:
    """An error in words that a database takes; an instruction's own, else with the error's class."""
    told = text_of(error) if isinstance(error, HandlerError | TimeoutError) else ""
    return clean_text((told or describe(error))[:LONGEST_WORDS])


def _outages(history: list[dict[str, Any]]) -> int:
    """How many tries failed in a row just now because something was down."""
    number = 0
    for entry in reversed(history):
        if not entry.get("outage"):
            break
        number += 1
    return number


def _remembered(
    history: list[dict[str, Any]], attempt: int, at: datetime, error: str, *, outage: bool = False
) -> list[dict[str, Any]]:
    entry: dict[str, Any] = {"attempt": attempt, "at": at.isoformat(), "error": error}
    if outage:
        entry["outage"] = True
    return [*history, entry][-LONGEST_HISTORY:]
