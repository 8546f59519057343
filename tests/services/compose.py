"""Services by Docker Compose, where an engine answers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.services import tls
from tests.services.command import run
from tests.services.errors import ServiceUnavailable
from tests.services.places import NAME, new_data_folder
from tests.services.ports import free_port
from tests.services.process import wait_until
from tests.services.state import Service

FILE = Path(__file__).with_name("compose.yml")
SOURCE = "docker compose"


def engine_answers() -> bool:
    """Is there a Docker engine, and Compose? Asked with a time limit: a broken engine may hang."""
    if not shutil.which("docker"):
        return False
    try:
        run(["docker", "info"], seconds=10)
        run(["docker", "compose", "version"], seconds=10)
    except ServiceUnavailable:
        return False
    return True


def start(names: list[str]) -> list[Service]:
    """Start these services; each on a loopback port chosen here, since RabbitMQ must advertise it."""
    data = new_data_folder("compose")
    ca = tls.make_certificates(data / "tls")
    wanted = ("AMQP", "STREAM", "STREAM_TLS", "REDIS", "POSTGRES", "TEMPORAL")
    ports = {f"{name}_PORT": str(free_port()) for name in wanted}
    urls = _urls(ports, ca)
    services = [Service(name, SOURCE, urls[name], data=str(data)) for name in names]
    env = {**ports, "TLS_FOLDER": str(ca.parent)}
    try:
        _compose("up", "--detach", "--wait", "--wait-timeout", "180", *names, env=env)
        for service in services:
            if not wait_until(service.healthy, seconds=30):
                raise ServiceUnavailable(f"{service.name} is up, but does not answer at {service.env}")
    except ServiceUnavailable:
        stop(names)
        raise
    return services


def stop(names: list[str]) -> None:
    """Remove these services' containers and their data."""
    _compose("rm", "--stop", "--force", "--volumes", *names, env={})


def _urls(ports: dict[str, str], ca: Path) -> dict[str, dict[str, str]]:
    stream = "guest:guest@127.0.0.1"
    return {
        "rabbitmq": {
            "TEST_RABBITMQ_STREAM_URL": f"rabbitmq-stream://{stream}:{ports['STREAM_PORT']}/%2F",
            "TEST_AMQP_URL": f"amqp://guest:guest@127.0.0.1:{ports['AMQP_PORT']}/",
            "TEST_RABBITMQ_STREAM_TLS_URL": f"rabbitmq-stream+tls://{stream}:{ports['STREAM_TLS_PORT']}/%2F",
            "TEST_RABBITMQ_CA": str(ca),
        },
        "redis": {"TEST_REDIS_URL": f"redis://127.0.0.1:{ports['REDIS_PORT']}/0"},
        "postgres": {"TEST_DATABASE_URL": f"postgresql://postgres@127.0.0.1:{ports['POSTGRES_PORT']}/postgres"},
        "temporal": {"TEST_TEMPORAL_ADDRESS": f"127.0.0.1:{ports['TEMPORAL_PORT']}"},
    }


def _compose(*arguments: str, env: dict[str, str]) -> None:
    run(["docker", "compose", "--project-name", NAME, "--file", FILE, *arguments], env={**os.environ, **env})
