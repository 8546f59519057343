"""The command line: `main` is what the console script runs."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command that the process's arguments name, and end the process with its exit code."""
    import sys

    from pipeline.cli.app import build
    from pipeline.cli.leaving import LeaveNow, leave

    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]  # an old locale has no arrows
    try:
        build(rich=sys.stdout.isatty())()
    except LeaveNow as left:
        leave(left.status)
