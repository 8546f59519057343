"""Backoff: the waits between tries."""

from __future__ import annotations

import pytest

from pipeline.policies.backoff import backoff


@pytest.mark.parametrize(("failures", "wait"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (5000, 60)])
def test_the_wait_doubles_up_to_the_longest(failures: int, wait: float) -> None:
    assert backoff(failures, 1, 60) == wait


def test_jitter_takes_at_most_its_part_of_the_wait() -> None:
    assert backoff(3, 1, 60, 0.25, uniform=lambda: 0.0) == 4
    assert backoff(3, 1, 60, 0.25, uniform=lambda: 1.0) == 3
