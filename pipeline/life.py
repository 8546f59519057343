"""The life of a process's main part: started once, stopped once, until it is told to or something fails for good."""

from __future__ import annotations

import asyncio
import signal
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, ClassVar, Self

from pipeline.errors import PipelineError

__all__ = ["Life"]


class Life(ABC):
    """Something that can be started and stopped, once.

    What does its work is left in `_tasks`: where one of them ends, all ends. What is done beside it is left in
    `_aside`: it may come to its end, but where it fails all ends, too, rather than to go on without it.

    Class attributes:
        state_name: What `lifespan` calls it in the app's state.
    """

    state_name: ClassVar[str]

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        self._aside: list[asyncio.Task[None]] = []
        self._stack = AsyncExitStack()
        self._stopping = asyncio.Event()
        self._starting = asyncio.Lock()
        self._running = False
        self._stop_task: asyncio.Task[None] | None = None

    @abstractmethod
    async def _start(self) -> None:
        """Start; what must be let go of at the end, also after a failed start, is left on `_stack`."""

    @abstractmethod
    async def _end(self) -> None:
        """Bring work in flight to its end; the stack is closed afterwards. Not called after a failed start."""

    @property
    def is_running(self) -> bool:
        """Whether it is started, and not stopped yet."""
        return self._running

    async def start(self) -> None:
        """Start; returns when all is on its way, and does not wait for other systems.

        Raises:
            UserError: Something that no waiting can mend.
        """
        if self._running or self._stopping.is_set():
            name = type(self).__name__
            raise PipelineError(f"a {name} is started once: make a new one to start again")
        async with self._starting:
            try:
                await self._start()
            except BaseException:
                await self._stack.aclose()
                raise
            self._running = True

    async def wait(self) -> None:
        """Return when it is stopped; a part that fails for good ends it, and its error is raised here."""
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            await self._until_over(stopped)
        finally:
            stopped.cancel()
            await self.stop()
        errors = [error for task in (*self._tasks, *self._aside) if (error := _error_of(task))]
        if errors:
            raise errors[0]

    async def _until_over(self, stopped: asyncio.Task[Any]) -> None:
        """Return when it is stopped, what does its work ends, or what is done beside it fails."""
        aside = set(self._aside)
        while True:
            done, _ = await asyncio.wait([stopped, *self._tasks, *aside], return_when=asyncio.FIRST_COMPLETED)
            if any(task not in aside or _error_of(task) for task in done):
                return
            aside -= done

    async def run(self) -> None:
        """Start, run until SIGTERM or SIGINT, and stop in good order.

        Raises:
            UserError: As `start`; or a source's broker said no.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        try:
            await self.start()
            await self.wait()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def stop(self) -> None:
        """Stop: what is in flight finishes within the grace period, then everything is let go."""
        if self._stop_task is None:
            self._stop_task = asyncio.create_task(self._stop())
        await asyncio.shield(self._stop_task)

    async def _stop(self) -> None:
        self._stopping.set()
        async with self._starting:  # a start that is under way comes to its end first
            pass
        try:
            if self._running:
                await self._end()
            await self._stack.aclose()
        finally:
            self._running = False

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def lifespan(self) -> Callable[[Any], Any]:
        """A lifespan for FastAPI or Starlette: ``FastAPI(lifespan=pipeline.lifespan())``."""

        @asynccontextmanager
        async def lifespan(app: Any) -> AsyncIterator[dict[str, Any]]:
            async with self:
                yield {self.state_name: self}

        return lifespan


def _error_of(task: asyncio.Task[Any]) -> BaseException | None:
    """What a task ended with, where it failed."""
    return task.exception() if task.done() and not task.cancelled() else None
