"""What fuzzing found once is tried again each time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.seeds import SEEDS
from tests.fuzz.targets import TARGETS

FINDINGS = sorted(path for path in Path(__file__).with_name("findings").glob("*/*") if path.suffix != ".md")


@pytest.mark.parametrize("path", FINDINGS, ids=lambda path: f"{path.parent.name}/{path.name[:20]}")
def test_what_was_found_stays_mended(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_the_seeds_are_what_the_targets_take(target: str) -> None:
    for seed in SEEDS[target]():
        TARGETS[target](seed)
