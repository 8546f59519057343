"""``pipeline dead-letters``: look at what failed for good, and decide about it."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli import redriving
from pipeline.cli.files import DEFAULT, ConfigOption, JsonOption
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
    from collections.abc import Awaitable, Callable, Sequence

    from pipeline.commands import OpenedPipeline
    from pipeline.ledger.dead_letters import DeadLetters, Group
    from pipeline.ledger.tables import DeadLetter, OperatorAction

__all__ = ["app"]

app = typer.Typer(help="Look at messages that failed for good; run them again, or discard them.", no_args_is_help=True)

LimitOption = Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many at most.")]
StateOption = Annotated[
    str, typer.Option(metavar="STATE", help="Only open, redriving, redriven or discarded ones, or all.")
]
AnySourceOption = Annotated[
    bool,
    typer.Option("--any-source", help="Also of sources that are not in the file: all that the database has."),
]
_STATES = ("open", "redriving", "redriven", "discarded")


@app.command("list")
def list_(
    config: ConfigOption = DEFAULT,
    source: SourceOption = None,
    route: RouteOption = None,
    stage: StageOption = None,
    kind: KindOption = None,
    replay: ReplayOption = None,
    group: GroupOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    state: StateOption = "open",
    any_source: AnySourceOption = False,
    limit: LimitOption = 50,
    before: Annotated[int | None, typer.Option(metavar="ID", help="Only older ones than this: the next page.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List dead letters, the newest first; by default those that are open."""
    from pipeline.cli.console import count, say, show_json, show_table
    from pipeline.cli.letters_shown import letter_json, origin

    filters = chosen(
        group=group, source=source, route=route, stage=stage, kind=kind, replay=replay, since=since, until=until
    )
    filters["state"] = _state(state)

    async def ask(letters: DeadLetters, pipeline: OpenedPipeline) -> tuple[list[DeadLetter], int]:
        among = _among(pipeline, any_source=any_source)
        total = await letters.count(among=among, **filters)
        if not total:
            await say_why_none(pipeline, letters, filters | {"among": among}, "--any-source shows them")
        return await letters.list(limit, before=before, among=among, **filters), total

    found, total = _asked(config, ask)
    if as_json:
        show_json({"total": total, "dead_letters": [letter_json(letter) for letter in found]})
        return
    if found:
        columns = ("id", "last_at", "source", "offset", "routing_key", "route", "stage", "kind", "attempts", "reason")
        rows = [letter_json(letter) | {"source": origin(letter)} for letter in found]
        cells = [["-" if row[name] in (None, "") else row[name] for name in columns] for row in rows]
        least = ("offset", "attempts", "source", "route", "routing_key", "last_at")
        show_table(columns, cells, fold=("reason",), drop=least)
    say(f"{len(found)} of {count(total, 'dead letter')}" if len(found) < total else count(total, "dead letter"))


@app.command()
def groups(
    config: ConfigOption = DEFAULT,
    source: SourceOption = None,
    route: RouteOption = None,
    stage: StageOption = None,
    kind: KindOption = None,
    replay: ReplayOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    state: StateOption = "open",
    any_source: AnySourceOption = False,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """Show dead letters by failure: the same stage and kind, at the same place in the code or for the same reason."""
    from pipeline.cli.console import count, say, show_json, show_table
    from pipeline.cli.letters_shown import group_json

    filters = chosen(source=source, route=route, stage=stage, kind=kind, replay=replay, since=since, until=until)
    filters["state"] = _state(state)

    async def ask(letters: DeadLetters, pipeline: OpenedPipeline) -> Sequence[Group]:
        among = _among(pipeline, any_source=any_source)
        found = await letters.groups(limit, among=among, **filters)
        if not found:
            await say_why_none(pipeline, letters, filters | {"among": among}, "--any-source shows them")
        return found

    found = [group_json(group) for group in _asked(config, ask)]
    if as_json:
        show_json({"groups": found})
        return
    if found:
        columns = (
            "id", "count", "source", "route", "stage", "kind", "first_at", "last_at", "example", "where", "reason",
        )  # fmt: skip
        cells = [["-" if row[name] in (None, "") else row[name] for name in columns] for row in found]
        least = ("first_at", "source", "example", "last_at", "route", "kind", "where")
        show_table(columns, cells, fold=("where", "reason"), drop=least)
    say(count(len(found), "group"))


@app.command()
def show(
    number: Annotated[
        int, typer.Argument(metavar="ID", min=1, max=2**63 - 1, help="The dead letter's id, as the list shows it.")
    ],
    config: ConfigOption = DEFAULT,
    raw: Annotated[bool, typer.Option("--raw", help="Write the message's bytes, and nothing else.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show a dead letter: why it is dead and where it failed, what was done about it, its headers, and its body."""
    from pipeline.cli.console import say, show_json
    from pipeline.cli.letters_shown import action_json, action_line, body_text, hex_dump, letter_json, pretty
    from pipeline.errors import UserError

    async def ask(letters: DeadLetters, _: OpenedPipeline) -> tuple[DeadLetter | None, Sequence[OperatorAction]]:
        return await letters.get(number), await letters.history(number)

    letter, history = _asked(config, ask)
    if letter is None:
        raise UserError(f"there is no dead letter {number}: 'pipeline dead-letters list' shows them")
    if raw:
        sys.stdout.buffer.write(letter.body)
        sys.stdout.buffer.flush()
        return
    text, encoding = body_text(letter.body)
    if as_json:
        body = text if encoding == "text" else base64.b64encode(letter.body).decode()
        told = {
            "traceback": letter.traceback,
            "headers": letter.headers,
            "history": [action_json(action) for action in history],
        }
        show_json({**letter_json(letter), **told, "body": body, "body_encoding": encoding})
        return
    for name, value in letter_json(letter).items():
        say(f"{name:<13} {'-' if value in (None, '') else value}")
    for line in (letter.traceback or "").splitlines():
        say(f"traceback     {line}")
    for action in history:
        say(f"history       {action_line(action)}")
    for name, value in letter.headers.items():
        say(f"header        {name}: {value}")
    say()
    say(pretty(text) if encoding == "text" else hex_dump(letter.body))


app.command("redrive")(redriving.redrive)
app.command("discard")(redriving.discard)


def _state(state: str) -> str | None:
    from pipeline.errors import UserError

    if state != "all" and state not in _STATES:
        raise UserError(f"there is no state {state!r}: write {', '.join(_STATES)} or all")
    return None if state == "all" else state


def _among(pipeline: OpenedPipeline, *, any_source: bool) -> set[tuple[str, str]] | None:
    """The sources whose dead letters are meant; None for all."""
    # Of a file that is wrong it is not known which sources it will have.
    return None if any_source or pipeline.problems else sources_of(pipeline)


def _asked(config: Path, question: Callable[[DeadLetters, OpenedPipeline], Awaitable[Any]]) -> Any:
    """What the pipeline's database answers."""
    from pipeline.commands import opened, run
    from pipeline.ledger.dead_letters import DeadLetters

    pipeline = opened(config, lenient=True)

    async def ask() -> Any:
        async with pipeline.database() as database:
            return await question(DeadLetters(database), pipeline)

    return run(ask())
