"""A server that this package started: how to reach it, and how to stop, kill, pause and restart it."""

from __future__ import annotations

import shutil
import signal
from abc import ABC, abstractmethod
from pathlib import Path

from tests.services.command import last_words
from tests.services.errors import ServiceUnavailable
from tests.services.process import Process, wait_until


class Server(ABC):
    """One server on ports and data of its own; both stay the same over a restart."""

    name: str
    boot_seconds = 30.0
    stop_signal = signal.SIGTERM

    def __init__(self, data: Path) -> None:
        self.data = data
        self.data.mkdir(parents=True, exist_ok=True)
        self._process: Process | None = None

    @abstractmethod
    def env(self) -> dict[str, str]:
        """The variables that tell the tests where it is."""

    @abstractmethod
    def _spawn(self) -> Process:
        """Start the process."""

    @abstractmethod
    def answers(self) -> bool:
        """Does it answer?"""

    @property
    def output(self) -> Path:
        return self.data / "output.log"

    @property
    def process(self) -> Process:
        if self._process is None:
            raise ServiceUnavailable(f"{self.name} was never started")
        return self._process

    def processes(self) -> list[Process]:
        """All that must be ended with it."""
        return [self._process] if self._process else []

    def start(self) -> None:
        """Start it, and wait until it answers."""
        process = self._process = self._spawn()
        wait_until(lambda: self.answers() or not process.alive(), self.boot_seconds)
        if not (process.alive() and self.answers()):
            self.stop()
            said = last_words(self.output.read_text(errors="replace"))
            raise ServiceUnavailable(f"{self.name} did not start within {self.boot_seconds:.0f} s: {said}")

    def stop(self) -> None:
        """End it gracefully; what is left after a while is killed."""
        for process in self.processes():
            process.end(self.stop_signal)

    def kill(self) -> None:
        """Kill -9 it and all its processes."""
        self.process.kill()

    def pause(self) -> None:
        """Stop it (SIGSTOP) as a hung server would: connections stay open, nobody answers."""
        self.process.signal_family(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.signal_family(signal.SIGCONT)

    def restart(self) -> None:
        """Bring it up again on the same ports and data, after `stop` or `kill` or while it runs."""
        if self.process.alive():
            self.stop()
        self.start()

    def remove(self) -> None:
        """End it and delete its data."""
        self.stop()
        shutil.rmtree(self.data, ignore_errors=True)
