"""The audit handler: one row for each event, written in the transaction that records the event's outcome."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel

from pipeline import Delivery, Handler, Setup
from pipeline.ledger.clean import clean_id, clean_json, clean_text
from pipeline.ledger.units import Row
from pipeline_handlers.audit.mapping import Mappings
from pipeline_handlers.audit.options import AuditOptions

if TYPE_CHECKING:
    from pipeline_handlers.audit.tables import AuditLog

__all__ = ["AuditHandler"]

_LOGGED = ("action", "entity_type", "entity_id", "user_id", "details")


class AuditHandler(Handler[AuditOptions]):
    """Leaves a row in ``audit_logs``; as a ``finally`` stage with the event's outcome, also of one that failed.

    A field that an expression asks for and the event lacks gives null and a note, never an error: what happened is
    recorded as far as it is known. Likewise text that a database refuses (NUL) is written in another way, as in dead
    letters: an event that had its effect must not go without its row.
    """

    name = "audit"
    Options: ClassVar[type[BaseModel]] = AuditOptions

    async def start(self, setup: Setup) -> None:
        """Compile the mappings, and load the table's class."""
        from pipeline_handlers.audit.tables import AuditLog

        self._log = setup.log
        self._mappings = Mappings(self.options.row, unmatched=self.options.unmatched == "row")
        self._table: type[AuditLog] = AuditLog

    async def handle_batch(self, batch: Sequence[Delivery]) -> None:
        """Add each event's row."""
        now = datetime.now(UTC)
        for event, context in batch:
            variables = event.variables()
            outcome = None if context.outcome is None else str(context.outcome)
            error = None if context.error is None else str(context.error)
            variables["outcome"] = outcome
            variables["error"] = error
            columns = self._mappings.columns(variables)
            if columns is None:
                continue
            columns = clean_json(columns) | {
                "event_id": clean_id(event.id),
                "routing_key": clean_text(event.routing_key),
                "source": event.source,
                "route": context.route,
                "outcome": outcome,
                "error": None if error is None else clean_text(error),
                "occurred_at": variables["time"],
                "created_at": now,
            }
            context.add(Row(self._table, columns))
            if self.options.log:
                values = tuple(columns[name] for name in _LOGGED)
                self._log.info("row %r%s", values, f" {outcome}" if outcome else "")
