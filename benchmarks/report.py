"""What a run found: ratios taken within each round, medians over all, as tables and as JSON."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.job import Result
from benchmarks.plan import Comparison, Target, Variant
from benchmarks.rounds import Outcome, Round, Settings

__all__ = ["Verdict", "as_json", "machine", "print_report", "verdicts"]

_PACKAGES = ("faststream", "rstream", "aio-pika", "sqlalchemy", "asyncpg", "arq", "orjson", "uvloop")


@dataclass(frozen=True, slots=True)
class Verdict:
    """A ratio between two variants.

    Attributes:
        target: What was wanted.
        ratios: The ratio in each round.
        median: Their median.
        met: Whether it is reached; None where nothing was wanted.
    """

    target: Target
    ratios: tuple[float, ...]
    median: float
    met: bool | None


def verdicts(comparison: Comparison, rounds: Sequence[Round]) -> list[Verdict]:
    """The comparison's ratios."""
    found = []
    for target in comparison.targets:
        ratios = tuple(_ratio(round_[target.variant], _best(round_, target)) for round_ in rounds)
        median = statistics.median(ratios)
        met = None if target.at_least is None else median >= target.at_least
        found.append(Verdict(target, ratios, median, met))
    return found


def machine(versions: dict[str, str]) -> dict[str, str]:
    """What the figures were measured on."""
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "load before": load,
        "Python": platform.python_version(),
        **versions,
        "packages": packages,
    }


def print_report(console: Console, comparisons: Sequence[Comparison], outcome: Outcome) -> None:
    """Print a table for each comparison, and its ratios."""
    for comparison in comparisons:
        rounds = outcome[comparison.name]
        console.print()
        console.print(_table(comparison, rounds))
        for verdict in verdicts(comparison, rounds):
            console.print(_sentence(verdict))


def as_json(
    comparisons: Sequence[Comparison], outcome: Outcome, settings: Settings, facts: dict[str, str]
) -> dict[str, Any]:
    """Everything, as JSON values."""
    return {
        "settings": asdict(settings),
        "machine": facts,
        "comparisons": {
            comparison.name: {
                "rounds": [
                    {name: asdict(result) for name, result in round_.items()} for round_ in outcome[comparison.name]
                ],
                "ratios": [asdict(verdict) for verdict in verdicts(comparison, outcome[comparison.name])],
            }
            for comparison in comparisons
        },
    }


def _table(comparison: Comparison, rounds: Sequence[Round]) -> Table:
    table = Table(title=comparison.title, title_justify="left", title_style="bold")
    table.add_column("variant")
    latency = any(result.latencies for result in rounds[0].values())
    numbers = ("p50 ms", "p95 ms", "p99 ms", "max ms") if latency else (
        "events/s", "lowest", "highest", "µs/event", "CPU µs/event", "events"
    )  # fmt: skip
    for column in numbers:
        table.add_column(column, justify="right")
    for variant in comparison.variants:
        table.add_row(variant.title, *_cells(variant, [round_[variant.name] for round_ in rounds], latency=latency))
    return table


def _cells(variant: Variant, results: Sequence[Result], *, latency: bool) -> list[str]:
    if latency:
        names = ("p50", "p95", "p99", "max")
        return [f"{statistics.median(result.latencies[name] for result in results):.2f}" for name in names]
    rates = [result.rate for result in results]
    median = statistics.median(rates)
    return [
        f"{median:,.0f}",
        f"{min(rates):,.0f}",
        f"{max(rates):,.0f}",
        f"{1e6 / median:,.1f}" if median else "-",
        f"{statistics.median(result.cpu_each for result in results):,.1f}",
        f"{statistics.median(result.events for result in results):,.0f}",
    ]


def _sentence(verdict: Verdict) -> str:
    target = verdict.target
    ends = f"{min(verdict.ratios):.2f} to {max(verdict.ratios):.2f}"
    peer = target.peer if isinstance(target.peer, str) else f"the best of {', '.join(target.peer)}"
    said = f"{target.variant} / {peer}: {verdict.median:.2f} ({ends})"
    if verdict.met is None:
        return said
    colour, word = ("green", "met") if verdict.met else ("red", "MISSED")
    return f"{said}, wanted {target.at_least:g}: [{colour}]{word}[/]"


def _best(round_: Round, target: Target) -> Result:
    peers = (target.peer,) if isinstance(target.peer, str) else target.peer
    return max((round_[peer] for peer in peers), key=lambda result: result.rate)


def _ratio(result: Result, peer: Result) -> float:
    """Not a number where the peer was too quick to be measured, on a handful of events."""
    return result.rate / peer.rate if peer.rate else math.nan


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
