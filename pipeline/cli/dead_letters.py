"""``pipeline dead-letters``: look at what failed for good."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.files import DEFAULT, ConfigOption, JsonOption

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pipeline.ledger.dead_letters import DeadLetters
    from pipeline.ledger.tables import DeadLetter

__all__ = ["app"]

app = typer.Typer(help="Look at messages that failed for good.", no_args_is_help=True)


@app.command("list")
def list_(
    config: ConfigOption = DEFAULT,
    source: Annotated[str | None, typer.Option(metavar="NAME", help="Only of this source.")] = None,
    route: Annotated[str | None, typer.Option(metavar="NAME", help="Only of this route.")] = None,
    stage: Annotated[str | None, typer.Option(metavar="NAME", help="Only of this stage.")] = None,
    kind: Annotated[str | None, typer.Option(metavar="KIND", help="Only of this kind, as in invalid_data.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many at most.")] = 50,
    before: Annotated[int | None, typer.Option(metavar="ID", help="Only older ones than this: the next page.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List dead letters, the newest first."""
    from pipeline.cli.console import count, say, show_json, show_table

    filters = {"source": source, "route": route, "stage": stage, "kind": kind}

    async def ask(letters: DeadLetters) -> tuple[list[DeadLetter], int]:
        return await letters.list(limit, before=before, **filters), await letters.count(**filters)

    found, total = _asked(config, ask)
    if as_json:
        show_json({"total": total, "dead_letters": [_summary(letter) for letter in found]})
        return
    if found:
        columns = ("id", "last_at", "source", "offset", "routing_key", "route", "stage", "kind", "attempts", "reason")
        rows = [_summary(letter) for letter in found]
        show_table(columns, [["-" if row[name] in (None, "") else row[name] for name in columns] for row in rows])
    say(f"{len(found)} of {count(total, 'dead letter')}" if len(found) < total else count(total, "dead letter"))


@app.command()
def show(
    number: Annotated[int, typer.Argument(metavar="ID", help="The dead letter's id, as the list shows it.")],
    config: ConfigOption = DEFAULT,
    raw: Annotated[bool, typer.Option("--raw", help="Write the message's bytes, and nothing else.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show a dead letter: why it is dead, its headers, and its body."""
    from pipeline.cli.console import say, show_json
    from pipeline.errors import UserError

    async def ask(letters: DeadLetters) -> DeadLetter | None:
        return await letters.get(number)

    letter = _asked(config, ask)
    if letter is None:
        raise UserError(f"there is no dead letter {number}: 'pipeline dead-letters list' shows them")
    if raw:
        sys.stdout.buffer.write(letter.body)
        sys.stdout.buffer.flush()
        return
    text, encoding = _body(letter.body)
    if as_json:
        body = text if encoding == "text" else base64.b64encode(letter.body).decode()
        show_json({**_summary(letter), "headers": letter.headers, "body": body, "body_encoding": encoding})
        return
    for name, value in _summary(letter).items():
        say(f"{name:<13} {'-' if value in (None, '') else value}")
    for name, value in letter.headers.items():
        say(f"header        {name}: {value}")
    say()
    say(_pretty(text) if encoding == "text" else _hex(letter.body))


def _asked(config: Path, question: Callable[[DeadLetters], Awaitable[Any]]) -> Any:
    """What the pipeline's database answers."""
    from pipeline.commands import opened, run
    from pipeline.ledger.dead_letters import DeadLetters

    async def ask() -> Any:
        async with opened(config).database() as database:
            return await question(DeadLetters(database))

    return run(ask())


def _summary(letter: DeadLetter) -> dict[str, Any]:
    """All but headers and body, as JSON values."""
    from pipeline.cli.console import iso

    return {
        "id": letter.id,
        "source": letter.source,
        "group": letter.group,
        "stream": letter.stream,
        "offset": letter.offset,
        "event_id": letter.event_id,
        "routing_key": letter.routing_key,
        "route": letter.route,
        "stage": letter.stage,
        "kind": letter.kind,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "content_type": letter.content_type,
        "first_at": iso(letter.first_at),
        "last_at": iso(letter.last_at),
        "state": letter.state,
        "size": len(letter.body),
    }


def _body(body: bytes) -> tuple[str, str]:
    """The body as a text, where it is one; and how it is to be written in JSON: ``text`` or ``base64``."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        return "", "base64"
    return (text, "text") if "\x00" not in text else ("", "base64")


def _pretty(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def _hex(body: bytes) -> str:
    """Sixteen bytes a line: offset, bytes, and what of them can be read."""
    lines = []
    for start in range(0, len(body), 16):
        part = body[start : start + 16]
        readable = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{start:08x}  {part.hex(' '):<47}  {readable}")
    return "\n".join(lines)
