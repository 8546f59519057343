"""What a database error means: wait, give up, or blame the data."""

from __future__ import annotations

import sqlite3
from enum import Enum, auto
from typing import Final

from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout

__all__ = ["Fault", "fault_of", "is_deadlock", "reason_of"]

_MIGRATE: Final = "the database's schema is behind: run `pipeline migrate`"

_PG_SCHEMA: Final = frozenset({"42P01", "42703", "3F000"})
"""Undefined table, column, schema."""
_PG_REFUSED: Final = frozenset({"28000", "28P01", "3D000", "42501"})
"""Login refused, no such database, no privilege."""
_PG_DEADLOCK: Final = "40P01"
_PG_DATA: Final = frozenset({"0A", "21", "22", "23", "2F", "38", "39", "42", "44", "54", "P0"})
"""Classes of SQLSTATE that blame the statement or its values; all others blame the server or the moment."""
_SQLITE_DATA: Final = frozenset(
    {
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_TOOBIG,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_RANGE,
    }
)
_SQLITE_REFUSED: Final = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_PERM})
_SQLITE_SCHEMA: Final = ("no such table", "no such column", "has no column named")


class Fault(Enum):
    """Whose fault an error is.

    Attributes:
        UNAVAILABLE: The moment's: unreachable, locked, full, read-only, shutting down, a time-out, a deadlock. Wait.
        SCHEMA: A table or column is missing. Wait for the migration.
        REFUSED: The set-up's: login refused, no such database. Waiting does not help.
        DATA: The statement's or its values'.
    """

    UNAVAILABLE = auto()
    SCHEMA = auto()
    REFUSED = auto()
    DATA = auto()


def fault_of(error: Exception) -> Fault | None:
    """Whose fault this is; None where it did not come out of a database's driver (a bug, or the caller's own)."""
    cause = _cause(error)
    if isinstance(cause, PoolTimeout | TimeoutError | OSError):
        return Fault.UNAVAILABLE
    if isinstance(cause, sqlite3.Error):
        return _of_sqlite(cause)
    if isinstance(error, DBAPIError) or _is_asyncpg(cause):
        return _of_postgres(cause)
    # Else SQLAlchemy wraps what a column's type raised when it turned a value into a parameter.
    return Fault.DATA if isinstance(error, StatementError) else None


def is_deadlock(error: Exception) -> bool:
    """Whether PostgreSQL has ended this transaction because it and another one waited for each other."""
    return getattr(_cause(error), "sqlstate", None) == _PG_DEADLOCK


def reason_of(error: Exception) -> str:
    """What was seen, for people, in one line: without the statement and its parameters."""
    if fault_of(error) is Fault.SCHEMA:
        return f"{_first_line(_cause(error))}: {_MIGRATE}"
    return _first_line(_cause(error))


def _cause(error: Exception) -> BaseException:
    """The driver's own error: SQLAlchemy wraps it once, and its adapter of asyncpg once more."""
    if not isinstance(error, StatementError) or error.orig is None:
        return error
    return error.orig.__cause__ if _is_asyncpg(error.orig.__cause__) else error.orig  # type: ignore[return-value]


def _first_line(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    if isinstance(error, TimeoutError) and not text:
        return "no answer in time"
    if _is_asyncpg(error) and type(error).__name__ == "InternalClientError":  # "unexpected connection_lost() call"
        return "the connection was lost"
    return text or type(error).__name__


def _is_asyncpg(error: BaseException | None) -> bool:
    return type(error).__module__.partition(".")[0] == "asyncpg"


def _of_postgres(error: BaseException) -> Fault:
    if type(error).__name__ in ("InvalidCachedStatementError", "OutdatedSchemaCacheError"):
        return Fault.UNAVAILABLE  # the schema changed meanwhile; the next try prepares anew
    state = getattr(error, "sqlstate", None)
    if type(error).__name__ == "InterfaceError" and "query argument" in str(error):
        return Fault.DATA  # more of them than the protocol has numbers for
    if not isinstance(state, str):
        return Fault.REFUSED if type(error).__name__ == "ClientConfigurationError" else Fault.UNAVAILABLE
    if state in _PG_SCHEMA:
        return Fault.SCHEMA
    if state in _PG_REFUSED:
        return Fault.REFUSED
    return Fault.DATA if state[:2] in _PG_DATA else Fault.UNAVAILABLE


def _of_sqlite(error: sqlite3.Error) -> Fault:
    text = str(error)
    if "no active connection" in text.lower() or "closed" in text.lower():
        return Fault.UNAVAILABLE
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # raised by the module itself, before SQLite saw anything: a value that can't be bound
        return Fault.DATA
    primary = code & 0xFF
    if primary == sqlite3.SQLITE_ERROR and any(words in text for words in _SQLITE_SCHEMA):
        return Fault.SCHEMA
    if primary in _SQLITE_REFUSED:
        return Fault.REFUSED
    return Fault.DATA if primary in _SQLITE_DATA else Fault.UNAVAILABLE
