"""Patience: tries until the database answers, unless the worker stops first."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from pipeline.errors import Unavailable
from pipeline.ledger.database import DatabaseRefused
from pipeline.policies.backoff import backoff

__all__ = ["Patience"]

_FIRST_WAIT: Final = 0.1
_LONGEST_WAIT: Final = 5.0
_log = logging.getLogger("pipeline.jobs")

ResultT = TypeVar("ResultT")


class Patience:
    """Waits for the database as long as there is time."""

    def __init__(self) -> None:
        self._ended = False

    def end(self) -> None:
        """From now on try once only."""
        self._ended = True

    async def persist(self, call: Callable[[], Awaitable[ResultT]]) -> ResultT | None:
        """What the call returns once the database answers; None where this was ended first."""
        failures = 0
        while True:
            try:
                return await call()
            except (Unavailable, DatabaseRefused) as error:
                failures += 1
                if failures == 1:
                    _log.warning("%s; jobs wait until it is back", error)
            if self._ended:
                return None
            await asyncio.sleep(backoff(failures, _FIRST_WAIT, _LONGEST_WAIT, jitter=0.2))
