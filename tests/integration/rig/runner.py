"""The runner as a process of its own, to be killed, frozen, and stopped; and waiting for what it does."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

__all__ = ["Runner", "command", "until"]

_PIPELINE = Path(sys.executable).with_name("pipeline")
_STEERING = ("PIPELINE_", "RABBITMQ_", "DATABASE_", "REDIS_", "TEMPORAL_")


class Runner:
    """``pipeline run FILE``, or another command that goes on until it is told to stop; its output in a file.

    Args:
        file: The ``pipeline.toml``.
        env: Variables for it, beside this process's own that don't steer it.
        output: Where its output goes; appended, so that all lives of a runner can share one file.
        arguments: The command and its options; the file comes behind them.
        program: What is run in place of ``pipeline``.
    """

    def __init__(
        self, file: Path, env: Mapping[str, str], output: Path, arguments: Sequence[str] = ("run",),
        program: Sequence[str | Path] = (_PIPELINE,),
    ) -> None:  # fmt: skip
        self.output = output
        self._file = output.open("ab")
        self._process = subprocess.Popen(
            [*program, *arguments, file], env=_environment(env), cwd=file.parent, stdin=subprocess.DEVNULL,
            stdout=self._file, stderr=subprocess.STDOUT,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended: minus the signal's number where one killed it; None while it runs."""
        return self._process.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    async def ended(self, seconds: float = 30.0) -> int:
        """Its exit code, once it has ended."""
        await until(lambda: self.exit_code is not None, seconds, "the runner to end", self, may_end=True)
        assert self.exit_code is not None
        return self.exit_code

    async def kill(self) -> None:
        """Kill -9 it."""
        self.signal(signal.SIGKILL)
        await self.ended()

    async def stop(self) -> float:
        """Stop it by SIGTERM; it must exit with 0. Returns how many seconds that took."""
        began = time.monotonic()
        self.signal(signal.SIGTERM)
        code = await self.ended()
        assert code == 0, f"SIGTERM: exit code {code}\n{self.last_words()}"
        return time.monotonic() - began

    def last_words(self, lines: int = 30) -> str:
        """The end of its output, without the line for each signal."""
        said = self.output.read_text(errors="replace").splitlines()
        return "\n".join([line for line in said if "INFO    sent" not in line][-lines:])

    def close(self) -> None:
        """End it whatever it does, and let go of it."""
        if self.exit_code is None:
            self._process.kill()
        self._process.wait()
        self._file.close()


async def command(file: Path, env: Mapping[str, str], *arguments: str) -> tuple[int, str]:
    """Run another command of ``pipeline``; its exit code and standard output."""
    process = await asyncio.create_subprocess_exec(
        _PIPELINE, *arguments, env=_environment(env), cwd=file.parent,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def until(
    condition: Callable[[], bool | Awaitable[bool]],
    seconds: float,
    what: str,
    *runners: Runner,
    may_end: bool = False,
) -> None:
    """Return once the condition holds; fail the test where it does not in time, or a runner ends meanwhile."""
    deadline = time.monotonic() + seconds
    while True:
        held = condition()
        if await held if inspect.isawaitable(held) else held:
            return
        ended = [runner for runner in runners if runner.exit_code is not None and not may_end]
        words = "\n".join(f"runner {runner.pid}:\n{runner.last_words()}" for runner in ended or runners)
        assert not ended, f"waiting for {what}: a runner ended with {ended[0].exit_code}\n{words}"
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}\n{words}"
        await asyncio.sleep(0.03)


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(_STEERING)}
    # A runner starts in half the time where compiled modules are kept, which not every environment allows in place.
    own.pop("PYTHONDONTWRITEBYTECODE", None)
    own.setdefault("PYTHONPYCACHEPREFIX", str(Path(tempfile.gettempdir()) / f"pipeline-bytecode-{os.getuid()}"))
    return {**own, **extra}
