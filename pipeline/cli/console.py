"""What the commands print: rich on a terminal, plain text in a pipe, one JSON document where a script asked for it."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer

from pipeline.errors import ConfigError
from pipeline.logs import printable

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.errors import PipelineError, Problem

__all__ = ["count", "explain", "iso", "say", "show_json", "show_problems", "show_table", "terminal", "warn"]


def terminal(*, stderr: bool = False) -> Console | None:
    """A rich console where standard output (or standard error) is a terminal; else None."""
    stream = sys.stderr if stderr else sys.stdout
    if not stream.isatty():
        return None
    from rich.console import Console

    return Console(file=stream, highlight=False, markup=False)


def say(text: str = "", *, style: str = "", stderr: bool = False) -> None:
    """Print a text; the style is for terminals only."""
    console = terminal(stderr=stderr)
    if console is None:
        typer.echo(printable(text), err=stderr)
    else:
        console.print(printable(text), style=style or None, soft_wrap=True)


def warn(text: str) -> None:
    """Print a warning to standard error."""
    say(f"warning: {text}", style="yellow", stderr=True)


def explain(error: PipelineError) -> None:
    """Print to standard error what is wrong: each problem on a line of its own, and how many there are."""
    if isinstance(error, ConfigError):
        show_problems(error.problems)
    else:
        say(f"error: {error}", style="red", stderr=True)


def show_problems(problems: Sequence[Problem]) -> None:
    """Print problems to standard error, each on a line of its own, and their number."""
    for problem in problems:
        say(str(problem), stderr=True)
    say(count(len(problems), "problem"), style="red", stderr=True)


def show_json(value: Any) -> None:
    """Print one JSON document to standard output."""
    typer.echo(json.dumps(value, indent=2, default=str, ensure_ascii=False))


def show_table(
    headers: Sequence[str], rows: Sequence[Sequence[object]], *, fold: Collection[str] = (), drop: Sequence[str] = ()
) -> None:
    """Print a table: on a terminal fitted to its width, else in aligned columns that are never cut.

    Args:
        headers: The columns' names.
        rows: The cells.
        fold: Columns whose texts go over several lines where a terminal is narrow; by default the last one.
        drop: Columns that are left out where it is narrower still, the least important first.
    """
    texts = [[printable(str(cell)).replace("\n", " ") for cell in row] for row in rows]
    console = terminal()
    if console is not None:
        _draw(console, headers, texts, fold or headers[-1:], drop)
        return
    widths = [max(len(row[index]) for row in [headers, *texts]) for index in range(len(headers))]
    for row in [headers, *texts]:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _draw(
    console: Console, headers: Sequence[str], rows: Sequence[Sequence[str]], fold: Collection[str], drop: Sequence[str]
) -> None:
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    from pipeline.cli.fitting import GAP, fit

    natural = [max(cell_len(row[index]) for row in [headers, *rows]) for index in range(len(headers))]
    shown = fit(natural, console.width, fold=[headers.index(name) for name in fold], drop=[*map(headers.index, drop)])
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
    for index, width in shown.items():
        table.add_column(headers[index], width=width, overflow="fold")  # nothing is cut
    for row in rows:
        table.add_row(*(Text(row[index]) for index in shown))
    console.print(table)
    if missing := [name for index, name in enumerate(headers) if index not in shown]:
        console.print(f"not shown, as the terminal is narrow: {', '.join(missing)}", style="dim")


def count(number: int, thing: str) -> str:
    """``1 problem``, ``2 problems``, ``12,000 events``."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def iso(moment: datetime | None) -> str | None:
    """A time in ISO 8601, UTC, to the second."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z") if moment else None
