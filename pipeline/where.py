"""Where in the code a try failed: the handler's own function, and the last frames of the traceback."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from traceback import TracebackException, walk_tb
from types import FrameType, TracebackType
from typing import Final, TypeAlias

from pipeline.errors import HandlerError, in_short

__all__ = ["ExcInfo", "Where", "told_from_handler", "where_failed"]

ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]
"""As `logging` takes it for ``exc_info``."""
_ENGINE: Final = f"{Path(__file__).parent}{os.sep}"
_LIBRARY: Final = sysconfig.get_path("stdlib") + os.sep
_INSTALLED: Final = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_LONGEST_PLACE: Final = 300
_LONGEST_LINE: Final = 1_000
_LONGEST_TRACEBACK: Final = 4_000
_FRAMES: Final = 25
"""Of each error of a chain, the last ones."""


@dataclass(frozen=True, slots=True)
class Where:
    """Where a try failed.

    Attributes:
        place: File and function, as ``orders.py:check_customer``. There is no line in it: a release moves lines.
        traceback: The last frames and the error; None for an error that a handler raised on purpose.
    """

    place: str
    traceback: str | None = None


def where_failed(error: BaseException, handler: object) -> Where | None:
    """Where an error that ended a handler's try was raised; None where no code but the engine's had a part in it.

    Of the frames it is the innermost that is the user's own. A handler that is installed as a package has none: there
    it is the innermost of its package, and where there is no such either, of any package.
    """
    try:
        frames = [frame for frame in _frames(error) if not frame.f_code.co_filename.startswith(_ENGINE)]
        if not frames:
            return None
        package = _package(type(handler).__module__)
        own = _last(frames, _is_own) or _last(frames, lambda frame: _package(_module(frame)) == package) or frames[-1]
        return Where(_place(own), None if isinstance(error, HandlerError) else _traceback(error))
    except Exception:  # noqa: BLE001 - a class of a handler's own may answer anything; its event needs an outcome
        return None


def told_from_handler(error: BaseException) -> ExcInfo:
    """An error for the log, without the engine's frames before the handler's: who reads it looks for the mistake."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next and trace.tb_frame.f_code.co_filename.startswith(_ENGINE):
        trace = trace.tb_next
    if short := in_short(error):  # the log would make its whole text
        error = ValueError(short)
    return type(error), error, trace


def _frames(error: BaseException) -> list[FrameType]:
    """Outermost first; those of a group of errors go on with those of its first."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
        frames += [frame for frame, _ in walk_tb(error.__traceback__)]
    return frames


def _last(frames: Sequence[FrameType], holds: Callable[[FrameType], bool]) -> FrameType | None:
    return next((frame for frame in reversed(frames) if holds(frame)), None)


def _is_own(frame: FrameType) -> bool:
    """Whether it is of code that is no installed package: made-up files, as of a dataclass, are nobody's."""
    file = frame.f_code.co_filename
    return not (file.startswith(("<", _LIBRARY)) or any(folder in file for folder in _INSTALLED))


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _package(module: str) -> str:
    return module.partition(".")[0]


def _place(frame: FrameType) -> str:
    """The file as its module is imported, wherever it is installed: ``shop/orders.py`` for ``shop.orders``."""
    file = PurePath(frame.f_code.co_filename)
    module = tuple(_module(frame).split("."))
    parts = file.with_suffix("").parts
    known = next((name for name in (module, (*module, "__init__")) if parts[-len(name) :] == name), (file.stem,))
    path = "/".join(file.parts[-len(known) :])
    return f"{path}:{frame.f_code.co_qualname.replace('.<locals>', '')}"[:_LONGEST_PLACE]


def _traceback(error: BaseException) -> str:
    """The traceback as Python writes it, without the engine's frames before the handler's; of a long one, the end."""
    told = TracebackException(*told_from_handler(error), limit=-_FRAMES, compact=True)
    lines = [line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}…\n" for line in told.format()]
    text = "".join(lines).rstrip()
    if len(text) <= _LONGEST_TRACEBACK:
        return text
    return "…\n" + text[2 - _LONGEST_TRACEBACK :].partition("\n")[2]
