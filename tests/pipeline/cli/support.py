"""What the tests of the commands share: running one here, or in a process of its own."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from pipeline.cli.app import build

PROGRAM = [sys.executable, "-m", "pipeline"]

HELLO = """
[pipeline]
name = "hello"

[source.events]
stream = "events"
group = "hello"

[[route]]
match = "hello.*"
stages = ["log"]
"""

TWO_SOURCES = """
[source.admin]
stream = "stream.admin"
group = "g"

[source.sales]
stream = "stream.sales"
group = "g"

[[route]]
source = "admin"
match = "admin.#"
stages = ["log"]

[[route]]
source = "sales"
match = ["order.*", "refund.*"]
key = "data.order.id"
when = "data.total > 10"
stages = ["big"]
finally = ["log"]

[stage.big]
use = "log"
when = "has(data.customer)"
prefix = "big "
"""


@dataclass
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(*arguments: str, stdin: str | bytes | None = None) -> Ran:
    """Run a command in this process."""
    result = CliRunner().invoke(build(), list(arguments), input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)


def write(text: str, name: str = "pipeline.toml") -> Path:
    path = Path(name)
    path.write_text(text)
    return path


def process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in a process of its own."""
    return subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, timeout=60, check=False, **options)


class Terminal:
    """A command in a process of its own whose standard output and error are a terminal."""

    def __init__(self, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        self.shown = ""
        self.process = subprocess.Popen(
            [*PROGRAM, *arguments], stdin=theirs, stdout=theirs, stderr=theirs,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "60"},
        )  # fmt: skip
        os.close(theirs)

    def read(self) -> bool:
        """Take in what it shows next; False once it has ended."""
        try:
            more = os.read(self._ours, 65_536)
        except OSError:
            return False
        self.shown += more.decode(errors="replace")
        return bool(more)

    def shows(self, text: str) -> None:
        """Wait until it has shown the text."""
        while text not in self.shown:
            assert self.read(), f"it ended without showing {text!r}: {self.shown}"

    def type(self, text: str) -> None:
        """Type something."""
        os.write(self._ours, text.encode())

    def ends(self) -> int:
        """Wait for its end."""
        while self.read():
            pass
        return self.process.wait(timeout=30)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


def eventually(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """What the condition gives, as soon as that is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.02)
    return value


class Running:
    """A runner in a process of its own; a subclass may be another command."""

    command = "run"
    _started = 0

    def __init__(self, *arguments: str, **environment: str) -> None:
        Running._started += 1
        self._out, self._err = (Path(f"{self.command}-{Running._started}.{end}") for end in ("out", "err"))
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                [*PROGRAM, self.command, *arguments], stdout=out, stderr=err, env=os.environ | environment
            )

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def says(self, text: str) -> None:
        """Wait until it has printed the text."""

        def printed() -> bool:
            done = self.process.poll() is not None
            if text in self.out + self.err:
                return True
            assert not done, f"it ended without saying {text!r}:\n{self.out}{self.err}"
            return False

        eventually(printed, f"it does not say {text!r}")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ends(self) -> int:
        return self.process.wait(timeout=30)

    @classmethod
    @contextmanager
    def up(cls, *arguments: str, **environment: str) -> Iterator[Running]:
        """One that is up, and is gone afterwards."""
        found = cls(*arguments, **environment)
        try:
            yield found
        finally:
            if found.process.poll() is None:
                found.process.kill()
                found.process.wait()


@contextmanager
def running(*arguments: str, **environment: str) -> Iterator[Running]:
    """A runner that is up, and is gone afterwards."""
    with Running.up(*arguments, **environment) as runner:
        yield runner
