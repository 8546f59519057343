"""Redis: the machine's own where it is installed, else Debian's package."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.services import probes
from tests.services.debian import Bundle, unpacked
from tests.services.ports import free_port
from tests.services.process import Process, clean_env, spawn
from tests.services.server import Server

BUNDLE = Bundle(
    "redis-8",
    packages=("redis-server", "redis-tools", "libatomic1", "libjemalloc2", "liblzf1"),
    programs=("usr/bin",),
)


class Redis(Server):
    name = "redis"

    def __init__(self, data: Path) -> None:
        super().__init__(data)
        self.program = shutil.which("redis-server") or str(unpacked(BUNDLE) / "usr/bin/redis-server")
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def env(self) -> dict[str, str]:
        return {"TEST_REDIS_URL": self.url}

    def _spawn(self) -> Process:
        options = f"--bind 127.0.0.1 --port {self.port} --dir {self.data} --save  --appendonly yes --daemonize no"
        return spawn([self.program, *options.split(" ")], env=clean_env("REDIS"), folder=self.data, output=self.output)

    def answers(self) -> bool:
        return probes.redis(self.url)


def start_redis(data: Path) -> Redis:
    """A Redis of one's own, its data under `data`."""
    server = Redis(data)
    server.start()
    return server
