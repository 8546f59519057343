"""What can go wrong, each error an instruction to whoever catches it; one root."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

ENDINGS: Final = (KeyboardInterrupt, SystemExit, GeneratorExit)
"""What is raised to end a program or a coroutine; whatever else a handler raises is a failure of its own, also where it
is no `Exception`, as a panic in an extension written in Rust."""
_LONGEST_WAIT: Final = 1e9
"""Seconds, some 31 years: what is later is no time for every timer and database."""
_LONGEST_TEXT: Final = 10_000
"""Characters of an error that are told: a handler may put another system's whole answer into it."""

Park: TypeAlias = Callable[[Callable[[], bool]], None]
"""Takes what to call as soon as there is room; it is called once, at once where there is room already. It says whether
whoever waited comes; where not, the next one is called."""


class PipelineError(Exception):
    """The root of every error that this project raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in what the user wrote, said so that it can be mended.

    Attributes:
        message: What is wrong and what to do.
        path: Where in the file, as a dotted key (``route[0].match``); empty for the file as a whole.
        file: The file's path as the user wrote it; empty where no file is involved.
        line: The line in the file, counted from 1; None where it is not known.
    """

    message: str
    path: str = ""
    file: str = ""
    line: int | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line) if part)
        return ": ".join(part for part in (place, self.path, self.message) if part)


class UserError(PipelineError):
    """A user's mistake: shown as its message (exit code 2), never with a traceback."""


class ConfigError(UserError):
    """The configuration is wrong; carries every problem at once.

    Attributes:
        problems: All that is wrong, in file order.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class PluginError(UserError):
    """A plugin can't be used; names the plugin, its distribution or file, and the remedy."""


class Fenced(PipelineError):
    """Another runner has taken this source over: stop, and commit nothing more."""


class HandlerError(PipelineError):
    """The root of what a handler raises to tell the engine what to do with an event.

    The engine acts on what these say, so what it could not act on is refused where the handler makes one. A subclass
    that does not call `__init__` has the class's own values.
    """


class Unavailable(HandlerError):
    """A dependency is down: wait for it. Uses no attempt, and is never dead-lettered.

    Attributes:
        dependency: The name of the resource that is down (``temporal``), or ``broker`` or ``database``.
        reason: What was seen, for people.
    """

    dependency: str = "a dependency"  # of a class of its own that leaves `__init__` out; so with the errors below
    reason: str = ""

    def __init__(self, dependency: str, reason: str = "") -> None:
        self.dependency = dependency = str(dependency)
        self.reason = reason
        super().__init__(f"{dependency} is unavailable: {reason}" if reason else f"{dependency} is unavailable")


class Retry(HandlerError):
    """Try this event again: bounded by the stage's ``attempts``, then it is dead.

    Attributes:
        after: Seconds to wait before the next try; None for the stage's own backoff.

    Raises:
        TypeError, ValueError: `after` is no number of seconds. A text that is one will do, as headers have it.
    """

    after: float | None = None

    def __init__(self, reason: str = "", *, after: float | None = None) -> None:
        self.after = None if after is None else _seconds(after)
        super().__init__(reason or "the handler asked for another try")


class Throttled(HandlerError):
    """Not now: the event is to come again later. Uses no attempt, and holds no worker meanwhile.

    Attributes:
        after: Seconds until it may come again.
        park: Takes what to call when it may come again, where that is known by then; whoever can be called waits for
            that, and for no time. For the engine's own policies.

    Raises:
        TypeError, ValueError: As `Retry`.
    """

    after: float = 1.0
    park: Park | None = None

    def __init__(self, reason: str, after: float, park: Park | None = None) -> None:
        self.after = _seconds(after)
        self.park = park
        super().__init__(reason)


class Reject(HandlerError):
    """This event can never succeed: dead at once.

    Attributes:
        kind: A short word for grouping dead letters (``invalid_data``, ``not_found``).
    """

    kind: str = "rejected"

    def __init__(self, reason: str, *, kind: str | None = None) -> None:
        if kind is not None:  # else that of its class; a status code is as good as a word
            self.kind = str(kind)
        super().__init__(reason)


class Skip(HandlerError):
    """This event is not for this route: its stages end here, as filtered."""


def text_of(error: BaseException) -> str:
    """What an error says, as far as it can be kept: whatever a handler raises, its event must have an outcome."""
    try:
        text = in_short(error) or str(error)
    except Exception:  # noqa: BLE001 - a class of a handler's own may say anything
        return "its text can't be told, as its own __str__ fails"
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}… ({len(text):,} characters)"


def in_short(error: BaseException) -> str | None:
    """What stands for the text of an error that a handler's own validation raised, where that is far too long."""
    if type(error).__name__ != "ValidationError":
        return None
    from pipeline.misfits import too_many  # with pydantic, which such an error comes from

    return too_many(error)


def describe(error: BaseException) -> str:
    """An error's class and what it says."""
    text = text_of(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _seconds(after: float) -> float:
    seconds = float(after)
    if not math.isfinite(seconds):
        raise ValueError(f"after={after!r}: say in how many seconds")
    return min(max(0.0, seconds), _LONGEST_WAIT)
