"""From an event to the columns of its audit row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.expressions import Expressions
from pipeline.topics import compile_pattern
from pipeline_handlers.audit.options import RowOptions

__all__ = ["Mapper", "Mappings"]

_COLUMNS = ("action", "entity_type", "entity_id", "user_id")
_DETAIL = "metadata."
_KEYS_REMEMBERED = 10_000

Columns = dict[str, Any]


class Mapper:
    """One ``[[stage.audit.row]]``, ready to be applied."""

    def __init__(self, options: RowOptions) -> None:
        self.when = options.when
        self._patterns = [compile_pattern(text) for text in options.match]
        details = {f"{_DETAIL}{name}": expression for name, expression in options.metadata.items()}
        columns = {name: getattr(options, name) for name in _COLUMNS}
        self._expressions = Expressions({name: value for name, value in {**columns, **details}.items() if value})
        self._details = [(name.removeprefix(_DETAIL), name) for name in details]

    def matches(self, routing_key: str) -> bool:
        """Whether one of its patterns matches."""
        return any(pattern.matches(routing_key) for pattern in self._patterns)

    def columns(self, variables: Mapping[str, Any]) -> Columns:
        """The row's mapped columns; what can't be had is null, and `notes` says why."""
        values, reasons = self._expressions.evaluate(variables)
        action = values.get("action")
        return {
            "action": variables["routing_key"] if action is None else action,
            "entity_type": values.get("entity_type"),
            "entity_id": values.get("entity_id"),
            "user_id": values.get("user_id"),
            "details": {name: values[key] for name, key in self._details},
            "notes": "; ".join(f"{name}: {reason}" for name, reason in reasons.items()) if reasons else None,
        }


class Mappings:
    """All mappings of a stage, in file order.

    Args:
        rows: The mappings' options.
        unmatched: Whether an event that none matches leaves a row with its routing key as action.
    """

    def __init__(self, rows: Sequence[RowOptions], *, unmatched: bool) -> None:
        rest = [Mapper(RowOptions())] if unmatched else []
        self._mappers = [*map(Mapper, rows), *rest]
        self._by_key: dict[str, list[Mapper]] = {}

    def columns(self, variables: Mapping[str, Any]) -> Columns | None:
        """The columns that the first fitting mapping gives; None where none fits."""
        for mapper in self._matching(variables["routing_key"]):
            if mapper.when is None or mapper.when.holds(variables)[0]:
                return mapper.columns(variables)
        return None

    def _matching(self, routing_key: str) -> list[Mapper]:
        found = self._by_key.get(routing_key)
        if found is None:
            if len(self._by_key) >= _KEYS_REMEMBERED:  # keys may be made up without end
                self._by_key.clear()
            found = self._by_key[routing_key] = [mapper for mapper in self._mappers if mapper.matches(routing_key)]
        return found
