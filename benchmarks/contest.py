"""One contestant in the comparison with Bull: its processes, and the clock around them, the same for everyone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psutil

from benchmarks.executions import Executions
from benchmarks.job import Job, Result

__all__ = ["Process", "ProcessEnded", "measure"]

_GRACE = 15.0
_READY = 60.0


class ProcessEnded(Exception):
    """A contestant's process ended too early; the text is the end of what it said."""


class Process:
    """A process of a contestant.

    Args:
        process: The process; its standard input and output are pipes.
        errors: The file that its standard error goes to.
    """

    def __init__(self, process: asyncio.subprocess.Process, errors: Path) -> None:
        self._process = process
        self._errors = errors
        self._times = psutil.Process(process.pid)

    @classmethod
    @asynccontextmanager
    async def started(
        cls, arguments: Sequence[str | Path], errors: Path, *, folder: Path, env: Mapping[str, str] | None = None
    ) -> AsyncIterator[Process]:
        """Run it, and end it in good order afterwards: its input is closed, and it gets SIGTERM."""
        with errors.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                *arguments, cwd=folder, env=env, stderr=file,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
        try:
            yield cls(process, errors)
        finally:
            await _end(process)

    def cpu(self) -> float:
        """Seconds of CPU time until now."""
        times = self._times.cpu_times()
        return times.user + times.system

    def alive(self) -> None:
        """Raise `ProcessEnded` if it is not."""
        if self._process.returncode is not None:
            said = self._errors.read_text(errors="replace")[-4000:]
            raise ProcessEnded(f"a process ended with {self._process.returncode}:\n{said}")

    async def say(self, line: str) -> None:
        """Write a line to its input."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        await self._process.stdin.drain()

    async def hear(self, line: str) -> None:
        """Return when it has written this line."""
        assert self._process.stdout is not None
        async with asyncio.timeout(_READY):
            while (heard := await self._process.stdout.readline()).decode().strip() != line:
                if not heard:
                    await self._process.wait()
                    self.alive()


async def measure(job: Job, processes: Sequence[Process], submit: Callable[[range], Awaitable[None]]) -> Result:
    """From the first event submitted to the last execution completed, after a warm-up that goes the same way.

    Args:
        job: Says how many events there are, and how many of them are the warm-up.
        processes: The contestant's, running.
        submit: Submits the events with these numbers.

    Raises:
        ProcessEnded: One of the processes ended.
        WrongEffects: The executions are not as they should be.
    """

    def alive() -> None:
        for process in processes:
            process.alive()

    def cpu() -> float:
        return sum(process.cpu() for process in processes)

    async with AsyncExitStack() as stack:
        executions = await stack.enter_async_context(Executions.of(job.database_url))
        await submit(range(job.warmup))
        await executions.reach(job.warmup, alive)
        wall, used = time.perf_counter(), cpu()
        async with asyncio.TaskGroup() as group:
            group.create_task(executions.reach(job.events, alive))
            group.create_task(_submit(submit, range(job.warmup, job.events)))
        wall, used = time.perf_counter() - wall, cpu() - used
        await executions.check(job.events)
    return Result(job.events, job.events - job.warmup, wall, used)


async def _submit(submit: Callable[[range], Awaitable[None]], numbers: range) -> None:
    await submit(numbers)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    if process.stdin is not None:
        process.stdin.close()
    process.terminate()
    try:
        async with asyncio.timeout(_GRACE):
            await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
