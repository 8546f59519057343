"""The rig notices planted bugs: each makes its verdict fail, and the same faults without the bug do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.aim import BUGS, hit
from tests.integration.rig.site import Site

BREAKS = {
    "progress_first": "events lost",
    "exceptions_acknowledged": "signals missing or doubled",
    "dedupe_skipped": "events with more than one outcome",
    "epoch_ignored": "events with more than one outcome",
}


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.parametrize("bug", BUGS)
async def test_a_planted_bug_fails_the_verdict(site: Site, tmp_path: Path, bug: str) -> None:
    report = await hit(site, bug, tmp_path)
    print(report)
    broken = {finding.question for finding in report.findings if finding.wrong}
    assert BREAKS[bug] in broken


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.parametrize("bug", BUGS)
async def test_the_same_faults_do_no_harm_without_the_bug(site: Site, tmp_path: Path, bug: str) -> None:
    report = await hit(site, bug, tmp_path, planted=False)
    print(report)
    assert report.wrong == []
