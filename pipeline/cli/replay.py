"""``pipeline replay``: run a range of a source's stream again."""

from __future__ import annotations

import asyncio
import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.files import DEFAULT, FileArgument, open_file
from pipeline.cli.leaving import FINE, LeaveNow
from pipeline.cli.running import QuietOption, VerboseOption, until_complete
from pipeline.moments import WRITTEN

if TYPE_CHECKING:
    from pipeline.cli.files import Opened
    from pipeline.replay import Plan, ReplayRequest

__all__ = ["replay"]

_RATE = re.compile(r"(\d+(?:\.\d+)?)(?:/s)?")


def replay(
    file: FileArgument = DEFAULT,
    source: Annotated[
        str | None, typer.Option(metavar="NAME", help="The source; may be left out where there is one.")
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME|OFFSET|first", help=f"Where the range begins: an offset, {WRITTEN}."),
    ] = None,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="TIME|OFFSET|now",
            help="Where it ends: before a time, with an offset, or with what is there.",
        ),
    ] = "now",
    route: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this route; may be repeated.")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="STAGE", help="Only this stage, and no other, 'finally' included; may be repeated."),
    ] = None,
    rate: Annotated[str | None, typer.Option(metavar="N/s", help="At most so many events per second.")] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The replay's name; by default made of what is asked for.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would happen; write nothing, call no handler.")
    ] = False,
    show: Annotated[int, typer.Option("--show", min=0, metavar="N", help="With --dry-run: show so many events.")] = 5,
    list_: Annotated[bool, typer.Option("--list", help="List the replays, and how far they are.")] = False,
    forget: Annotated[
        str | None, typer.Option(metavar="NAME", help="Forget a replay's progress; its dead letters stay.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print JSON: progress as a line each second, then the summary; or one document."),
    ] = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = 0,
) -> None:
    """Run a range of a source's stream again, with effects, beside the running runners.

    The same command goes on where it stopped. Exits 1 if events are dead or lost to retention, and 130 if it was
    interrupted.
    """
    from pipeline.cli.replay_list import forget_replay, list_replays

    opened = open_file(file)
    if list_ or forget is not None:
        _refuse_more(list_=list_, forget=forget, from_=from_)
        list_replays(opened, as_json=as_json) if list_ else forget_replay(opened, forget or "", source)
        return
    request = _request(source, from_, to, route or [], only or [], name)
    events_per_second = _rate(rate)
    if dry_run:
        _dry_run(opened, request, show, as_json=as_json)
        return
    from pipeline import logs
    from pipeline.replay import choose, plan_replay

    choose(opened.loaded, request)  # a mistake in the request is told before anything else
    _refuse_silence(yes=yes)
    plan = asyncio.run(plan_replay(opened.loaded, opened.plugins, request))
    if not yes and not plan.is_over:
        _confirm(plan)
    logs.configure(verbose - quiet - 1)
    raise LeaveNow(_run(opened, request, plan, events_per_second, as_json=as_json, talk=quiet == 0))


def _refuse_more(*, list_: bool, forget: str | None, from_: str | None) -> None:
    from pipeline.errors import UserError

    if list_ and forget is not None:
        raise UserError("--list and --forget are two things: ask for one of them")
    if from_ is not None:
        raise UserError(f"--{'list' if list_ else 'forget'} runs nothing: leave out --from")


def _request(
    source: str | None, from_: str | None, to: str, route: list[str], only: list[str], name: str | None
) -> ReplayRequest:
    from pipeline.errors import UserError
    from pipeline.replay import ReplayRequest, parse_position

    if from_ is None:
        raise UserError(f"say where the replay begins: --from first, an offset, {WRITTEN}")
    return ReplayRequest(parse_position(from_, "from"), parse_position(to, "to"), source, route, only, name)


def _rate(text: str | None) -> float | None:
    from pipeline.errors import UserError

    if text is None:
        return None
    found = _RATE.fullmatch(text)
    if found is None or not float(found[1]):
        raise UserError(f"--rate {text!r}: write events per second, as in 100/s")
    return float(found[1])


def _refuse_silence(*, yes: bool) -> None:
    from pipeline.errors import UserError

    if not yes and not sys.stdin.isatty():
        raise UserError("a replay has effects again: say --yes where nobody can be asked, or look with --dry-run first")


def _confirm(plan: Plan) -> None:
    """Ask, and leave where the answer is no."""
    from pipeline.cli.console import count, say

    choice = plan.choice
    if plan.note:
        say(plan.note, style="yellow", stderr=True)
    left = plan.total - plan.done
    again = f", {plan.done:,} of them done before," if plan.done else ""
    say(f"offsets {plan.first} to {plan.last} of {choice.table.stream}{again} through:", stderr=True)
    for route in choice.routes:
        stages = " → ".join(route.stages) or "no stage"
        closing = f"; finally {', '.join(route.finally_)}" if route.finally_ else ""
        say(f"  {route.name or route.match[0]}: {stages}{closing}", stderr=True)
    # How many messages that is, nobody knows before they are read: a stream's offsets may have gaps.
    if not typer.confirm(f"Handle at most {count(left, 'message')} again, with all effects?", err=True):
        raise typer.Exit(FINE)


def _dry_run(opened: Opened, request: ReplayRequest, show: int, *, as_json: bool) -> None:
    from pipeline.cli.replay_report import show_dry_run
    from pipeline.cli.replay_screen import bar
    from pipeline.replay import DryRunReport, dry_run, plan_replay

    async def work() -> DryRunReport:
        plan = await plan_replay(opened.loaded, opened.plugins, request, dry_run=True)
        with bar("reading", plan.total) as advance:
            return await dry_run(opened.loaded, plan, show=show, on_progress=advance)

    show_dry_run(asyncio.run(work()), as_json=as_json)


def _run(opened: Opened, request: ReplayRequest, plan: Plan, rate: float | None, *, as_json: bool, talk: bool) -> int:
    from pipeline.cli.replay_screen import ReplayRun
    from pipeline.replay import Replay

    made = Replay(opened.loaded, opened.plugins, request, plan=plan, rate=rate)
    return until_complete(ReplayRun(made, as_json=as_json, talk=talk).run())
