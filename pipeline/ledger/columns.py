"""The types and names that the ledger's columns share; plugins with tables may use them too."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import JSON, BigInteger, Integer
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel.sql.sqltypes import UTCDateTime

__all__ = ["NAMING", "UTCDateTime", "big_id", "json_type", "utcnow"]

NAMING: Final = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
"""How constraints are named, so that a migration can name what it changes: for `MetaData(naming_convention=…)`."""


def utcnow() -> datetime:
    """The time now, aware and in UTC, as every datetime column wants it."""
    return datetime.now(UTC)


def big_id() -> Any:
    """The type of a generated id: 64 bits wide, on SQLite too, where only ``INTEGER`` is generated."""
    return BigInteger().with_variant(Integer(), "sqlite")


def json_type() -> Any:
    """The type of a JSON column: ``jsonb`` on PostgreSQL; None is SQL's NULL."""
    return JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
