"""The sample workflow: what a first event pauses, in the runner or by a command of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from pipeline_plugins.temporal import TemporalResource
from pipeline_plugins.temporal.options import TemporalOptions
from pipeline_plugins.temporal.sample import workflow
from pipeline_plugins.temporal.sample.workflow import Memory, SampleWorkflow
from tests.plugins.temporal.support import running

SAMPLE = "sample-workflow"


async def memory_of(resource: TemporalResource, workflow_id: str = SAMPLE) -> Memory:
    return await (await resource.client()).get_workflow_handle(workflow_id).query(SampleWorkflow.memory)


@pytest.mark.integration
async def test_with_sample_a_workflow_runs_that_can_be_paused_and_resumed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pipeline.sample")
    async with running(tmp_path / "temporal.db", sample=True) as resource:
        assert (await memory_of(resource)).status == "running"
        await resource.signal(SAMPLE, "pause", request_id="1")
        assert (await memory_of(resource)).status == "paused"
        await resource.signal(SAMPLE, "resume", request_id="2")
        assert (await memory_of(resource)).status == "running"
    assert f"{SAMPLE} is paused" in caplog.messages
    assert f"{SAMPLE} is running" in caplog.messages


@pytest.mark.integration
async def test_with_sample_it_tells_what_to_publish_and_where_to_look(tmp_path: Path) -> None:
    async with running(tmp_path / "temporal.db", sample=True) as resource:
        assert resource.examples() == {"workflow_id": SAMPLE}
        await resource.signal(SAMPLE, "pause", request_id="1")
        [hint] = resource.hints()
        shell = await asyncio.create_subprocess_shell(hint, stdout=asyncio.subprocess.PIPE)
        shown, _ = await shell.communicate()
        assert b"WorkflowExecutionSignaled" in shown


@pytest.mark.integration
async def test_without_sample_it_has_nothing_to_tell(tmp_path: Path) -> None:
    async with running(tmp_path / "temporal.db") as resource:
        assert (resource.examples(), resource.hints()) == ({}, ())


@pytest.mark.integration
async def test_a_paused_sample_is_still_paused_after_a_restart_and_a_cancelled_one_begins_anew(tmp_path: Path) -> None:
    async with running(tmp_path / "temporal.db", sample=True) as resource:
        await resource.signal(SAMPLE, "pause", request_id="1")
        assert (await memory_of(resource)).status == "paused"
    async with running(tmp_path / "temporal.db", sample=True) as resource:
        assert (await memory_of(resource)).status == "paused"
        await resource.signal(SAMPLE, "cancel", request_id="2")
        handle = (await resource.client()).get_workflow_handle(SAMPLE)
        assert await handle.result() == "cancelled"
    async with running(tmp_path / "temporal.db", sample=True) as resource:
        assert (await memory_of(resource)).status == "running"


async def test_no_sample_is_started_on_a_server_of_ones_own(
    temporal_address: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pipeline.temporal")
    resource = TemporalResource(TemporalOptions(address=temporal_address, sample=True))
    await resource.start()
    assert resource.examples() == {}
    assert f"nothing is started at {temporal_address}" in caplog.text
    await resource.stop()


async def test_the_command_serves_the_named_workflows_until_it_is_told_to_end(
    temporal_address: str, stream_name: str
) -> None:
    command = ["-m", "pipeline_plugins.temporal.sample", "--address", temporal_address, "--task-queue", stream_name]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, "--workflow-id", stream_name, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert f"running: {stream_name}" in (await process.stdout.readline()).decode()
        resource = TemporalResource(TemporalOptions(address=temporal_address))
        await resource.signal(stream_name, "pause", request_id="1")
        assert f"{stream_name} is paused" in (await process.stdout.readline()).decode()
        await resource.stop()
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 15) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_the_command_says_so_where_no_server_answers() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pipeline_plugins.temporal.sample", "--address", "127.0.0.1:1",
        stderr=asyncio.subprocess.PIPE, env={**os.environ},
    )  # fmt: skip
    _, said = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    assert b"can't connect to 127.0.0.1:1" in said
    assert b"Traceback" not in said


@pytest.mark.integration
async def test_it_remembers_the_last_event_ids_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow, "REMEMBERED", 5)
    async with running(tmp_path / "temporal.db", sample=True) as resource:
        for number in range(8):
            await resource.signal(SAMPLE, "pause", request_id=str(number), args=[str(number)])
        memory = await memory_of(resource)
        assert (memory.applied, memory.seen) == (8, ["3", "4", "5", "6", "7"])
