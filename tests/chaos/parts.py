"""The parts of the system that faults befall: servers behind a proxy, and the runner's own processes."""

from __future__ import annotations

import asyncio
import shutil
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.chaos.disk import Disk
from tests.integration.proxy import Proxy
from tests.integration.rig.runner import Runner
from tests.services import Server
from tests.services.process import wait_until

__all__ = ["TELLING", "Part", "ProcessPart", "ServerPart"]

TELLING = {"PYTHONFAULTHANDLER": "1"}
"""In a runner's environment: it tells where it was when it is ended by SIGABRT."""

_WORDS = 40
_STOP_SECONDS = 30.0
"""How long a runner may take to stop: its grace, what a resource takes that does not answer, and some more."""


class Part(ABC):
    """Something that can be killed, paused, stopped and started.

    Attributes:
        name: What the log of faults calls it.
        lock: Held by the fault that befalls it: one at a time.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = asyncio.Lock()

    @abstractmethod
    async def kill(self) -> None:
        """Kill -9 it."""

    @abstractmethod
    async def stop(self) -> None:
        """End it by its stop signal."""

    @abstractmethod
    async def start(self) -> None:
        """Start it again, where it does not run."""

    @abstractmethod
    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all of its processes."""


class ServerPart(Part):
    """A private server, which the system reaches through a proxy only.

    Attributes:
        proxy: The way to it.
        disk: What its data is on, where it has one of its own.
    """

    def __init__(self, name: str, server: Server, proxy: Proxy, disk: Disk | None = None, memory: str = "") -> None:
        super().__init__(name)
        self.server = server
        self.proxy = proxy
        self.disk = disk
        self._memory = memory

    async def kill(self) -> None:
        await asyncio.to_thread(self.server.kill)

    async def stop(self) -> None:
        await asyncio.to_thread(self.server.stop)

    async def start(self) -> None:
        if not self.server.process.alive():
            await asyncio.to_thread(self.server.start)

    def signal(self, number: signal.Signals) -> None:
        self.server.process.signal_family(number)

    async def revive(self) -> None:
        """Start it anew where it ended, or lives and does not answer: what an operator does after a full disk."""
        if not await asyncio.to_thread(wait_until, self.server.answers, 2.0):
            await self.kill()
            await self.start()

    @property
    def forgets(self) -> bool:
        """Whether the system must bear that its data is lost."""
        return bool(self._memory)

    def forget(self) -> None:
        """Delete what it keeps; it does not run."""
        shutil.rmtree(self.server.data / self._memory, ignore_errors=True)


class ProcessPart(Part):
    """A runner or a worker, brought up again where it ends, as a process manager does.

    Args:
        name: What it is called.
        run: Starts it.

    Attributes:
        problems: Each time that it ended by itself, or not with 0 when it was told to stop.
        memory: What it took when it was last looked at, in bytes.
        peak: The most that any of its lives took.
    """

    def __init__(self, name: str, run: Callable[[], Runner]) -> None:
        super().__init__(name)
        self._run = run
        self._wanted = True
        self.runner = run()
        self.problems: list[str] = []
        self.memory = 0
        self.peak = 0

    async def kill(self) -> None:
        self._wanted = False
        await self.runner.kill()

    async def stop(self) -> None:
        """By SIGTERM; an exit code other than 0 is a problem."""
        self._wanted = False
        if self.runner.exit_code is None:
            self.runner.signal(signal.SIGTERM)
            self.runner.signal(signal.SIGCONT)
            try:
                code = await self.runner.ended(_STOP_SECONDS)
            except AssertionError:
                self.runner.signal(signal.SIGABRT)  # its log then says where it hung
                await self.runner.ended()
                self._complain(f"it did not end within {_STOP_SECONDS:g} s after SIGTERM")
            else:
                # A process that has not come as far as its first line leaves signals to the kernel, and may end so.
                if code != 0 and not (code == -signal.SIGTERM and not self.runner.output.stat().st_size):
                    self._complain(f"exit code {code} after SIGTERM")

    async def start(self) -> None:
        if self.runner.exit_code is not None:
            self.runner.close()
            self.runner = self._run()
        self._wanted = True

    def signal(self, number: signal.Signals) -> None:
        if self.runner.exit_code is None:
            self.runner.signal(number)

    def look(self) -> None:
        """Note its memory, and bring it up again where it ended by itself."""
        if self.runner.exit_code is None:
            self.memory = _memory(self.runner.pid)
            self.peak = max(self.peak, self.memory)
        elif self._wanted:
            self._complain(f"it ended by itself with {self.runner.exit_code}")
            self.runner.close()
            self.runner = self._run()

    def _complain(self, what: str) -> None:
        self.problems.append(f"{self.name}: {what}\n{self.runner.last_words(_WORDS)}")

    @property
    def output(self) -> Path:
        """Its log."""
        return self.runner.output


def _memory(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
