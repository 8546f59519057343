"""The servers that the tests run on can be killed, paused and brought back, and none is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.services import (
    Server,
    fleet,
    places,
    process,
    start_postgres,
    start_rabbitmq,
    start_redis,
    start_temporal,
    state,
)

STARTERS = [start_redis, start_postgres, start_temporal, pytest.param(start_rabbitmq, marks=pytest.mark.slow)]


@pytest.mark.parametrize("starter", STARTERS)
def test_a_server_survives_kill_pause_and_restart(starter: Callable[[Path], Server], own_server: Any) -> None:
    server = own_server(starter)
    family = server.process.family()
    assert server.answers()

    server.pause()
    assert not server.answers()
    server.resume()
    assert process.wait_until(server.answers, seconds=10)

    server.kill()
    assert not server.answers()
    assert not any(process.running(pid) for pid in family)
    where = server.env()
    server.restart()
    assert server.answers()
    assert server.env() == where

    everything = [pid for part in server.processes() for pid in part.family()]
    server.remove()
    assert everything
    assert not any(process.running(pid) for pid in everything)
    assert not server.data.exists()


async def test_postgres_keeps_its_data_over_kill_9(own_server: Any) -> None:
    import asyncpg

    server = await asyncio.to_thread(own_server, start_postgres)
    before = await asyncpg.connect(server.url)
    await before.execute("CREATE TABLE kept (id int)")
    await asyncio.to_thread(server.kill)
    before.terminate()
    await asyncio.to_thread(server.restart)
    after = await asyncpg.connect(server.url)
    assert await after.fetchval("SELECT count(*) FROM kept") == 0
    assert await after.fetchval("SHOW fsync") == await after.fetchval("SHOW synchronous_commit") == "on"
    await after.close()


async def test_each_postgres_fixture_is_an_empty_database(postgres: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(postgres)
    assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
    await connection.close()


@pytest.fixture
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No service of the developer's own: no variables, and a state of the test's own."""
    monkeypatch.setattr(places, "RECORD", tmp_path)
    for variables in (*fleet.GIVEN_BY.values(), *fleet.OPTIONAL.values()):
        for variable in variables:
            monkeypatch.delenv(variable, raising=False)


@pytest.mark.usefixtures("own_state")
def test_a_variable_that_points_nowhere_is_a_problem_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("TEST_AMQP_URL", "amqp://127.0.0.1:1/")
    problems = {service.name: service.problem for service in fleet.current()}
    assert problems["redis"] == "nothing answers where TEST_REDIS_URL points to"
    assert problems["rabbitmq"] == "TEST_AMQP_URL is set, but TEST_RABBITMQ_STREAM_URL is not"
    assert "make services-up" in problems["postgres"]


@pytest.mark.usefixtures("own_state")
def test_what_is_recorded_is_read_back(tmp_path: Path) -> None:
    service = state.Service("redis", "this machine", {"A": "b"}, [process.Process(1, 2)], signal.SIGINT, "/data")
    state.save([service])
    assert state.load() == {"redis": service}
    (tmp_path / "state.json").write_text('[{"name": "redis", "shape": "of another version"}]')
    assert state.load() == {}


def test_a_server_whose_starter_is_gone_is_a_stray() -> None:
    script = "\n".join(
        (
            "import os",
            "from tests.services.places import new_data_folder",
            "from tests.services.process import clean_env, spawn",
            "folder = new_data_folder('stray')",
            "sleeper = spawn(['sleep', '60'], env=clean_env(), folder=folder, output=folder / 'out')",
            "print(sleeper.pid, flush=True)",
            "os._exit(0)",
        )
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=places.ROOT, capture_output=True, text=True, check=True)
    pid = int(done.stdout)
    assert pid in process.strays()
    os.kill(pid, signal.SIGKILL)
    assert process.wait_until(lambda: pid not in process.strays(), seconds=5)


@pytest.mark.parametrize(
    ("code", "expected"), [("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 15)", 143)]
)
def test_run_passes_on_the_exit_code(code: str, expected: int) -> None:
    from tests.services.__main__ import _execute

    assert _execute([sys.executable, "-c", code], dict(os.environ)) == expected


def test_run_names_a_missing_command(capsys: pytest.CaptureFixture[str]) -> None:
    from tests.services.__main__ import _execute

    assert _execute(["no-such-command"], {}) == 127
    assert capsys.readouterr().err == "can't run no-such-command: No such file or directory\n"
