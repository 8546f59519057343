"""Changes of state in the log: one short line each, after the commit, and none where nobody asks."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from pipeline import Reject, Retry
from tests.handlers.governance.engine_rig import rig_on

APPROVE = {"use": "approval", "approvers": ["ciso", "cto"]}
CALL = {"use": "call", "what": "call"}


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "pipeline.test"]


async def test_each_change_of_state_is_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pipeline.test")
    async with rig_on(f"sqlite:///{tmp_path}/t.db", [APPROVE, CALL]) as rig:
        rig.define([APPROVE, CALL], log=True)
        rig.script.plan("call", Retry("later\nsaid\x1b it", after=5.0))
        [id_] = await rig.trigger()
        await rig.run()
        assert lines(caplog) == ["review policy/p-1: running", "review policy/p-1: waiting (approval by ciso, cto)"]
        caplog.clear()
        await rig.approvals.decide(id_, "cto", "granted", request_id="r-1")
        await rig.run()
        await rig.until_next_job()
        assert lines(caplog) == [
            "review policy/p-1: approval granted by cto",
            "review policy/p-1: queued",
            "review policy/p-1: running",
            f"review policy/p-1 ({id_}): call failed at try 1 (later said  it); next try in 5 s",
            "review policy/p-1: running",
            "review policy/p-1: completed",
        ]  # fmt: skip


async def test_a_failure_is_told_always_and_one_that_nobody_meant_with_its_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with rig_on(f"sqlite:///{tmp_path}/t.db", [CALL]) as rig:
        rig.script.plan("call", RuntimeError("boom"), Reject("never"))
        [id_] = await rig.trigger()
        await rig.run()
        await rig.until_next_job()
        assert lines(caplog) == [
            f"review policy/p-1 ({id_}): call failed at try 1 (RuntimeError: boom); next try in 2 s",
            f"review policy/p-1 ({id_}): call failed at try 2 (never); the execution has failed",
        ]
        raised = [record.exc_info[0] if record.exc_info else None for record in caplog.records[-2:]]
        assert raised == [RuntimeError, None]


async def test_a_time_out_and_its_consequences_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pipeline.test")
    escalate = {**APPROVE, "timeout": "1d", "on_timeout": "escalate", "escalate_to": ["ceo"]}
    async with rig_on(f"sqlite:///{tmp_path}/t.db", [escalate]) as rig:
        rig.define([escalate], log=True)
        await rig.trigger()
        await rig.run()
        caplog.clear()
        await rig.until_next_job()
        await rig.until_next_job()
        assert lines(caplog) == [
            "review policy/p-1: approval escalated to ceo",
            "review policy/p-1: approval expired: nobody decided in time",
            "review policy/p-1: failed: nobody decided in time",
        ]


async def test_by_default_nothing_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pipeline.test")
    async with rig_on(f"sqlite:///{tmp_path}/t.db", [APPROVE]) as rig:
        [id_] = await rig.trigger()
        await rig.run()
        await rig.approvals.decide(id_, "cto", "granted", request_id="r-1")
        await rig.run()
    assert lines(caplog) == []
