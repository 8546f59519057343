"""The command: `python -m benchmarks [NAME…] [--events N] [--rounds R] [--seed S] [--json FILE]`."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import orjson
from rich.console import Console

from benchmarks.npm import MissingNode, install
from benchmarks.npm import versions as node_versions
from benchmarks.plan import COMPARISONS, Comparison
from benchmarks.report import as_json, machine, print_report
from benchmarks.rounds import (
    ProgramFailed,
    Settings,
    needs_node,
    needs_postgresql,
    needs_rabbitmq,
    needs_redis,
    run,
)
from benchmarks.servers import MissingServer, Servers

EVENTS = 200_000
ROUNDS = 7
_NAMES = [comparison.name for comparison in COMPARISONS]
_WIDTH = 132
"""Of the tables, where no terminal says how wide it is."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print what was found; 2 where a server is missing or a program failed."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.names if name not in _NAMES]:
        parser.error(f"there is no benchmark {unknown[0]!r}: choose from {', '.join(_NAMES)}")
    chosen = [comparison for comparison in COMPARISONS if comparison.name in (given.names or [comparison.name])]
    settings = Settings(given.events, given.rounds, given.seed, given.under)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that streams and databases are dropped then too
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    try:
        asyncio.run(_main(chosen, settings, given.json, console))
    except (MissingNode, MissingServer, ProgramFailed) as problem:
        print(problem, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


async def _main(comparisons: Sequence[Comparison], settings: Settings, file: Path | None, console: Console) -> None:
    servers = Servers.from_environment()
    servers.require(
        rabbitmq=needs_rabbitmq(comparisons), postgresql=needs_postgresql(comparisons), redis=needs_redis(comparisons)
    )
    versions = await servers.versions()
    if needs_node(comparisons):
        install()  # before anything is measured, and once
        versions |= node_versions()
    facts = machine(versions)
    for name, value in facts.items():
        console.print(f"[bold]{name}[/]: {value}", highlight=False)
    console.print(f"[bold]seed[/]: {settings.seed}, [bold]rounds[/]: {settings.rounds}", highlight=False)
    outcome = await run(comparisons, servers, settings, lambda line: print(line, file=sys.stderr, flush=True))
    facts["load after"] = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    print_report(console, comparisons, outcome)
    if file is not None:
        file.write_bytes(orjson.dumps(as_json(comparisons, outcome, settings, facts), option=orjson.OPT_INDENT_2))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure this project beside its peers, in turn, on the servers of `python -m tests.services`.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(_NAMES)}; all of them by default")
    parser.add_argument(
        "--events", type=int, default=EVENTS, help="how many events the fast variants take (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each variant is run (%(default)s)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of the order in each round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every round's figures there")
    parser.add_argument(
        "--under", default="", metavar="COMMAND",
        help="run each process under a command, such as a profiler; {variant} and {round} are filled in",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
