"""Which dead letters a command is about: the options that choose them, and what they stand for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, TypeAlias

import typer

__all__ = [
    "GroupOption", "KindOption", "RouteOption", "SinceOption", "SourceOption", "StageOption", "UntilOption", "moment",
]  # fmt: skip

_WHEN = "a time such as 2026-01-31T12:00:00Z, or how long ago, as in 2h"

SourceOption: TypeAlias = Annotated[str | None, typer.Option(metavar="NAME", help="Only of this source.")]
RouteOption: TypeAlias = Annotated[str | None, typer.Option(metavar="NAME", help="Only of this route.")]
StageOption: TypeAlias = Annotated[str | None, typer.Option(metavar="NAME", help="Only of this stage.")]
KindOption: TypeAlias = Annotated[
    str | None, typer.Option(metavar="KIND", help="Only of this kind, as in invalid_data.")
]
GroupOption: TypeAlias = Annotated[
    str | None, typer.Option("--group", metavar="ID", help="Only of this group of failures, as 'groups' shows it.")
]
SinceOption: TypeAlias = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help=f"Only what failed at or after this: {_WHEN}.")
]
UntilOption: TypeAlias = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Only what failed before.")]


def moment(text: str | None) -> datetime | None:
    """The time that a text stands for, by this machine's clock where it says how long ago.

    Raises:
        UserError: It is neither a time with its zone nor a duration.
    """
    from pipeline.config.fields import seconds
    from pipeline.errors import UserError

    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        try:
            return datetime.now(UTC) - timedelta(seconds=float(str(seconds(text))))
        except (ValueError, OverflowError):
            raise UserError(f"{text!r} is no time: write {_WHEN}") from None
    if found.tzinfo is None:
        raise UserError(f"the time {text!r} has no zone: add 'Z' or an offset, as in 2026-01-31T12:00:00Z")
    return found
