"""The condition that every write of a source's owner has: that no other runner has taken over."""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_
from sqlmodel import col

from pipeline.errors import Fenced
from pipeline.ledger.lease import Lease
from pipeline.ledger.tables import ProgressRow
from pipeline.ledger.units import SourceKey

__all__ = ["fenced", "held", "row_of"]


def row_of(key: SourceKey) -> ColumnElement[bool]:
    """The source's row of `progress`."""
    return and_(col(ProgressRow.group) == key.group, col(ProgressRow.stream) == key.stream)


def held(lease: Lease) -> ColumnElement[bool]:
    """That row, as long as the lease holds."""
    return and_(row_of(lease.key), col(ProgressRow.epoch) == lease.epoch)


def fenced(lease: Lease) -> Fenced:
    """What to raise where it no longer does."""
    return Fenced(f"another runner has taken over {lease.key.stream} for the group {lease.key.group}")
