"""The embedded server: it starts by itself, keeps its workflows, and ends with its owner however that ends."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from temporalio.client import WorkflowExecutionStatus

from pipeline import Reject, Unavailable
from pipeline.errors import UserError
from pipeline_plugins.temporal import TemporalResource, embedded
from pipeline_plugins.temporal.options import TemporalOptions
from pipeline_plugins.temporal.tenancy import Record, Tenancy
from tests.handlers.eventually import eventually
from tests.plugins.temporal.support import goes_through, is_silent, running
from tests.services.ports import free_port

pytestmark = pytest.mark.integration

OWNER = """
import asyncio, sys
from pipeline_plugins.temporal import TemporalResource
from pipeline_plugins.temporal.options import TemporalOptions

async def main():
    resource = TemporalResource(TemporalOptions.model_validate({"database": sys.argv[1]}))
    await resource.start()
    print(resource.describe(), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def default_port(monkeypatch: pytest.MonkeyPatch) -> int:
    """A default port of the test's own: the real one is taken by whichever test comes first."""
    port = free_port()
    monkeypatch.setattr(embedded, "DEFAULT_PORT", port)
    return port


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "state" / "temporal.db"


@pytest.fixture
async def owner(database: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process that runs the embedded server of the same database."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, str(database), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(30):
        assert b"embedded" in await process.stdout.readline()
    yield process
    if process.returncode is None:
        process.kill()
        await process.wait()


def server_of(database: Path) -> Record:
    record = Tenancy(database).read()
    assert record is not None
    return record


async def begin(resource: TemporalResource, workflow_id: str) -> None:
    client = await resource.client()
    await client.start_workflow("Untended", id=workflow_id, task_queue=secrets.token_hex(4))


async def test_it_answers_once_it_has_started_and_is_gone_once_it_has_stopped(database: Path) -> None:
    async with running(database) as resource:
        await resource.probe()
        server = server_of(database)
        assert f"127.0.0.1:{server.port}, namespace default (embedded, {database})" in resource.describe()
    assert not server.alive
    assert Tenancy(database).read() is None


async def test_it_listens_on_the_loopback_interface_only(database: Path) -> None:
    psutil = pytest.importorskip("psutil")
    async with running(database):
        listening = [
            connection.laddr.ip
            for connection in psutil.Process(server_of(database).pid).net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
    assert set(listening) == {"127.0.0.1"}


async def test_workflows_outlive_a_restart(database: Path) -> None:
    async with running(database) as resource:
        await begin(resource, "w")
    async with running(database) as resource:
        await resource.signal("w", "pause", request_id="1")
        described = await (await resource.client()).get_workflow_handle("w").describe()
        assert described.status == WorkflowExecutionStatus.RUNNING


async def test_the_configured_namespace_is_there(database: Path) -> None:
    async with running(database, namespace="platform") as resource:
        await resource.probe()
        with pytest.raises(Reject, match="no workflow 'w' in namespace 'platform'"):
            await resource.signal("w", "pause", request_id="1")


async def test_a_taken_default_port_is_no_obstacle(database: Path, default_port: int) -> None:
    with socket.create_server(("127.0.0.1", default_port)):
        async with running(database) as resource:
            await resource.probe()
            assert server_of(database).port != default_port


async def test_a_port_that_is_taken_in_the_moment_of_starting_is_exchanged(
    database: Path, default_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", default_port)):
        looks = iter([True])  # free at the first look, taken when the server comes
        really_free = embedded._is_free
        monkeypatch.setattr(embedded, "_is_free", lambda asked: next(looks, None) or really_free(asked))
        async with running(database) as resource:
            await resource.probe()
            assert server_of(database).port != default_port


@pytest.mark.parametrize("key", ["port", "ui_port"])
async def test_a_taken_port_that_was_asked_for_is_named(database: Path, key: str) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)), pytest.raises(UserError, match=f"port {port} is taken"):
        async with running(database, **{key: port}):
            pass


async def test_a_second_process_joins_the_server_and_leaves_it_running(
    database: Path, owner: asyncio.subprocess.Process
) -> None:
    server = server_of(database)
    async with running(database) as guest:
        await guest.probe()
        assert server_of(database) == server
    assert server.alive


async def test_after_a_kill_of_its_owner_the_next_one_starts_it_anew_with_its_workflows(
    database: Path, owner: asyncio.subprocess.Process
) -> None:
    async with running(database) as guest:
        await begin(guest, "w")
    old = server_of(database)
    owner.kill()
    await owner.wait()
    async with running(database) as resource:
        assert not old.alive
        await resource.signal("w", "pause", request_id="1")


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="without util-linux, the next owner ends it")
async def test_a_kill_of_its_owner_ends_it(database: Path, owner: asyncio.subprocess.Process) -> None:
    server = server_of(database)
    owner.kill()
    await eventually(lambda: not server.alive)


async def test_a_server_that_nothing_ended_with_its_owner_is_ended_by_the_next_owner(
    database: Path, monkeypatch: pytest.MonkeyPatch, owner: asyncio.subprocess.Process
) -> None:
    owner.kill()
    await owner.wait()
    await eventually(lambda: Tenancy(database).read() is None)
    orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        Tenancy(database).write(Record.of(orphan.pid, 1))
        reaped = asyncio.create_task(asyncio.to_thread(orphan.wait))
        async with running(database) as resource:
            await resource.probe()
        assert await reaped == -signal.SIGTERM
    finally:
        orphan.kill()
        orphan.wait()


async def test_a_process_that_merely_has_the_old_pid_is_left_alone(database: Path) -> None:
    Tenancy(database).claim()
    stranger = Record(os.getpid(), 12345, 1)  # our own pid, of another start time
    Tenancy(database).write(stranger)
    assert Tenancy(database).read() is None
    Tenancy(database).evict()


async def test_a_server_that_ends_by_itself_is_started_again_on_the_same_port(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(database) as resource:
        await begin(resource, "w")
        server = server_of(database)
        os.kill(server.pid, signal.SIGKILL)
        await eventually(lambda: (now := Tenancy(database).read()) is not None and now.pid != server.pid)
        await eventually(lambda: goes_through(resource, "w", "1"))
        assert server_of(database).port == server.port
    assert "the embedded Temporal ended (exit code -9)" in caplog.text


async def test_while_it_is_down_nothing_is_sent_to_a_stranger_on_its_port(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(embedded, "_RESTART_PAUSES", (0.2, 0.2))
    spawn, me, there = embedded.EmbeddedServer._spawn, asyncio.current_task(), asyncio.Event()

    async def after_the_stranger(self: embedded.EmbeddedServer, program: str) -> None:
        if asyncio.current_task() is not me:  # the stranger is started by this test, the other server by itself
            await there.wait()
        await spawn(self, program)

    async with running(database) as resource:
        await begin(resource, "w")
        monkeypatch.setattr(embedded.EmbeddedServer, "_spawn", after_the_stranger)
        port = server_of(database).port
        os.kill(server_of(database).pid, signal.SIGKILL)
        await eventually(lambda: "the embedded Temporal ended" in caplog.text)
        async with running(tmp_path / "stranger.db", port=port):
            there.set()
            with pytest.raises(Unavailable, match="not running"):
                await resource.signal("w", "pause", request_id="1")
            await eventually(lambda: "did not start" in caplog.text)
            with pytest.raises(Unavailable, match="not running"):
                await resource.signal("w", "pause", request_id="1")
        await eventually(lambda: goes_through(resource, "w", "1"))


async def test_a_restart_that_fails_is_tried_again(
    database: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spawn = embedded.EmbeddedServer._spawn
    failures = iter([UserError("no luck")])

    async def unlucky(self: embedded.EmbeddedServer, program: str) -> None:
        for failure in failures:
            raise failure
        await spawn(self, program)

    async with running(database) as resource:
        await begin(resource, "w")
        monkeypatch.setattr(embedded.EmbeddedServer, "_spawn", unlucky)
        monkeypatch.setattr(embedded, "_RESTART_PAUSES", (0.01,))
        os.kill(server_of(database).pid, signal.SIGKILL)
        await eventually(lambda: "no luck" in caplog.text)
        await eventually(lambda: goes_through(resource, "w", "1"))


async def test_a_program_that_cannot_be_run_is_named(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "find_program", lambda: "/dev/null")
    monkeypatch.setattr(embedded, "_ended_with_us", list)
    with pytest.raises(UserError, match=r"can't be started: .*'/dev/null'"):
        async with running(database):
            pass


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="can't write to"):
        async with running(tmp_path / "file" / "temporal.db"):
            pass


async def test_a_server_that_does_not_start_says_why(database: Path) -> None:
    database.parent.mkdir(parents=True)
    database.write_text("this is no database, but it is long enough to be looked at " * 100)
    with pytest.raises(UserError, match=r"the embedded Temporal did not start: \w"):
        async with running(database):
            pass


@pytest.fixture
def crashing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has the server panic at its first so many starts, as it does when a port that it chose is taken meanwhile."""

    def crash(times: int) -> None:
        left, program = tmp_path / "left", tmp_path / "temporal"
        left.write_text("x" * times)
        program.write_text(
            f"#!/bin/sh\nif [ -s {left} ]; then truncate -s -1 {left}\n"
            'printf "panic: no free port\\n\\ngoroutine 1 [running]:\\n\\tmain.go:18 +0x8e\\n"; exit 2; fi\n'
            f'exec {embedded.find_program()} "$@"\n'
        )
        program.chmod(0o755)
        monkeypatch.setattr(embedded, "find_program", lambda: str(program))

    return crash


async def test_a_server_that_crashes_at_its_start_is_started_again(
    database: Path, crashing: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    crashing(2)
    async with running(database) as resource:
        await resource.probe()
    assert caplog.text.count("did not start: panic: no free port; trying again") == 2


async def test_a_server_that_keeps_crashing_is_given_up_and_its_reason_told(
    database: Path, crashing: Callable[[int], None]
) -> None:
    crashing(3)
    with pytest.raises(UserError, match=r"did not start: panic: no free port$"):
        async with running(database):
            pass


async def test_a_missing_program_names_the_extra(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> None:
        raise embedded.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(embedded.importlib.metadata, "files", none)
    monkeypatch.setattr(embedded.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'pipeline-runner\[embedded\]'"):
        async with running(database):
            pass


@pytest.mark.parametrize(("address", "extra"), [(None, "embedded"), ("localhost:7233", "temporal")])
async def test_a_missing_library_names_the_extra(
    database: Path, address: str | None, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "temporalio", None)
    with pytest.raises(UserError, match=rf"pip install 'pipeline-runner\[{extra}\]'"):
        async with running(database, address=address):
            pass


async def test_a_probe_before_the_start_starts_nothing(database: Path) -> None:
    await TemporalResource(TemporalOptions(database=database)).probe()
    assert not database.parent.exists()


async def test_a_probe_before_the_start_asks_the_server_that_another_process_runs(
    database: Path, owner: asyncio.subprocess.Process
) -> None:
    resource = TemporalResource(TemporalOptions(database=database))
    await resource.probe()
    assert f"127.0.0.1:{server_of(database).port}" in resource.describe()
    server = server_of(database)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        hasty = TemporalResource(TemporalOptions(database=database, timeout=0.5))
        await eventually(lambda: is_silent(hasty))
    finally:
        os.kill(server.pid, signal.SIGCONT)
    await hasty.stop()
    await resource.stop()


async def test_the_web_ui_is_served_where_it_is_asked_for(database: Path) -> None:
    port = free_port()
    async with running(database, ui_port=port) as resource:
        assert f"web UI at http://127.0.0.1:{port}" in resource.describe()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        await writer.drain()
        assert (await reader.readline()).startswith(b"HTTP/1.")
        writer.close()
        await writer.wait_closed()
