"""The short form of the chaos rig: three thousand events, nine faults, always the same; the rest is `make chaos`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.disk import why_no_disks
from tests.chaos.faults import Fault, FaultKind
from tests.chaos.storm import Plan, storm
from tests.chaos.system import started_system
from tests.conftest import IN_CI
from tests.services import ServiceUnavailable

EVENTS = 3_000
RATE = 280.0
FAULTS = (
    Fault(1.0, FaultKind.KILL, "worker", 0.1),
    Fault(2.0, FaultKind.DROP, "postgres", 0.8),
    Fault(3.0, FaultKind.AMNESIA, "redis", 0.1),
    Fault(3.8, FaultKind.DROP, "temporal", 0.8),
    Fault(5.0, FaultKind.KILL, "runner-1", 0.1),
    Fault(6.0, FaultKind.BLACKHOLE, "rabbitmq", 1.0),
    Fault(7.0, FaultKind.DISK, "postgres", 1.0),
    Fault(8.5, FaultKind.RESTART, "postgres", 0.0),
    Fault(9.0, FaultKind.PAUSE, "runner-2", 1.0),
)


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.timeout(120)
async def test_nothing_is_lost_and_nothing_done_twice_whatever_fails(tmp_path: Path) -> None:
    no_disks = why_no_disks()
    faults = [fault for fault in FAULTS if not (no_disks and fault.kind is FaultKind.DISK)]
    try:
        async with started_system(tmp_path, disks=("postgres",)) as system:
            system.run()
            report = await storm(system, Plan(20260131, EVENTS, RATE, 100, faults, patience=60.0), tmp_path)
    except ServiceUnavailable as problem:
        if IN_CI:
            raise
        pytest.skip(f"NO CHAOS: {problem}")
    print(report)
    assert report.wrong == []
    assert sum(report.happened.values()) == len(faults)


def test_a_full_disk_can_be_tried_here() -> None:
    """Where it can't, the rig goes without, and this says so."""
    if reason := why_no_disks():
        pytest.skip(f"NO FULL DISKS in the chaos rig: {reason}; run it as root")
