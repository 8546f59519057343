"""Dead letters as the commands show them: as lines, as JSON values, and their bodies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.ledger.dead_letters import Group
    from pipeline.ledger.tables import DeadLetter, OperatorAction

__all__ = [
    "action_json",
    "action_line",
    "body_text",
    "group_json",
    "hex_dump",
    "letter_json",
    "origin",
    "pretty",
    "show_refused",
]


def letter_json(letter: DeadLetter) -> dict[str, Any]:
    """All but traceback, headers and body, as JSON values."""
    from pipeline.cli.console import iso

    return {
        "id": letter.id,
        "source": letter.source,
        "group": letter.group,
        "stream": letter.stream,
        "offset": letter.offset,
        "event_id": letter.event_id,
        "routing_key": letter.routing_key,
        "key": letter.key,
        "route": letter.route,
        "stage": letter.stage,
        "kind": letter.kind,
        "reason": letter.reason,
        "where": letter.place,
        "failure_group": letter.fingerprint,
        "attempts": letter.attempts,
        "redrives": letter.redrives,
        "content_type": letter.content_type,
        "first_at": iso(letter.first_at),
        "last_at": iso(letter.last_at),
        "state": letter.state,
        "outcome": letter.outcome,
        "overtaken_by": letter.overtaken_by,
        "size": len(letter.body),
    }


def origin(letter: DeadLetter) -> str:
    """The source, and the replay where it was one that left the dead letter."""
    _, replayed, name = letter.group.partition(".replay.")
    return f"{letter.source} (replay {name})" if replayed else letter.source


def group_json(group: Group) -> dict[str, Any]:
    """A group of dead letters, as JSON values."""
    from pipeline.cli.console import iso

    return {
        "id": group.id,
        "count": group.count,
        "source": group.source,
        "stream": group.stream,
        "route": group.route,
        "stage": group.stage,
        "kind": group.kind,
        "reason": group.reason,
        "where": group.place,
        "first_at": iso(group.first_at),
        "last_at": iso(group.last_at),
        "example": group.example,
    }


def action_json(action: OperatorAction) -> dict[str, Any]:
    """What was done about a dead letter, as JSON values."""
    from pipeline.cli.console import iso

    return {
        "at": iso(action.at),
        "actor": action.actor,
        "action": action.action,
        "reason": action.reason,
        "request": action.request,
        **action.details,
    }


def action_line(action: OperatorAction) -> str:
    """The same for people."""
    from pipeline.cli.console import iso

    details = " ".join(f"{name}={value}" for name, value in action.details.items())
    told = f"{iso(action.at)} {action.action} by {action.actor}" + (f" ({details})" if details else "")
    return f"{told}: {action.reason}" if action.reason else told


def show_refused(refused: dict[int, str], *, at_most: int = 20) -> None:
    """Say on standard error which dead letters were left as they are, and why."""
    from pipeline.cli.console import say

    for number, why in list(refused.items())[:at_most]:
        say(f"dead letter {number}: {why}", stderr=True)
    if len(refused) > at_most:
        say(f"and {len(refused) - at_most:,} more", stderr=True)


def body_text(body: bytes) -> tuple[str, str]:
    """The body as a text, where it is one; and how it is to be written in JSON: ``text`` or ``base64``."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        return "", "base64"
    return (text, "text") if "\x00" not in text else ("", "base64")


def pretty(text: str) -> str:
    """JSON with a line for each value; any other text as it is."""
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def hex_dump(body: Sequence[int]) -> str:
    """Sixteen bytes a line: offset, bytes, and what of them can be read."""
    lines = []
    for start in range(0, len(body), 16):
        part = bytes(body[start : start + 16])
        readable = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{start:08x}  {part.hex(' '):<47}  {readable}")
    return "\n".join(lines)
