"""The handler ``audit``: a row in ``audit_logs`` for each event, mapped by expressions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import Handler, hookimpl
from pipeline_handlers.audit.handler import AuditHandler

if TYPE_CHECKING:
    from pipeline.ledger.migrations import Branch

__all__ = ["AuditHandler", "pipeline_handlers", "pipeline_tables"]


@hookimpl
def pipeline_handlers() -> Sequence[type[Handler[Any]]]:
    """The handler ``audit``."""
    return [AuditHandler]


@hookimpl
def pipeline_tables() -> Sequence[Branch]:
    """The table ``audit_logs`` and its migrations."""
    from pipeline.ledger.migrations import Branch
    from pipeline_handlers.audit.tables import AuditLog

    return [Branch("audit", Path(__file__).parent / "versions", (AuditLog,))]
