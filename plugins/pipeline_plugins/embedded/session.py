"""An open file: a thread that reads it, a thread that writes to it, and the queue before the writer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, ParamSpec, Self, TypeVar

from pipeline import Unavailable
from pipeline_plugins.embedded.log import Append, Log, Row

__all__ = ["Session"]

P = ParamSpec("P")
T = TypeVar("T")


class _LogThread:
    """A `Log`, and the one thread that uses it, so that the event loop never waits for a disk."""

    def __init__(self, log: Log, executor: ThreadPoolExecutor) -> None:
        self._log = log
        self._executor = executor
        self.closed = False

    @classmethod
    async def open(cls, path: Path, *, durable: bool) -> Self:
        executor = ThreadPoolExecutor(1, thread_name_prefix=f"embedded {'write' if durable else 'read'}")
        opening = executor.submit(Log, path, durable=durable)
        try:
            return cls(await asyncio.wrap_future(opening), executor)
        except BaseException:
            opening.add_done_callback(_discard)
            executor.shutdown(wait=False)
            raise

    async def run(self, function: Callable[Concatenate[Log, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method of the log, once the file is known to be still the same."""
        if self.closed:
            raise Unavailable("broker", "the connection was closed")

        def call() -> T:
            self._log.verify()
            return function(self._log, *args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    async def close(self) -> None:
        if not self.closed:
            self.closed = True
            closing = asyncio.get_running_loop().run_in_executor(self._executor, self._log.close)
            self._executor.shutdown(wait=False)
            await asyncio.shield(closing)


def _discard(opening: Future[Log]) -> None:
    """Close a log that was opened after the wait for it had been cancelled."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


class Session:
    """A connection to the file, until it is closed or the file is gone."""

    def __init__(self, reader: _LogThread, writer: _LogThread) -> None:
        self._reader = reader
        self._writer = writer
        self._waiting: list[tuple[Append, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open the file. Raises `Unavailable` or `BrokerRefused`."""
        writer = await _LogThread.open(path, durable=True)
        try:
            return cls(await _LogThread.open(path, durable=False), writer)
        except BaseException:
            await writer.close()
            raise

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._reader.closed

    async def close(self) -> None:
        """Close the file, after what is being written."""
        if self._writing is not None:
            await asyncio.wait({self._writing})
        await self._reader.close()
        await self._writer.close()

    async def read(self, function: Callable[Concatenate[Log, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method of the log that reads, or that writes what need not survive a loss of power."""
        return await self._reader.run(function, *args, **kwargs)

    async def write(self, function: Callable[Concatenate[Log, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method of the log whose effect survives a loss of power."""
        return await self._writer.run(function, *args, **kwargs)

    async def append(self, stream: str, rows: Sequence[Row]) -> None:
        """Append a chunk; chunks that wait while others are written share the next transaction, and its sync."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((Append(stream, rows), future))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_waiting())
        await future

    async def _write_waiting(self) -> None:
        while self._waiting:
            taken = [(call, future) for call, future in self._waiting if not future.cancelled()]
            self._waiting = []
            results: Sequence[Exception | None]
            try:
                results = await self._writer.run(Log.append, [call for call, _ in taken])
            except Exception as error:  # noqa: BLE001 - each publisher gets it
                results = [error] * len(taken)
            for (_, future), failure in zip(taken, results, strict=True):
                if future.done():
                    continue
                if failure is None:
                    future.set_result(None)
                else:
                    future.set_exception(failure)
