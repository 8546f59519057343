"""The command line: `main` is what the console script runs."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command that the process's arguments name, and end the process with its exit code."""
    from pipeline.cli.app import app
    from pipeline.cli.leaving import LeaveNow, leave

    try:
        app()
    except LeaveNow as left:
        leave(left.status)
