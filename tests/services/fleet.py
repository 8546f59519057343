"""All services together: find or start each, in parallel; end what was started."""

from __future__ import annotations

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.services import compose, places, process, state
from tests.services.errors import ServiceUnavailable
from tests.services.postgres import start_postgres
from tests.services.rabbitmq import start_rabbitmq
from tests.services.redis import start_redis
from tests.services.state import Service
from tests.services.temporal import start_temporal

STARTERS = {
    "rabbitmq": start_rabbitmq,
    "redis": start_redis,
    "postgres": start_postgres,
    "temporal": start_temporal,
}
GIVEN_BY = {  # the variables that point to a service; all but the optional ones are needed
    "rabbitmq": ("TEST_RABBITMQ_STREAM_URL", "TEST_AMQP_URL"),
    "redis": ("TEST_REDIS_URL",),
    "postgres": ("TEST_DATABASE_URL",),
    "temporal": ("TEST_TEMPORAL_ADDRESS",),
}
OPTIONAL = {"rabbitmq": ("TEST_RABBITMQ_STREAM_TLS_URL", "TEST_RABBITMQ_CA")}
ENVIRONMENT = "environment"


@dataclass(frozen=True)
class Fleet:
    """The services after `up`, and the names of those that it had to start."""

    services: list[Service]
    started: list[str]

    def env(self) -> dict[str, str]:
        return {name: value for service in self.services for name, value in service.env.items()}

    def missing(self) -> list[Service]:
        return [service for service in self.services if service.problem]


def up() -> Fleet:
    """Every service: the one that the environment names, else the one that runs already, else a new one."""
    with state.locked():
        recorded = state.load()
        _kill_strays(recorded)
        found = {name: service for name in STARTERS if (service := _given(name))}
        with ThreadPoolExecutor() as pool:
            checks = {name: pool.submit(service.healthy) for name, service in recorded.items() if name not in found}
        found |= {name: recorded[name] for name, check in checks.items() if check.result()}
        needed = [name for name in STARTERS if name not in found]
        _end([recorded.pop(name) for name in needed if name in recorded])
        try:
            new = _start(needed) if needed else {}
        except BaseException:  # Ctrl-C too
            _kill(process.strays(own=True))
            raise
        state.save({**recorded, **{name: service for name, service in new.items() if not service.problem}}.values())
        services = [{**found, **new}[name] for name in STARTERS]
        return Fleet(services, started=[name for name in needed if not new[name].problem])


def down(names: list[str] | None = None) -> list[str]:
    """End the services that `up` started, or these of them; returns their names."""
    with state.locked():
        recorded = state.load()
        ending = [service for name, service in recorded.items() if names is None or name in names]
        _end(ending)
        state.save(service for service in recorded.values() if service not in ending)
        _kill_strays(state.load())
        return [service.name for service in ending]


def current() -> list[Service]:
    """What there is now, without starting anything."""
    recorded = state.load()
    return [
        _given(name) or recorded.get(name) or Service(name, problem="not started: type `make services-up`")
        for name in STARTERS
    ]


def _given(name: str) -> Service | None:
    """The service that environment variables point to, if they do."""
    given = {variable: os.environ[variable] for variable in GIVEN_BY[name] if os.environ.get(variable)}
    if not given:
        return None
    if missing := [variable for variable in GIVEN_BY[name] if variable not in given]:
        return Service(name, ENVIRONMENT, problem=f"{', '.join(given)} is set, but {', '.join(missing)} is not")
    more = {variable: os.environ[variable] for variable in OPTIONAL.get(name, ()) if os.environ.get(variable)}
    service = Service(name, ENVIRONMENT, {**given, **more})
    if service.healthy():
        return service
    return Service(name, ENVIRONMENT, problem=f"nothing answers where {', '.join(given)} points to")


def _start(names: list[str]) -> dict[str, Service]:
    if compose.engine_answers():
        try:
            return {service.name: service for service in compose.start(names)}
        except ServiceUnavailable as problem:
            print(f"{problem}\nso the services come from Debian's packages instead", file=sys.stderr)
    with ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(_start_here, names), strict=True))


def _start_here(name: str) -> Service:
    data = places.new_data_folder(name)
    try:
        server = STARTERS[name](data)
    except ServiceUnavailable as problem:
        return Service(name, problem=str(problem))
    return Service(
        name, "this machine", server.env(), server.processes(), stop_signal=server.stop_signal, data=str(data)
    )


def _end(services: list[Service]) -> None:
    if by_compose := [service.name for service in services if service.source == compose.SOURCE]:
        try:
            compose.stop(by_compose)
        except ServiceUnavailable as problem:
            print(problem, file=sys.stderr)
    with ThreadPoolExecutor() as pool:
        list(pool.map(Service.end, services))


def _kill_strays(recorded: dict[str, Service]) -> None:
    """End what a run that was killed has left behind: this project's servers and data that are on no record."""
    known = {pid for service in recorded.values() for server in service.processes for pid in server.family()}
    _kill([pid for pid in process.strays() if pid not in known])
    places.remove_forgotten_data({service.data for service in recorded.values()})


def _kill(pids: list[int]) -> None:
    for pid in pids:
        process.send(pid, signal.SIGKILL)
