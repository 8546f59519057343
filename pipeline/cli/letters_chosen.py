"""Which dead letters a command is about: the options that choose them, and what they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias

import typer

from pipeline.moments import WRITTEN, moment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.commands import OpenedPipeline
    from pipeline.ledger.dead_letters import DeadLetters

__all__ = [
    "KINDS", "GroupOption", "KindOption", "ReplayOption", "RouteOption", "SinceOption", "SourceOption", "StageOption",
    "UntilOption", "chosen", "say_why_none", "sources_of",
]  # fmt: skip

Named: TypeAlias = Literal["source", "route", "stage", "kind", "replay"]
KINDS: Final = (
    "undecodable", "too_big", "too_deep", "too_many_headers", "headers_too_big", "duplicate_keys", "huge_number",
    "routing_key_too_long", "invalid_data", "rejected", "unwritable", "worker_lost",
)  # fmt: skip
"""Those that need no handler to name them."""

SourceOption: TypeAlias = Annotated[str | None, typer.Option(metavar="NAME", help="Only of this source.")]
RouteOption: TypeAlias = Annotated[str | None, typer.Option(metavar="NAME", help="Only of this route.")]
StageOption: TypeAlias = Annotated[str | None, typer.Option(metavar="NAME", help="Only of this stage.")]
KindOption: TypeAlias = Annotated[
    str | None, typer.Option(metavar="KIND", help="Only of this kind, as in invalid_data.")
]
ReplayOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--replay", metavar="NAME", help="Only what this replay left, as 'replay --list' names it."),
]
GroupOption: TypeAlias = Annotated[
    str | None, typer.Option("--group", metavar="ID", help="Only of this group of failures, as 'groups' shows it.")
]
SinceOption: TypeAlias = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help=f"Only what failed at or after this: {WRITTEN}.")
]
UntilOption: TypeAlias = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Only what failed before.")]


def chosen(
    *,
    group: str | None = None,
    source: str | None = None,
    route: str | None = None,
    stage: str | None = None,
    kind: str | None = None,
    replay: str | None = None,
    since: str | None = None,
    until: str | None = None,
) -> dict[str, Any]:
    """The options as filters of `DeadLetters`, without those that were not given.

    Raises:
        UserError: A time is none.
    """
    given = {"fingerprint": group, "source": source, "route": route, "stage": stage, "kind": kind, "replay": replay}
    times = {"since": since, "until": until}
    filters: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return filters | {name: moment(text) for name, text in times.items() if text is not None}


def sources_of(pipeline: OpenedPipeline) -> set[tuple[str, str]]:
    """Consumer group and stream of the file's sources."""
    return {(each.group, each.stream) for each in pipeline.config.source.values()}


async def say_why_none(pipeline: OpenedPipeline, letters: DeadLetters, filters: Mapping[str, Any], advice: str) -> None:
    """Where nothing was found: a name that is nowhere is a mistake, and not good news; nor is a name of others'.

    Args:
        pipeline: The file.
        letters: Its dead letters.
        filters: What was looked for.
        advice: How to get at those of sources that are not in the file.

    Raises:
        UserError: Neither the file has such a source, route, stage or kind, nor any dead letter; there is no such
            replay; or no dead letter is of such a group.
    """
    from pipeline.commands import warn

    await _refuse_unknown(pipeline, letters, filters)
    everywhere = {name: value for name, value in filters.items() if name != "among"}
    if filters.get("among") and (others := await letters.count(**everywhere)):
        warn(f"{others:,} of sources that are not in {pipeline.path}: {advice}")


async def _refuse_unknown(pipeline: OpenedPipeline, letters: DeadLetters, filters: Mapping[str, Any]) -> None:
    from pipeline.commands import no_such
    from pipeline.errors import UserError

    config = pipeline.config
    in_file: tuple[tuple[Named, set[str]], ...] = (
        ("source", set(config.source)),
        ("route", {route.name or route.match[0] for route in config.route}),
        ("stage", set(config.stage)),
        ("kind", set(KINDS)),
        ("replay", set()),
    )
    for name, known in in_file:
        wanted = filters.get(name)
        if wanted is None or wanted in known or wanted in (stored := await letters.names(name)):
            continue
        if name == "replay" and await letters.count(replay=wanted):  # it was forgotten
            continue
        if name in ("kind", "replay") or not pipeline.problems:  # else the file may have it where it can't be read
            raise no_such(name, wanted, known | stored)
    group = filters.get("fingerprint")
    if group is not None and not await letters.count(fingerprint=group):
        if (name := group.partition(".replay.")[2]) and await letters.count(replay=name):
            raise UserError(f"{group!r} is a replay's consumer group: choose its dead letters with --replay {name}")
        raise UserError(f"there is no group {group!r}: 'pipeline dead-letters groups' shows them")
