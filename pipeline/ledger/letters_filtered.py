"""What dead letters can be chosen by, as conditions of a query."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import BigInteger, ColumnElement, and_, bindparam, false, func, or_, select

from pipeline.errors import UserError
from pipeline.ledger.clean import clean_id
from pipeline.ledger.replay_table import ReplayRow
from pipeline.ledger.tables import DeadLetter

__all__ = ["FILTERS", "conditions", "named", "redrivable"]

FILTERS: Final = (
    "source", "group", "stream", "route", "stage", "kind", "event_id", "routing_key", "state", "fingerprint", "ids",
    "since", "until", "upto", "among", "replay",
)  # fmt: skip
"""What dead letters can be chosen by: the names of `DeadLetter`'s fields; ``ids``, of which it must be one; ``since``
(included) and ``until`` (excluded), aware times between which they failed last; ``upto``, the greatest id; ``among``,
pairs of group and stream, of which, or of whose replays, it must be one; ``replay``, the name of the replay that left
it."""
_TABLE: Final[Any] = DeadLetter.__table__  # type: ignore[attr-defined]
_REPLAYS: Final[Any] = ReplayRow.__table__  # type: ignore[attr-defined]


def conditions(filters: dict[str, Any]) -> list[ColumnElement[bool]]:
    """Filters as conditions; one that is None does not filter.

    Raises:
        UserError: There is no such filter.
    """
    given = {name: value for name, value in filters.items() if value is not None}
    unknown = sorted(set(filters) - set(FILTERS))
    if unknown:
        raise UserError(f"dead letters can't be chosen by {unknown[0]!r}; known are {', '.join(FILTERS)}")
    return [_condition(name, value) for name, value in given.items()]


def redrivable(group: str, stream: str) -> ColumnElement[bool]:
    """Of this source, or of a replay of it that was not forgotten: then it is known which stages it runs."""
    known = select(_REPLAYS.c.consumer_group).where(
        _REPLAYS.c.consumer_group == _TABLE.c.consumer_group, _REPLAYS.c.stream == _TABLE.c.stream
    )
    return or_(_of_source(group, stream), and_(_of_source_or_its_replays(group, stream), known.exists()))


def named(column: Any, ids: Iterable[int]) -> ColumnElement[bool]:
    """Of one of these ids, however many: they stand in the statement, for drivers bind so many values and no more."""
    found: ColumnElement[bool] = column.in_(
        bindparam(None, list(ids), BigInteger, expanding=True, literal_execute=True, unique=True)
    )
    return found


def _condition(name: str, value: Any) -> ColumnElement[bool]:
    fields = {"ids": "id", "upto": "id", "among": "id", "replay": "group", "since": "last_at", "until": "last_at"}
    column: Any = getattr(DeadLetter, fields.get(name, name))
    condition: ColumnElement[bool]
    match name:
        case "ids":
            condition = named(column, value)
        case "upto":
            condition = column <= value
        case "among":
            condition = or_(false(), *(_of_source_or_its_replays(*source) for source in value))
        case "replay":
            end = f".replay.{value}"  # compared as it is: LIKE takes capitals for small letters in SQLite
            condition = func.substr(column, func.length(column) - len(end) + 1) == end
        case "since":
            condition = column >= value
        case "until":
            condition = column < value
        case "event_id":
            condition = column == clean_id(value)
        case _:
            condition = column == value
    return condition


def _of_source(group: str, stream: str) -> ColumnElement[bool]:
    return and_(_TABLE.c.consumer_group == group, _TABLE.c.stream == stream)


def _of_source_or_its_replays(group: str, stream: str) -> ColumnElement[bool]:
    replays = _TABLE.c.consumer_group.startswith(f"{group}.replay.", autoescape=True)
    return or_(_of_source(group, stream), and_(replays, _TABLE.c.stream == stream))
