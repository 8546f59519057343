"""Where the time goes: `python -m benchmarks.parts FILE…` sums a profile of py-spy (format raw) by the runner's parts.

Each sample counts for the innermost of its frames that belongs to a part: what a part has a library do is the part's.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

__all__ = ["PARTS", "shares"]

PARTS = {
    "pipeline_plugins/": "broker: frames, chunks, AMQP",
    "rstream/": "rstream: frames, chunks, AMQP",
    "pipeline/streams/": "FastStream's subscriber",
    "faststream/": "FastStream's subscriber",
    "aio_pika/": "aio-pika: frames, AMQP",
    "aiormq/": "aio-pika: frames, AMQP",
    "pipeline/dispatch/decode.py": "JSON, and the event",
    "pipeline/dispatch/dedupe.py": "dedupe",
    "pipeline/ledger/seen.py": "dedupe",
    "pipeline/dispatch/committer.py": "commit",
    "pipeline/ledger/": "commit",
    "sqlalchemy/": "commit",
    "asyncpg/": "commit",
    "pipeline/dispatch/stage_queue.py": "stages: queue, timeout, handler's call",
    "pipeline/policies/": "stages: queue, timeout, handler's call",
    "pipeline/stages.py": "stages: queue, timeout, handler's call",
    "pipeline/dispatch/": "window, lanes, routes",
    "pipeline/routing.py": "window, lanes, routes",
    "pipeline_handlers/": "handler",
    "pipeline/expressions.py": "handler: CEL",
    "pipeline/cel.py": "handler: CEL",
    "noop.py": "handler",
    "benchmarks/variants/": "handler",
}
"""Parts by the beginning of a frame's file, the first that fits."""
_LOOP = "event loop, sockets"
_BEFORE = ("importlib", "Pipeline.from_file", "migrate", "settle")
"""What marks a sample as taken before the events came."""


def shares(lines: Iterable[str]) -> dict[str, float]:
    """The share of each part, largest first, of the samples taken in the main thread while events were handled."""
    samples: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rstrip().rpartition(" ")
        if stack and "threading.py" not in stack and not any(mark in stack for mark in _BEFORE):
            samples[_part(stack.split(";"))] += int(count)
    total = samples.total()
    return {part: count / total for part, count in samples.most_common()}


def _part(frames: list[str]) -> str:
    for frame in reversed(frames):
        file = frame.rpartition("(")[2]
        for beginning, part in PARTS.items():
            if file.startswith(beginning):
                return part
    return _LOOP


def main() -> None:
    """Print a table for each file."""
    console = Console()
    for name in sys.argv[1:]:
        table = Table(title=Path(name).stem, title_justify="left", title_style="bold")
        table.add_column("part")
        table.add_column("share", justify="right")
        for part, share in shares(Path(name).read_text().splitlines()).items():
            table.add_row(part, f"{share:.0%}")
        console.print(table)


if __name__ == "__main__":
    main()
