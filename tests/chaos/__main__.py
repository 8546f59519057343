"""The long form: ``python -m tests.chaos --events 100000 --faults 60 --seed N``."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.chaos.cutoff import cut_temporal_off
from tests.chaos.report import Report
from tests.chaos.schedule import possible, schedule
from tests.chaos.storm import Plan, storm
from tests.chaos.system import started_system

_WORKFLOWS = 200


def main() -> int:
    """Run what the arguments say; 1 where a promise was broken."""
    arguments = _parser().parse_args()
    print(f"CHAOS_SEED={arguments.seed}", flush=True)
    for library in ("asyncpg", "rstream"):  # of the rig's own pool and producer, while servers are away
        logging.getLogger(library).setLevel(logging.CRITICAL)
    folder = Path(tempfile.mkdtemp(prefix="pipeline-chaos-"))
    reports = asyncio.run(_run(arguments, folder))
    broken = any(report.wrong for report in reports)
    if broken or arguments.keep:
        print(f"logs and ledgers: {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return int(broken)


async def _run(arguments: argparse.Namespace, folder: Path) -> list[Report]:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # so that nothing is left behind
    reports = []
    for name, scenario in {"storm": _storm, "cutoff": _cutoff}.items():
        if arguments.only in (None, name):
            print(f"\n{name}", flush=True)
            (folder / name).mkdir()
            reports.append(await scenario(arguments, folder / name))
            print(f"\n{reports[-1]}", flush=True)
    return reports


async def _storm(arguments: argparse.Namespace, folder: Path) -> Report:
    async with started_system(folder) as system:
        system.run()
        seconds = arguments.events / arguments.rate
        faults = schedule(arguments.seed, possible(system.parts.values()), arguments.faults, seconds)
        plan = Plan(arguments.seed, arguments.events, arguments.rate, _WORKFLOWS, faults)
        return await storm(system, plan, folder, _say)


async def _cutoff(arguments: argparse.Namespace, folder: Path) -> Report:
    return await cut_temporal_off(arguments.seed, folder, _say, seconds=arguments.away)


def _say(line: str) -> None:
    print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    seed = os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(1_000_000)
    parser.add_argument("--seed", type=int, default=int(seed), help="of events and faults (else CHAOS_SEED, else any)")
    parser.add_argument("--only", choices=["storm", "cutoff"], help="one scenario; by default both")
    parser.add_argument("--events", type=int, default=100_000, help="storm: how many are published")
    parser.add_argument("--faults", type=int, default=60, help="storm: how many happen meanwhile")
    parser.add_argument("--rate", type=float, default=150.0, help="storm: events a second")
    parser.add_argument("--away", type=float, default=180.0, help="cutoff: for how many seconds")
    parser.add_argument("--keep", action="store_true", help="keep the logs and ledgers, whatever the verdict")
    return parser


if __name__ == "__main__":
    sys.exit(main())
