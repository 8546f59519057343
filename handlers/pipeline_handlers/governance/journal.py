"""Lines of the log, after the commit: one for each change of state, where that is asked for, and for each failure."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pipeline import Row
from pipeline.errors import HandlerError
from pipeline_handlers.audit.tables import AuditLog

__all__ = ["Failure", "changes_among", "tell", "warn"]

_LONGEST: Final = 500
"""Characters of a line: errors may be long."""
_EXECUTION: Final = "execution_"
_STATES: Final = (_EXECUTION, "approval_")
_NO_CHANGES: Final = frozenset(
    {"approval_decision", "approval_refused", "execution_held_back", "execution_backing_off"}
)
"""The last of them is a failure, which `warn` tells."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A try of an action that failed.

    Attributes:
        whose: ``<workflow> <entity>/<id> (<execution>)``.
        action: What it was.
        attempt: The number of the try.
        error: What it raised.
        reason: The same in words.
        after: Seconds until the next try; None where the execution has failed.
    """

    whose: str
    action: str
    attempt: int
    error: BaseException
    reason: str
    after: float | None


def warn(log: logging.Logger, failures: Iterable[Failure]) -> None:
    """Log each failure; one that nobody raised on purpose with its traceback."""
    for one in failures:
        expected = isinstance(one.error, HandlerError | TimeoutError)
        line = f"{one.whose}: {one.action} failed at try {one.attempt} ({one.reason[:_LONGEST]}); " + (
            "the execution has failed" if one.after is None else f"next try in {one.after:g} s"
        )
        log.warning("%s", _printable(line), exc_info=None if expected else one.error)


def changes_among(rows: Iterable[Any]) -> list[Mapping[str, Any]]:
    """The values of those rows that audit a change of state of an execution or an approval."""
    found = (row.values for row in rows if type(row) is Row and row.table is AuditLog)
    return [one for one in found if str(one["action"]).startswith(_STATES) and one["action"] not in _NO_CHANGES]


def tell(log: logging.Logger, changes: Iterable[Mapping[str, Any]]) -> None:
    """Log each change at level info: ``<workflow> <entity>/<id>: <what it is now>``."""
    for line in _lines(changes):
        log.info("%s", line)


def _lines(changes: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    asks: set[str] = set()
    for change in changes:
        execution, action = change["details"]["execution_id"], str(change["action"])
        if action == "approval_opened":
            asks.add(execution)
        if action != "execution_waiting" or execution not in asks:  # what it waits for is told already
            yield _line(change, _words(change, action))


def _words(change: Mapping[str, Any], action: str) -> str:
    details = change["details"]
    state = action.removeprefix(_EXECUTION).replace("_", " ")
    if action == "approval_opened":
        return f"waiting (approval by {', '.join(details['approvers'])})"
    if action == "approval_escalated":
        return f"{state} to {', '.join(details['approvers'])}"
    by = f" by {change['user_id']}" if action in ("approval_granted", "approval_rejected") and change["user_id"] else ""
    why = details.get("error") or details.get("reason")
    return f"{state}{by}: {why}" if why else f"{state}{by}"


def _line(change: Mapping[str, Any], told: str) -> str:
    return _printable(
        f"{change['details']['workflow']} {change['entity_type']}/{change['entity_id']}: {told}"[:_LONGEST]
    )


def _printable(line: str) -> str:
    return line if line.isprintable() else "".join(one if one.isprintable() else " " for one in line)
