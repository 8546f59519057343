"""Backoff: how long to wait before the next try."""

from __future__ import annotations

import random
from collections.abc import Callable

__all__ = ["backoff"]


def backoff(
    failures: int,
    first: float,
    longest: float,
    jitter: float = 0.0,
    uniform: Callable[[], float] = random.random,
) -> float:
    """Seconds to wait after this many failures: `first`, doubled each time, at most `longest`.

    Args:
        failures: How often it failed so far, from 1.
        first: The wait after the first failure, in seconds.
        longest: The longest wait, in seconds.
        jitter: The part of the wait that is random, 0 to 1, so that many waiters don't come back at once.
        uniform: A source of numbers in [0, 1), for tests.
    """
    wait = min(longest, first * 2.0 ** min(failures - 1, 62))
    return wait * (1 - jitter * uniform())
