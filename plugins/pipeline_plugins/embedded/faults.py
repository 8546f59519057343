"""What SQLite and the file system say, as the contract's two errors: come back later, or mend something."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from pipeline import Unavailable
from pipeline.connectors import BrokerRefused

__all__ = ["explain"]

_PRIMARY = 0xFF  # extended result codes carry the primary one in their low byte

_LATER = {
    sqlite3.SQLITE_BUSY: "another process has been writing to it for 5 seconds",
    sqlite3.SQLITE_LOCKED: "another process has been writing to it for 5 seconds",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk reports an error",
    sqlite3.SQLITE_NOMEM: "memory is short",
}
_REFUSED = {
    sqlite3.SQLITE_NOTADB: "it is not a SQLite file: name another file in [broker] url, or move this one away",
    sqlite3.SQLITE_CORRUPT: "it is damaged: restore it from a backup, or move it away to begin an empty one",
    sqlite3.SQLITE_CANTOPEN: "it can't be opened: check that the folder exists and may be written",
    sqlite3.SQLITE_READONLY: "it may not be written: check the permissions of the file and its folder",
    sqlite3.SQLITE_PERM: "access is denied: check the permissions of the file and its folder",
    sqlite3.SQLITE_AUTH: "access is denied: check the permissions of the file and its folder",
}


def explain(path: Path, error: sqlite3.Error | OSError) -> Unavailable | BrokerRefused:
    """The error to raise in place of this one.

    Args:
        path: The broker's file.
        error: What SQLite or the file system raised.
    """
    if isinstance(error, OSError):
        return BrokerRefused(f"the embedded broker {path} can't be opened: {error.strerror}: {error.filename}")
    code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY
    if code in _REFUSED:
        return BrokerRefused(f"the embedded broker {path}: {_REFUSED[code]}")
    return Unavailable("broker", f"{path}: {_LATER.get(code, str(error))}")
