"""``pipeline version`` and ``pipeline --version``."""

from __future__ import annotations

import typer

__all__ = ["callback", "version"]


def callback(value: bool) -> None:
    """Print the version for ``--version``, and exit."""
    if value:
        version()
        raise typer.Exit


def version() -> None:
    """Print the version."""
    from importlib.metadata import version as version_of

    typer.echo(f"pipeline-runner {version_of('pipeline-runner')}")
