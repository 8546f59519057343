"""The runner as a library: what a program that embeds it can rely on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import Pipeline
from pipeline.connectors import Connector, Outgoing
from pipeline.errors import ConfigError, PipelineError, PluginError, UserError
from tests.pipeline.dispatch.harness import eventually

HANDLERS = """
import asyncio
from pathlib import Path
from pipeline import Event, Reject, handler

SEEN = Path(__file__).with_name("seen.txt")

@handler("note")
async def note(event: Event) -> None:
    if event.data.get("slow"):
        await asyncio.sleep(0.2)
    if event.data.get("bad"):
        raise Reject("bad data")
    with SEEN.open("a") as seen:
        seen.write(event.id + "\\n")
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a pipeline with a handler that notes the ids it saw."""

    def write(extra: str = "", broker: str = "", stages: str = '["note"]') -> Path:
        (tmp_path / "mine.py").write_text(HANDLERS)
        path = tmp_path / "pipeline.toml"
        path.write_text(
            f"""
            [pipeline]
            handlers = ["mine.py"]
            grace = "5s"
            [broker]
            url = "{broker or f"embedded://{tmp_path}/events.db"}"
            [database]
            url = "sqlite:///{tmp_path}/pipeline.db"
            [source.s]
            stream = "st"
            group = "g"
            [[route]]
            match = "#"
            stages = {stages}
            {extra}
            """
        )
        return path

    return write


async def publish(pipeline: Pipeline, *ids: str, data: bytes = b"{}") -> None:
    """Publish as another program would: by a connection of its own."""
    connector: Connector = type(pipeline.connector)(pipeline.connector.url)
    await connector.connect()
    await connector.publish("st", [Outgoing(data, "a.b", one) for one in ids])
    await connector.close()


def seen(path: Path) -> list[str]:
    file = path.with_name("seen.txt")
    return file.read_text().split() if file.exists() else []


async def test_events_are_handled_between_start_and_stop(write: Write) -> None:
    path = write()
    pipeline = Pipeline.from_file(path, environ={})
    assert not pipeline.is_running
    await pipeline.start()
    assert pipeline.is_running
    await publish(pipeline, "1", "2")
    await eventually(lambda: pipeline.stats().messages_processed == 2)
    await pipeline.stop()
    assert not pipeline.is_running
    stats = pipeline.stats()
    assert (stats.messages_succeeded, stats.messages_failed, stats.running) == (2, 0, False)
    assert seen(path) == ["1", "2"]


async def test_the_stats_have_the_names_of_the_consumer_that_it_replaces(write: Write) -> None:
    async with Pipeline.from_file(write(), environ={}) as pipeline:
        await publish(pipeline, "1")
        await publish(pipeline, "2", data=b'{"bad": true}')
        await eventually(lambda: pipeline.stats().messages_processed == 2)
        stats = pipeline.stats().as_json()
        await eventually(lambda: pipeline.stats().is_healthy)
    assert list(stats)[:7] == [
        "running", "messages_processed", "messages_succeeded", "messages_failed", "is_healthy", "last_message_time",
        "last_error",
    ]  # fmt: skip
    assert (stats["messages_processed"], stats["messages_succeeded"], stats["messages_failed"]) == (2, 1, 1)
    assert "bad data" in stats["last_error"]


async def test_stopping_finishes_what_is_in_flight_and_the_next_start_repeats_nothing(write: Write) -> None:
    path = write()
    async with Pipeline.from_file(path, environ={}) as pipeline:
        await publish(pipeline, *(str(number) for number in range(20)), data=b'{"slow": true}')
        await eventually(lambda: pipeline.stats().sources["s"].in_flight > 0)
    first = seen(path)
    async with Pipeline.from_file(path, environ={}) as pipeline:
        await eventually(lambda: len(seen(path)) >= 20)
    assert sorted(seen(path), key=int) == [str(number) for number in range(20)]
    assert seen(path)[: len(first)] == first


async def test_a_second_runner_on_the_embedded_broker_is_refused_with_the_pid_of_the_first(
    write: Write, tmp_path: Path
) -> None:
    import os
    import subprocess
    import sys

    path = write()
    script = f"import asyncio\nfrom pipeline import Pipeline\nasyncio.run(Pipeline.from_file({str(path)!r}).start())"
    async with Pipeline.from_file(path, environ={}):
        second = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", script], capture_output=True, text=True, check=False
        )
    assert second.returncode != 0
    assert f"is being read by process {os.getpid()}" in second.stderr


async def test_a_pipeline_is_started_once(write: Write) -> None:
    async with Pipeline.from_file(write(), environ={}) as pipeline:
        with pytest.raises(PipelineError, match="started once"):
            await pipeline.start()


async def test_stop_may_be_called_twice_and_without_a_start(write: Write) -> None:
    pipeline = Pipeline.from_file(write(), environ={})
    await pipeline.stop()
    await pipeline.stop()
    assert not pipeline.is_running


async def test_a_wrong_file_is_refused_with_its_problems(write: Write) -> None:
    path = write(stages='["nope"]')
    with pytest.raises(ConfigError, match="nope"):
        Pipeline.from_file(path, environ={})


async def test_a_broken_local_handler_is_refused(write: Write, tmp_path: Path) -> None:
    path = write()
    (tmp_path / "mine.py").write_text("raise RuntimeError('no')")
    with pytest.raises(PluginError, match=r"mine\.py"):
        Pipeline.from_file(path, environ={})


async def test_a_stream_that_the_broker_refuses_ends_the_run(write: Write, tmp_path: Path) -> None:
    path = write()
    path.write_text(path.read_text().replace("[database]", "create_streams = false\n[database]"))
    pipeline = Pipeline.from_file(path, environ={})
    with pytest.raises(UserError, match="there is no stream 'st'"):
        await pipeline.run()
    assert not pipeline.is_running


async def test_the_lifespan_runs_the_pipeline_with_a_fastapi_app(write: Write) -> None:
    from fastapi import FastAPI

    pipeline = Pipeline.from_file(write(), environ={})
    app = FastAPI(lifespan=pipeline.lifespan())
    async with app.router.lifespan_context(app) as state:
        assert state["pipeline"] is pipeline
        assert pipeline.is_running
    assert not pipeline.is_running


async def test_sigterm_ends_run_in_good_order(write: Write) -> None:
    import os
    import signal

    path = write()
    pipeline = Pipeline.from_file(path, environ={})
    running = asyncio.create_task(pipeline.run())
    await eventually(lambda: pipeline.is_running)
    await publish(pipeline, "1")
    await eventually(lambda: seen(path) == ["1"])
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(running, 10)
    assert not pipeline.is_running


async def test_a_run_that_is_cancelled_stops_the_pipeline(write: Write) -> None:
    pipeline = Pipeline.from_file(write(), environ={})
    running = asyncio.create_task(pipeline.run())
    await eventually(lambda: pipeline.is_running)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not pipeline.is_running


async def test_a_stop_during_the_start_leaves_nothing_running(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Pipeline.from_file(write(), environ={})
    create, reached, go_on = pipeline.connector.create_stream, asyncio.Event(), asyncio.Event()

    async def slowly(stream: str) -> None:
        reached.set()
        await go_on.wait()
        await create(stream)

    monkeypatch.setattr(pipeline.connector, "create_stream", slowly)
    starting = asyncio.create_task(pipeline.start())
    await reached.wait()
    stopping = asyncio.create_task(pipeline.stop())
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(starting, stopping, return_exceptions=True)
    assert not pipeline.is_running
    assert all(task.done() for task in pipeline._tasks)


async def test_the_heartbeat_outlives_a_database_that_refuses_for_a_while(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline import heartbeat
    from pipeline.ledger.database import DatabaseRefused
    from pipeline.ledger.instances import Instances

    monkeypatch.setattr(heartbeat, "_SECONDS", 0.01)
    beat, refused, beats = Instances.beat, 0, 0

    async def sometimes(self: Instances, instance: object) -> None:
        nonlocal refused, beats
        if refused < 2:
            refused += 1
            raise DatabaseRefused("the password is wrong")
        await beat(self, instance)  # type: ignore[arg-type]
        beats += 1

    monkeypatch.setattr(Instances, "beat", sometimes)
    async with Pipeline.from_file(write(), environ={}):
        await eventually(lambda: beats > 0)


async def test_faststream_middlewares_see_each_batch(write: Write) -> None:
    from prometheus_client import CollectorRegistry

    from pipeline.streams.prometheus import StreamPrometheusMiddleware

    registry = CollectorRegistry()
    middleware = StreamPrometheusMiddleware(registry=registry)
    async with Pipeline.from_file(write(), environ={}, middlewares=[middleware]) as pipeline:
        await publish(pipeline, "1", "2", "3")
        await eventually(lambda: pipeline.stats().messages_processed == 3)
    counted = [
        sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "pipeline_received_messages_total"
    ]
    assert counted == [3]


async def test_a_broker_that_is_away_at_the_start_is_waited_for_and_its_stream_is_then_created(write: Write) -> None:
    from pipeline_plugins.memory import MemoryStore

    store = MemoryStore.named("away")
    store.fail()
    path = write(broker="memory://away")
    async with Pipeline.from_file(path, environ={}) as pipeline:
        await eventually(lambda: pipeline.stats().sources["s"].state == "paused")
        assert not pipeline.stats().is_healthy
        store.recover()
        await eventually(lambda: pipeline.stats().is_healthy)
        await publish(pipeline, "1")
        await eventually(lambda: pipeline.stats().messages_processed == 1)
    assert seen(path) == ["1"]


async def test_a_resource_that_does_not_answer_at_the_start_is_told_and_does_not_hold_it_up(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    path = write('[resource.temporal]\naddress = "127.0.0.1:1"')
    async with Pipeline.from_file(path, environ={}) as pipeline:
        await publish(pipeline, "1")
        await eventually(lambda: pipeline.stats().messages_processed == 1)
        await eventually(lambda: "resource temporal:" in caplog.text)
    assert "events that need it will wait" in caplog.text


async def test_a_task_of_the_engine_that_dies_ends_the_run_instead_of_leaving_it_deaf(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.ledger.instances import Instances

    async def broken(self: Instances, instance: object) -> None:
        raise RuntimeError("a bug in the heartbeat")

    monkeypatch.setattr(Instances, "beat", broken)
    with pytest.raises(RuntimeError, match="a bug in the heartbeat"):
        await asyncio.wait_for(Pipeline.from_file(write(), environ={}).run(), 10)


async def test_the_stats_tell_how_each_connection_stands_and_why_a_runner_is_unhealthy(write: Write) -> None:
    path = write('[resource.temporal]\naddress = "127.0.0.1:1"\ntimeout = "100ms"')
    async with Pipeline.from_file(path, environ={}) as pipeline:
        await eventually(lambda: pipeline.stats().connections["temporal"].state == "down")
        await eventually(lambda: pipeline.stats().connections["database"].state == "up")
        await eventually(lambda: pipeline.stats().connections["broker"].state == "up")
        stats = pipeline.stats()
        assert not stats.is_healthy
        assert stats.reason.startswith("temporal is down: ")
