"""Lanes: which queues' hints go which way."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from sqlalchemy import true
from sqlmodel import col

from pipeline.jobs.contract import INLINE
from pipeline.jobs.hints import HintQueue
from pipeline.ledger.job_tables import JobRow

__all__ = ["Carries", "Lane"]


class Carries(Enum):
    """Which queues a lane carries: all of them, the runner's own, or all others."""

    ALL = auto()
    INLINE = auto()
    OTHERS = auto()

    def includes(self, queue: str) -> bool:
        """Whether this queue is among them."""
        return self is Carries.ALL or (queue == INLINE) is (self is Carries.INLINE)

    def condition(self) -> Any:
        """The same for rows of `jobs`, in SQL."""
        if self is Carries.ALL:
            return true()
        queue = col(JobRow.queue)
        return queue == INLINE if self is Carries.INLINE else queue != INLINE


@dataclass(frozen=True, slots=True)
class Lane:
    """A queue of hints, and what it carries.

    Attributes:
        hints: The queue of hints.
        carries: Which of the jobs' queues it carries.
    """

    hints: HintQueue
    carries: Carries
