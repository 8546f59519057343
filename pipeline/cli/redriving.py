"""``pipeline dead-letters redrive`` and ``discard``: what becomes of dead letters, who decided it, and why."""

from __future__ import annotations

import asyncio
import getpass
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.files import DEFAULT, ConfigOption, JsonOption
from pipeline.cli.leaving import FAILED, FINE
from pipeline.cli.letters_chosen import (
    GroupOption,
    KindOption,
    ReplayOption,
    RouteOption,
    SinceOption,
    SourceOption,
    StageOption,
    UntilOption,
    chosen,
    say_why_none,
    sources_of,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pipeline.commands import OpenedPipeline
    from pipeline.ledger.dead_letters import Asked, DeadLetters

__all__ = ["discard", "redrive"]

IdsArgument = Annotated[
    list[int] | None,
    typer.Argument(metavar="ID...", min=1, max=2**63 - 1, help="Dead letters, as the list shows them."),
]
AllOption = Annotated[bool, typer.Option("--all", help="All that are open.")]
ReasonOption = Annotated[
    str,
    typer.Option(
        "--reason", metavar="TEXT", help="Why: required, and kept with each dead letter; asked for on a terminal."
    ),
]
ByOption = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who does it; by default your login.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say how many it would be.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask, however many it is.")]
_LOOK_SECONDS = 0.5
_FAILURES = ("failed", "dead", "refused")
"""Outcomes of a redrive that end the command with 1."""
_PATIENCE = 20
"""Looks without an end after which it is said what is waited for."""
_AWAITED = {
    "waiting": "their runner: 'pipeline stats' shows whether it runs, or why it is paused",
    "left": "workers to run what was left as jobs: 'pipeline queues' shows how they get on",
}
"""Outcomes that are none yet, and whom they wait for."""


@dataclass(frozen=True, slots=True)
class _Order:
    """What is to be done about which dead letters."""

    config: Path
    filters: dict[str, Any]
    by: str
    reason: str
    dry_run: bool
    yes: bool
    as_json: bool


def redrive(
    ids: IdsArgument = None,
    config: ConfigOption = DEFAULT,
    group: GroupOption = None,
    source: SourceOption = None,
    route: RouteOption = None,
    stage: StageOption = None,
    kind: KindOption = None,
    replay: ReplayOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    every: AllOption = False,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="From the route's first stage on, not from the one that failed.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also where a later event of its key was, or may have been, handled.")
    ] = False,
    reason: ReasonOption = "",
    by: ByOption = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for what comes of it; exit with 1 if one failed again.")
    ] = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run open dead letters again, under their old ids, in their runner and in order with other events of their key."""
    order = _order(
        config, _filters(
            ids, every,
            chosen(
                group=group, source=source, route=route, stage=stage, kind=kind, replay=replay, since=since, until=until
            ),
        ),
        by, reason, dry_run=dry_run, yes=yes, as_json=as_json,
    )  # fmt: skip

    async def ask(letters: DeadLetters, pipeline: OpenedPipeline, dry: bool) -> Asked:
        # Of a file that is wrong it is not known which sources it will have.
        sources = None if pipeline.problems else sources_of(pipeline)
        return await letters.redrive(
            by=order.by, reason=order.reason, from_start=from_start, force=force, sources=sources, dry_run=dry,
            **order.filters,
        )  # fmt: skip

    _carry_out(order, ask, "redriven", wait=wait)


def discard(
    ids: IdsArgument = None,
    config: ConfigOption = DEFAULT,
    group: GroupOption = None,
    source: SourceOption = None,
    route: RouteOption = None,
    stage: StageOption = None,
    kind: KindOption = None,
    replay: ReplayOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    every: AllOption = False,
    reason: ReasonOption = "",
    by: ByOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Set open dead letters aside for good: they are kept, and no longer listed."""
    order = _order(
        config, _filters(
            ids, every,
            chosen(
                group=group, source=source, route=route, stage=stage, kind=kind, replay=replay, since=since, until=until
            ),
        ),
        by, reason, dry_run=dry_run, yes=yes, as_json=as_json,
    )  # fmt: skip

    async def ask(letters: DeadLetters, pipeline: OpenedPipeline, dry: bool) -> Asked:
        return await letters.discard(by=order.by, reason=order.reason, dry_run=dry, **order.filters)

    _carry_out(order, ask, "discarded", wait=False)


def _filters(ids: list[int] | None, every: bool, options: dict[str, Any]) -> dict[str, Any]:
    """What is meant: named by ids, chosen by options, or all; never two of these, as one of them is a mistake then."""
    from pipeline.errors import UserError

    ways = [name for name, given in (("ids", ids), ("--all", every), ("other options", options)) if given]
    if len(ways) > 1:
        raise UserError(f"{ways[0]} and {ways[1]} contradict each other: choose dead letters by one of them")
    if not ways:
        raise UserError("name dead letters by their ids, or choose them by --group, --route, --since …, or --all")
    return {"ids": ids} if ids else options


def _order(
    config: Path, filters: dict[str, Any], by: str | None, reason: str, *, dry_run: bool, yes: bool, as_json: bool
) -> _Order:
    from pipeline.errors import UserError

    if not reason.strip() and not dry_run:
        if as_json or not _asks():
            raise UserError("say why, with --reason: it is kept with each dead letter")
        reason = typer.prompt("Why")
    return _Order(config, filters, by or _login(), reason, dry_run, yes, as_json)


def _carry_out(
    order: _Order,
    ask: Callable[[DeadLetters, OpenedPipeline, bool], Awaitable[Asked]],
    done: str,
    *,
    wait: bool,
) -> None:
    from pipeline.commands import opened, run
    from pipeline.errors import UserError
    from pipeline.ledger.dead_letters import DeadLetters

    pipeline = opened(order.config, lenient=True)
    if "ids" not in order.filters:  # several pipelines may share a database
        order.filters["among"] = sources_of(pipeline)
        if not order.filters["among"]:
            raise UserError(f"{order.config} has no source to go by: mend it, or name dead letters by their ids")

    async def work() -> tuple[Asked, dict[str, int]]:
        async with pipeline.database() as database:
            letters = DeadLetters(database)
            asked = await ask(letters, pipeline, order.dry_run or _needs_consent(order))
            if not asked.count and not asked.refused and database.exists():
                await say_why_none(pipeline, letters, order.filters | {"state": "open"}, "name them by their ids")
            if not order.dry_run and _needs_consent(order):
                _consent(asked.count, done, as_json=order.as_json)
                order.filters["upto"] = asked.newest  # nobody was asked about what has failed since
                asked = await ask(letters, pipeline, False)
            return asked, await _awaited(letters, asked) if wait and asked.count and not order.dry_run else {}

    asked, outcomes = run(work())
    _tell(order, asked, outcomes, done)
    if asked.refused and not order.dry_run:
        raise UserError(_left(asked))
    if any(outcomes.get(name) for name in _FAILURES):
        raise typer.Exit(FAILED)


def _tell(order: _Order, asked: Asked, outcomes: dict[str, int], done: str) -> None:
    """What was asked for, and what came of it."""
    from pipeline.cli.console import count, say, show_json
    from pipeline.cli.letters_shown import show_refused

    if order.as_json:
        refused = [{"id": number, "reason": why} for number, why in asked.refused.items()]
        request = None if order.dry_run else asked.request
        show_json({"count": asked.count, "request": request, "refused": refused, "outcomes": outcomes})
        return
    show_refused(asked.refused)
    are = "would be" if order.dry_run else "to be" if done == "redriven" else "now"
    say(f"{count(asked.count, 'dead letter')} {are} {done}")
    if outcomes:
        say(", ".join(f"{number:,} {name}" for name, number in outcomes.items() if number))


def _left(asked: Asked) -> str:
    """How many were refused, and what helps those that can be helped."""
    from pipeline.cli.console import count

    left, forcible = len(asked.refused), asked.forcible
    told = f"{count(left, 'dead letter')} {'was left as it was' if left == 1 else 'were left as they were'}"
    if not forcible:
        return told
    which = "it" if left == 1 else "them" if forcible == left else f"{forcible:,} of them"
    return f"{told}: --force runs {which} all the same"


def _needs_consent(order: _Order) -> bool:
    return not order.yes and "ids" not in order.filters


def _consent(number: int, done: str, *, as_json: bool) -> None:
    """Ask whether so many are meant, where there is somebody to ask."""
    from pipeline.cli.console import count
    from pipeline.errors import UserError

    if number < 2:
        return
    if as_json or not _asks():
        raise UserError(f"{count(number, 'dead letter')} would be {done}: confirm that with --yes")
    if not typer.confirm(f"Shall {count(number, 'dead letter')} be {done}?", err=True):
        raise typer.Exit(FINE)


async def _awaited(letters: DeadLetters, asked: Asked) -> dict[str, int]:
    """What came of all of them, once none waits any more."""
    from pipeline.cli.console import say

    looks = dict.fromkeys(_AWAITED, 0)
    while True:
        outcomes = await letters.outcomes(asked.request)
        if not any(outcomes.get(name) for name in _AWAITED):
            return {name: number for name, number in outcomes.items() if name not in _AWAITED}
        for name, told in _AWAITED.items():
            if outcomes.get(name):
                looks[name] += 1
                if looks[name] == _PATIENCE:
                    say(f"waiting for {told}; Ctrl-C ends only this", stderr=True)
        await asyncio.sleep(_LOOK_SECONDS)


def _asks() -> bool:
    import sys

    return sys.stdin.isatty()


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"
