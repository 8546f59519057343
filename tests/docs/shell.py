"""A shell as a reader of the docs has it: commands typed in a folder, some of them left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["Running", "Shell", "until"]

VENV = Path(sys.prefix)
PATIENCE = 60.0
"""Seconds after which what has not happened never will."""
_STEERING = ("PIPELINE_", "RABBITMQ_", "DATABASE_", "REDIS_", "TEMPORAL_", "PYTEST_")


class Shell:
    """A folder, and the environment of a person who has set no variable that steers a pipeline.

    Args:
        folder: Where commands are typed.
        path: A folder of programs that are found before the others.
        variables: Variables set besides.
    """

    def __init__(self, folder: Path, *, path: Path = VENV / "bin", **variables: str) -> None:
        self.folder = folder
        own = {name: value for name, value in os.environ.items() if not name.startswith(_STEERING)}
        own.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled modules halve the time that a command takes to start
        own.setdefault("PYTHONPYCACHEPREFIX", str(Path(tempfile.gettempdir()) / f"pipeline-bytecode-{os.getuid()}"))
        own["PATH"] = f"{path}{os.pathsep}{own.get('PATH', os.defpath)}"
        # Standard output is a file here, and a terminal's is written line by line.
        self.environment = {**own, "PYTHONUNBUFFERED": "1", **variables}

    def type(self, command: str, *, exit_code: int | None = 0) -> str:
        """Type a command and wait for its end; what it printed. Fails where its exit code is another (None: any)."""
        done = subprocess.run(
            ["/bin/bash", "-c", command], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert exit_code in (None, done.returncode), f"$ {command}\n{done.stdout}exit code {done.returncode}"
        return done.stdout

    def start(self, command: str) -> Running:
        """Type a command that goes on running; to be used with ``with``, whose end stops it by SIGTERM."""
        return Running(command, self)


class Running:
    """A command that was started, and what it has printed so far."""

    def __init__(self, command: str, shell: Shell) -> None:
        self.command = command
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", f"exec {command}"], cwd=shell.folder, env=shell.environment, stdin=subprocess.DEVNULL,
            stdout=self._output, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def __enter__(self) -> Running:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)
                self._process.wait(PATIENCE)
            assert kind or self._process.returncode == 0, f"exit code {self._process.returncode}\n{self.output}"
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            self._output.close()

    @property
    def output(self) -> str:
        """What it has printed so far."""
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), size, 0).decode(errors="replace")

    def prints(self, text: str) -> str:
        """Wait until it has printed this; all that it has printed by then."""
        until(lambda: text in self.output or self._process.poll() is not None, lambda: f"{text!r} in:\n{self.output}")
        assert text in self.output, f"{self.command} ended without {text!r}:\n{self.output}"
        return self.output


def until(holds: Callable[[], bool], what: Callable[[], str]) -> None:
    """Return once it holds; fail where it does not in time."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"waited {PATIENCE:g} s for {what()}"
        time.sleep(0.05)
