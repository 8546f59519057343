"""Outages: how long the jobs of a stage wait while something that they need is down; no failure is counted for it."""

from __future__ import annotations

import logging
from time import monotonic
from typing import Final

from pipeline.errors import Unavailable, text_of
from pipeline.policies.backoff import backoff

__all__ = ["Outage"]

_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 15.0
_JITTER: Final = 0.2
_log = logging.getLogger("pipeline.jobs")


class Outage:
    """Whether a stage's jobs meet an outage now, and how long it has lasted.

    The wait grows once per wait, however many jobs meet the outage meanwhile.
    """

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._met = 0
        self._grows_at = 0.0
        self._wait = 0.0

    def met(self, error: Unavailable) -> float:
        """Note that a job met an outage. Returns the seconds that it is to wait."""
        if self._met == 0:
            _log.warning("stage %s: %s; its jobs wait until it is back", self._stage, text_of(error))
        if monotonic() >= self._grows_at:
            self._met += 1
            self._wait = backoff(self._met, _FIRST_WAIT, _LONGEST_WAIT)
            self._grows_at = monotonic() + self._wait
        return backoff(1, self._wait, self._wait, _JITTER)

    def passed(self) -> None:
        """Note that a job got through."""
        if self._met:
            _log.info("stage %s: its jobs go on", self._stage)
            self._met, self._grows_at = 0, 0.0
