"""Redis servers of a test's own: with a password, with TLS, and how to speak to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from redis.asyncio import Redis as Client

from tests.services import probes
from tests.services.process import Process, clean_env, spawn
from tests.services.redis import Redis
from tests.services.tls import make_certificates


class TlsRedis(Redis):
    """Speaks TLS only, with a certificate of an authority that nobody knows."""

    def __init__(self, data: Path) -> None:
        super().__init__(data)
        self.ca = make_certificates(self.data / "tls")
        self.url = f"rediss://localhost:{self.port}/0?ssl_ca_certs={self.ca}"

    def _spawn(self) -> Process:
        tls = self.ca.parent
        options = (
            f"--bind 127.0.0.1 --port 0 --tls-port {self.port} --tls-cert-file {tls}/server.pem "
            f"--tls-key-file {tls}/server.key --tls-ca-cert-file {self.ca} --tls-auth-clients no "
            f"--dir {self.data} --save  --daemonize no"
        )
        return spawn([self.program, *options.split(" ")], env=clean_env("REDIS"), folder=self.data, output=self.output)

    def answers(self) -> bool:
        return probes.connects(f"127.0.0.1:{self.port}")


class ForgetfulRedis(Redis):
    """Keeps nothing over a restart."""

    def _spawn(self) -> Process:
        options = f"--bind 127.0.0.1 --port {self.port} --dir {self.data} --save  --appendonly no --daemonize no"
        return spawn([self.program, *options.split(" ")], env=clean_env("REDIS"), folder=self.data, output=self.output)


def start_tls_redis(data: Path) -> TlsRedis:
    server = TlsRedis(data)
    server.start()
    return server


def start_forgetful_redis(data: Path) -> ForgetfulRedis:
    server = ForgetfulRedis(data)
    server.start()
    return server


async def tell(url: str, *words: Any) -> Any:
    """What Redis answers to a command."""
    client = Client.from_url(url)
    try:
        return await client.execute_command(*words)
    finally:
        await client.aclose()


async def commands_of(url: str) -> dict[str, int]:
    """How often each command was called since the statistics began, without those that this asks with."""
    found = await tell(url, "INFO", "commandstats")
    calls = {name.removeprefix("cmdstat_"): figures["calls"] for name, figures in found.items()}
    return {name: count for name, count in calls.items() if name.partition("|")[0] not in ("info", "config", "client")}
