"""Ending tasks that may be amid a client's call: a cancellation that the client swallows is asked for again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, Final

__all__ = ["end_all"]

_AGAIN: Final = 0.5
_TIMES: Final = 20
_log = logging.getLogger("pipeline.jobs")


async def end_all(tasks: Iterable[asyncio.Task[Any]], *, within: float = 0.0) -> None:
    """Return when all of these have ended, whatever with; those that swallow every cancellation are left, and logged.

    Args:
        tasks: The tasks.
        within: Seconds in which they may end by themselves; then they are cancelled.
    """
    pending = {task for task in tasks if not task.done()}
    if pending and within > 0:
        _, pending = await asyncio.wait(pending, timeout=within)
    for _ in range(_TIMES):
        if not pending:
            return
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_AGAIN)
    for task in pending:
        _log.warning("%s does not end, however often it is cancelled: it is left", task.get_name())
