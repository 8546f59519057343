"""The rounds of a run: every variant once a round, in random order, each in a process of its own."""

from __future__ import annotations

import asyncio
import random
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.job import Job, Result
from benchmarks.plan import Comparison, Variant
from benchmarks.servers import Servers
from benchmarks.workload import fill

__all__ = [
    "Outcome",
    "ProgramFailed",
    "Settings",
    "needs_node",
    "needs_postgresql",
    "needs_rabbitmq",
    "needs_redis",
    "run",
]

WARMUP = 0.1
"""The part of a variant's events that passes before its clock starts."""
_LONGEST = 600.0

Round = dict[str, Result]
"""Results by variant."""
Outcome = dict[str, list[Round]]
"""Rounds by comparison."""


class ProgramFailed(Exception):
    """A measured process ended without a result; the text is what it said."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a run is done.

    Attributes:
        events: How many events the fast variants take.
        rounds: How many rounds.
        seed: Of the order within the rounds.
        under: A command that each process is run under, such as a profiler; it may hold ``{variant}`` and ``{round}``.
    """

    events: int
    rounds: int
    seed: int
    under: str = ""


def needs_rabbitmq(comparisons: Sequence[Comparison]) -> bool:
    """Whether one of the variants talks to RabbitMQ."""
    return any(variant.stream for comparison in comparisons for variant in comparison.variants)


def needs_postgresql(comparisons: Sequence[Comparison]) -> bool:
    """Whether one of the variants talks to PostgreSQL."""
    return any(variant.database == "postgresql" for comparison in comparisons for variant in comparison.variants)


def needs_redis(comparisons: Sequence[Comparison]) -> bool:
    """Whether one of the variants talks to Redis."""
    return any(variant.redis for comparison in comparisons for variant in comparison.variants)


def needs_node(comparisons: Sequence[Comparison]) -> bool:
    """Whether one of the variants is a program of Node.js."""
    return any(variant.node for comparison in comparisons for variant in comparison.variants)


async def run(
    comparisons: Sequence[Comparison], servers: Servers, settings: Settings, tell: Callable[[str], None]
) -> Outcome:
    """Run all rounds of all comparisons.

    Args:
        comparisons: What to run.
        servers: Where the servers are.
        settings: How to run it.
        tell: Called with a line about each step.

    Raises:
        ProgramFailed: One of the processes failed.
    """
    rounds: Outcome = {comparison.name: [] for comparison in comparisons}
    order = random.Random(settings.seed)
    async with AsyncExitStack() as stack:
        filled = ""
        if any(variant.stream == "filled" for comparison in comparisons for variant in comparison.variants):
            filled = await stack.enter_async_context(servers.stream())
            tell(f"publishing {settings.events:,} events")
            await fill(servers.stream_url, filled, settings.events)
        for number in range(settings.rounds):
            for comparison in comparisons:
                variants = order.sample(comparison.variants, len(comparison.variants))
                tell(f"round {number + 1} of {settings.rounds}: {', '.join(variant.name for variant in variants)}")
                results = {
                    variant.name: await _measure(variant, servers, settings, filled, number) for variant in variants
                }
                rounds[comparison.name].append(results)
    return rounds


async def _measure(variant: Variant, servers: Servers, settings: Settings, filled: str, number: int) -> Result:
    events = variant.events(settings.events)
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-"))
        stream = filled if variant.stream == "filled" else ""
        if variant.stream == "new":
            stream = await stack.enter_async_context(servers.stream())
        database = ""
        if variant.database == "postgresql":
            database = await stack.enter_async_context(servers.database())
        prefix = await stack.enter_async_context(servers.redis_keys()) if variant.redis else ""
        job = Job(
            program=variant.program,
            events=events,
            warmup=int(events * WARMUP),
            folder=folder,
            stream_url=servers.stream_url,
            amqp_url=servers.amqp_url,
            stream=stream,
            database_url=database,
            redis_url=servers.redis_url,
            redis_prefix=prefix,
            options=dict(variant.options),
        )
        under = shlex.split(settings.under.format(variant=variant.name, round=number + 1))
        return await _in_a_process(job, variant.name, under)


async def _in_a_process(job: Job, name: str, under: Sequence[str]) -> Result:
    process = await asyncio.create_subprocess_exec(
        *under,
        sys.executable,
        "-m",
        "benchmarks.child",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )
    try:
        async with asyncio.timeout(_LONGEST):
            output, errors = await process.communicate(job.as_json())
    except TimeoutError:
        raise ProgramFailed(f"{name} took longer than {_LONGEST:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    for line in output.decode().splitlines():
        if line.startswith("RESULT "):
            return Result.from_json(line.removeprefix("RESULT "))
    raise ProgramFailed(f"{name} ended with {process.returncode} and no result:\n{errors.decode()[-4000:]}")
