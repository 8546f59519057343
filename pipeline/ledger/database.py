"""The database: one engine for writing, one for reading, and errors that say what to do."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, Literal, TypeVar
from urllib.parse import quote

import orjson
from sqlalchemy import Executable, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine

from pipeline.errors import Unavailable, UserError
from pipeline.ledger.faults import Fault, fault_of, reason_of

__all__ = ["Database", "DatabaseRefused"]

RowT = TypeVar("RowT")

_LOCK_WAIT: Final = 5.0
"""Seconds that SQLite waits for another process's lock."""
_LONG_LOCK_WAIT: Final = 60.0
_CONNECT_WAIT: Final = 10.0
"""Seconds that connecting to PostgreSQL may take."""
_IDLE_LIMIT: Final = "10s"
"""How long PostgreSQL lets a transaction of ours lie idle. A frozen process would else keep its locks, and the runner
that takes its source over would wait for ever."""


class DatabaseRefused(UserError):
    """The database can't be used as configured: a wrong URL, a missing driver, a refused login. Says what to do."""


class Database:
    """A SQLite file or a PostgreSQL database. Created without I/O; connects when it is first used.

    Args:
        url: ``sqlite:///relative/path``, ``sqlite:////absolute/path`` or ``postgresql://user:password@host:5432/name``
            (with libpq's parameters, such as ``?sslmode=require``).
        command_timeout: Seconds that one statement may take on PostgreSQL, so that a server that hangs is noticed;
            None for no limit, and for a minute's patience with SQLite's lock.

    Attributes:
        dialect: Which of the two it is.
        location: The URL without its password, for people.

    Raises:
        DatabaseRefused: The URL is wrong, or the driver is not installed.
    """

    def __init__(self, url: str, *, command_timeout: float | None = 15.0) -> None:
        parsed = _parsed(url)
        self.url = url
        self.location: str = parsed.render_as_string(hide_password=True)
        self.dialect: Literal["sqlite", "postgresql"]
        if parsed.get_backend_name() == "sqlite":
            self.dialect = "sqlite"
            self._path = Path(parsed.database or "")
            self.location = f"sqlite:///{self._path}"
            lock_wait = _LOCK_WAIT if command_timeout is not None else _LONG_LOCK_WAIT
            self._writer = _sqlite(self._path, "rwc", lock_wait)
            self._reader = _sqlite(self._path, "rw", lock_wait)
        else:
            self.dialect = "postgresql"
            self._writer = self._reader = _postgres(url, command_timeout)
            event.listen(self._writer.sync_engine, "close", self._hang_up)
        self._closing = False
        self._turn = asyncio.Lock()
        self._writing: asyncio.Task[Any] | None = None

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction, committed at the end, rolled back on an error. On SQLite one at a time: ``BEGIN IMMEDIATE``.

        Raises:
            Unavailable: The database can't be reached, is locked, full, read-only or not migrated, or gave no answer.
            DatabaseRefused: It refuses the login, or is no database.
            RuntimeError: On SQLite: this task is within such a block already, and would wait for itself.
        """
        async with AsyncExitStack() as stack:
            if self.dialect == "sqlite":
                await stack.enter_async_context(self._one_writer())
                with self._translated():
                    self._path.parent.mkdir(parents=True, exist_ok=True)
            yield await stack.enter_async_context(self._transaction(self._writer))

    @asynccontextmanager
    async def _one_writer(self) -> AsyncIterator[None]:
        task = asyncio.current_task()
        if task is not None and task is self._writing:
            raise RuntimeError(
                "Database.write() within a transaction: SQLite takes one at a time, so this would wait for itself for "
                "ever; use the transaction's own connection (a settlement's is settlement.connection), or write after "
                "its end"
            )
        async with self._turn:
            self._writing = task
            try:
                yield
            finally:
                self._writing = None

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that only reads, beside the writer. Raises what `write` raises."""
        if not self.exists():
            raise Unavailable("database", f"there is no file {self._path} yet")
        async with self._transaction(self._reader) as connection:
            yield connection

    async def fetch(self, kind: type[RowT], statement: Executable) -> list[RowT]:
        """What a `select` of one table (or of one value) finds, as instances of `kind`. Raises what `write` raises."""
        async with self.read() as connection, AsyncSession(connection) as session:
            return list((await session.scalars(statement)).all())

    def exists(self) -> bool:
        """False where it is a SQLite file that is not there yet."""
        return self.dialect != "sqlite" or self._path.exists()

    async def probe(self) -> None:
        """Return when the database answers now. Raises what `write` raises."""
        async with self.read() as connection:
            await connection.execute(text("SELECT 1"))

    async def close(self) -> None:
        """Let go of all connections, without waiting for the server; the next use opens new ones."""
        self._closing = True
        try:
            await self._writer.dispose()
            await self._reader.dispose()
        finally:
            self._closing = False

    def _hang_up(self, connection: Any, _: Any) -> None:
        """Close one now: a silent server would be waited for as long as for a statement, for each idle connection."""
        if self._closing:
            connection.driver_connection.terminate()

    @asynccontextmanager
    async def _transaction(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        with self._translated():
            async with engine.begin() as connection:
                yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            fault = fault_of(error)
            if fault in (Fault.UNAVAILABLE, Fault.SCHEMA):
                raise Unavailable("database", reason_of(error)) from error
            if fault is Fault.REFUSED:
                raise DatabaseRefused(f"the database {self.location} refuses: {reason_of(error)}") from error
            raise


def _parsed(url: str) -> URL:
    advice = "write sqlite:///path/to/file.db or postgresql://user:password@host:5432/name"
    try:
        parsed = make_url(url.replace("postgres://", "postgresql://", 1) if url.startswith("postgres://") else url)
    except (ArgumentError, ValueError):
        raise DatabaseRefused(f"the database's URL can't be read: {advice}") from None
    if parsed.drivername in ("sqlite", "sqlite+aiosqlite"):
        if parsed.database in (None, "", ":memory:") or parsed.host:
            raise DatabaseRefused(f"the database's URL names no file: {advice}")
        if parsed.query:
            raise DatabaseRefused(f"a SQLite URL takes no parameters, and a path with a '?' can't be used: {advice}")
        return parsed
    if parsed.drivername not in ("postgresql", "postgresql+asyncpg"):
        raise DatabaseRefused(f"{parsed.drivername} is no database that is known here: {advice}")
    if importlib.util.find_spec("asyncpg") is None:
        raise DatabaseRefused("PostgreSQL needs the driver asyncpg: pip install 'pipeline-runner[postgres]'")
    return parsed


class _SQLiteConnection(sqlite3.Connection):
    """Gives its locks back when it is closed: SQLite itself keeps them as long as anything refers to a cursor."""

    def close(self) -> None:
        """Roll back what is open, then close."""
        self.rollback()
        super().close()


def _sqlite(path: Path, mode: Literal["rwc", "rw"], lock_wait: float) -> AsyncEngine:
    writes = mode == "rwc"
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=f"file:{quote(str(path))}", query={"mode": mode, "uri": "true"}),
        connect_args={"timeout": lock_wait, "isolation_level": None, "factory": _SQLiteConnection},
        pool_size=1 if writes else 4,
        max_overflow=0,
        json_serializer=_to_json,
        json_deserializer=orjson.loads,
    )

    @event.listens_for(engine.sync_engine, "do_connect")
    def try_to_open(_dialect: Any, _record: Any, arguments: Any, options: Any) -> None:
        # Where opening fails, aiosqlite leaves a thread behind that speaks to the event loop after it has closed.
        sqlite3.connect(*arguments, **options).close()

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        # FULL: a commit survives a power cut, so effects outside are not repeated; in batches it costs 2% over NORMAL.
        settings = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON")
        for setting in settings if writes else ("query_only = ON",):
            cursor.execute(f"PRAGMA {setting}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Any) -> None:
        # Python's sqlite3 begins late and deferred; a writer must hold the lock before it reads what it will change.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgres(url: str, command_timeout: float | None) -> AsyncEngine:
    scheme, _, rest = url.partition("://")
    dsn = f"{scheme.partition('+')[0]}://{rest}"

    async def connect(**options: Any) -> Any:
        import asyncpg

        # asyncpg reads the URL itself, for it knows libpq's parameters (sslmode, passfile, several hosts).
        connection = await asyncpg.connect(dsn, timeout=_CONNECT_WAIT, command_timeout=command_timeout, **options)
        await connection.execute(f"SET idle_in_transaction_session_timeout = '{_IDLE_LIMIT}'")
        return connection

    return create_async_engine(
        "postgresql+asyncpg://",
        connect_args={"async_creator_fn": connect},
        pool_size=5,
        max_overflow=5,
        pool_recycle=600,
        pool_use_lifo=True,
        json_serializer=_to_json,
        json_deserializer=orjson.loads,
    )


def _to_json(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # what orjson refuses and JSON can say: integers beyond 64 bits
        return json.dumps(value)
