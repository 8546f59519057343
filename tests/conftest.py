"""What every test may use: the real servers, an own server to kill, fresh databases and stream names."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar
from urllib.parse import urlsplit

import pytest

from tests.services import Server, ServiceUnavailable
from tests.services.fleet import current
from tests.services.places import new_data_folder

IN_CI = os.environ.get("CI", "").lower() in ("1", "true")
LONG = "chaos"
"""Marks tests that take long, and that only `make chaos` runs, by `-m chaos`."""
REAL_SERVERS = {"rabbitmq", "redis_url", "postgres", "temporal_address", "own_server"}
MISSING = pytest.StashKey[dict[str, list[str]]]()

ServerT = TypeVar("ServerT", bound=Server)


@dataclass(frozen=True)
class RabbitMQ:
    """Where the RabbitMQ of the tests listens."""

    stream_url: str
    amqp_url: str
    tls_url: str
    ca: str


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test that uses a real server is an integration test, without saying so; the long ones are `make chaos`'s."""
    for item in items:
        if REAL_SERVERS.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.integration)
    if LONG not in config.getoption("markexpr"):
        long = [item for item in items if item.get_closest_marker(LONG)]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


@pytest.fixture(scope="session")
def services() -> dict[str, dict[str, str]]:
    """The variables of each service that answers; for the others a text that says why it can't be had."""
    found = {}
    for service in current():
        problem = service.problem or ("" if service.healthy() else f"no answer at {', '.join(service.env.values())}")
        found[service.name] = {"problem": problem} if problem else service.env
    return found


@pytest.fixture
def rabbitmq(services: dict[str, dict[str, str]], request: pytest.FixtureRequest) -> RabbitMQ:
    env = _need("rabbitmq", services, request)
    return RabbitMQ(
        stream_url=env["TEST_RABBITMQ_STREAM_URL"],
        amqp_url=env["TEST_AMQP_URL"],
        tls_url=env.get("TEST_RABBITMQ_STREAM_TLS_URL", ""),
        ca=env.get("TEST_RABBITMQ_CA", ""),
    )


@pytest.fixture
def redis_url(services: dict[str, dict[str, str]], request: pytest.FixtureRequest) -> str:
    return _need("redis", services, request)["TEST_REDIS_URL"]


@pytest.fixture
def temporal_address(services: dict[str, dict[str, str]], request: pytest.FixtureRequest) -> str:
    return _need("temporal", services, request)["TEST_TEMPORAL_ADDRESS"]


@pytest.fixture
async def postgres(services: dict[str, dict[str, str]], request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """The URL of a new, empty database, dropped afterwards."""
    import asyncpg

    url = _need("postgres", services, request)["TEST_DATABASE_URL"]
    name = f"test_{secrets.token_hex(8)}"
    server = await asyncpg.connect(url)
    await server.execute(f"CREATE DATABASE {name}")
    try:
        yield urlsplit(url)._replace(path=f"/{name}").geturl()
    finally:
        await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await server.close()


@pytest.fixture
def own_server(request: pytest.FixtureRequest) -> Iterator[Callable[[Callable[[Path], ServerT]], ServerT]]:
    """Start a server of the test's own, to kill, pause or restart: `own_server(start_rabbitmq)`."""
    folder = new_data_folder("own")
    started: list[Server] = []

    def start(starter: Callable[[Path], ServerT]) -> ServerT:
        try:
            server = starter(folder / str(len(started)))
        except ServiceUnavailable as problem:
            _give_up(starter.__name__.removeprefix("start_"), str(problem), request)
        started.append(server)
        return server

    try:
        yield start
    finally:
        for server in started:
            server.remove()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def stream_name() -> str:
    """A stream's name that no other test has."""
    return f"test.{secrets.token_hex(8)}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say loudly what was not tested for want of a server."""
    for name, tests in config.stash.get(MISSING, {}).items():
        verb = "FAILED" if IN_CI else "SKIPPED"
        terminalreporter.section(f"no {name}: {verb} {len(tests)}", red=IN_CI, yellow=not IN_CI, bold=True)
        for test in tests:
            terminalreporter.line(test)


def _need(name: str, services: dict[str, dict[str, str]], request: pytest.FixtureRequest) -> dict[str, str]:
    env = services[name]
    if problem := env.get("problem"):
        _give_up(name, problem, request)
    return env


def _give_up(name: str, problem: str, request: pytest.FixtureRequest) -> NoReturn:
    """A missing server skips the test; in CI, where all of them must be there, it fails it."""
    request.config.stash.setdefault(MISSING, {}).setdefault(name, []).append(request.node.nodeid)
    if IN_CI:
        pytest.fail(f"no {name}: {problem}", pytrace=False)
    pytest.skip(f"no {name}: {problem}")
