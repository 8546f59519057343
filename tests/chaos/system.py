"""The system under test: private servers behind proxies, two runners, a worker, and who brings them up again."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.chaos.disk import Disk, why_no_disks
from tests.chaos.parts import TELLING, Part, ProcessPart, ServerPart
from tests.chaos.pipeline import chaos_pipeline
from tests.integration.proxy import Proxy
from tests.integration.rig.runner import Runner
from tests.integration.rig.site import Site
from tests.services import Postgres, RabbitMQ, Redis, Server, Temporal
from tests.services.places import new_data_folder

__all__ = ["Direct", "System", "started_system"]

_NAME = "chaos"
_LOOK_SECONDS = 0.25
_MEMORY = {"redis": "appendonlydir"}
"""What a server may lose: where Redis keeps its data. The others' data is the truth."""


@dataclass(frozen=True, slots=True)
class Direct:
    """Where the servers are, past every proxy: for the producer and for the verdict.

    Attributes:
        stream_url: The broker, by the stream protocol.
        database_url: The database.
        temporal_address: Temporal's frontend.
    """

    stream_url: str
    database_url: str
    temporal_address: str


class System:
    """All parts, and where they are.

    Attributes:
        site: As the runners see it: every server through its proxy. Its stream's name begins those of the sources.
        direct: Where the servers are in truth.
        servers: The private ones, by name.
        processes: The runners and the worker, once `run` has started them.
        no_disks: Why no disk can be filled here; empty where one can.
    """

    def __init__(
        self, site: Site, direct: Direct, servers: dict[str, ServerPart] | None = None, no_disks: str = ""
    ) -> None:
        self.site = site
        self.direct = direct
        self.servers = servers or {}
        self.no_disks = no_disks
        self.processes: dict[str, ProcessPart] = {}

    @property
    def parts(self) -> dict[str, Part]:
        """Everything that a fault may befall, by name."""
        return {**self.servers, **self.processes}

    async def prepare(self, text: str) -> None:
        """Create the streams, and the schema of this ``pipeline.toml``."""
        await asyncio.gather(_create_streams(self.direct.stream_url, self.site.stream), self.site.lay_out(text))

    def run(self, starters: dict[str, Callable[[], Runner]] | None = None) -> None:
        """Start two runners and a worker, or those that are given."""
        site = self.site
        usual: dict[str, Callable[[], Runner]] = {
            "runner-1": lambda: site.run("--no-worker", **TELLING),
            "runner-2": lambda: site.run("--no-worker", **TELLING),
            "worker": lambda: site.worker(**TELLING),
        }
        for name, starter in (starters or usual).items():
            self.processes[name] = ProcessPart(name, starter)

    async def keep(self) -> None:
        """Bring up again what ends by itself, until cancelled."""
        while True:
            for process in self.processes.values():
                if not process.lock.locked():
                    process.look()
            await asyncio.sleep(_LOOK_SECONDS)

    async def stop(self) -> None:
        """Stop the processes in good order."""
        await asyncio.gather(*(process.stop() for process in self.processes.values()))


@asynccontextmanager
async def started_system(
    folder: Path, *, disks: Sequence[str] = ("postgres", "rabbitmq", "redis"), durable: bool = True
) -> AsyncIterator[System]:
    """Private servers, each behind a proxy, with the streams and the schema there; they are gone afterwards.

    Args:
        folder: For the runners' files and logs.
        disks: The servers that get a disk of their own to fill, where the machine allows that.
        durable: Whether Temporal keeps its data in a file, so that it can be killed.
    """
    data = new_data_folder("chaos")
    no_disks = why_no_disks()
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, data, ignore_errors=True)
        made = {
            name: _made(stack, kind, data / name, name in disks and not no_disks)
            for name, kind in _kinds(durable).items()
        }
        await asyncio.gather(*(asyncio.to_thread(server.start) for server, _ in made.values()))
        servers = {
            name: ServerPart(name, server, await stack.enter_async_context(_proxy(server)), disk, _MEMORY.get(name, ""))
            for name, (server, disk) in made.items()
        }
        site = _site(folder, servers)
        stack.callback(site.close)
        system = System(site, _direct(servers), servers, no_disks)
        await system.prepare(chaos_pipeline(_NAME))
        yield system


def _kinds(durable: bool) -> dict[str, Callable[[Path], Server]]:
    return {
        "rabbitmq": RabbitMQ,
        "postgres": Postgres,
        "redis": Redis,
        "temporal": lambda place: Temporal(place, durable=durable),
    }


def _made(
    stack: AsyncExitStack, kind: Callable[[Path], Server], place: Path, has_disk: bool
) -> tuple[Server, Disk | None]:
    """A server that is not started yet, and its disk, where it has one; the stack ends both."""
    place.mkdir(mode=0o755)
    disk = Disk(place) if has_disk else None
    if disk is not None:
        disk.mount()
        stack.callback(disk.unmount)
    server = kind(place)
    stack.push_async_callback(_end, server)
    return server, disk


def _proxy(server: Any) -> Proxy:
    return Proxy("127.0.0.1", server.stream_port if isinstance(server, RabbitMQ) else server.port)


async def _end(server: Server) -> None:
    with suppress(Exception):  # it may not have been started
        await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.remove)


def _direct(servers: dict[str, ServerPart]) -> Direct:
    found: dict[str, Any] = {name: part.server for name, part in servers.items()}
    return Direct(found["rabbitmq"].stream_url, found["postgres"].url, found["temporal"].address)


def _site(folder: Path, servers: dict[str, ServerPart]) -> Site:
    def through(url: str, name: str) -> str:
        parts = urlsplit(url)
        netloc = f"{parts.netloc.rpartition(':')[0]}:{servers[name].proxy.port}"
        return parts._replace(netloc=netloc).geturl()

    rabbitmq, postgres, redis = (servers[name].server for name in ("rabbitmq", "postgres", "redis"))
    assert isinstance(rabbitmq, RabbitMQ)
    assert isinstance(postgres, Postgres)
    assert isinstance(redis, Redis)
    return Site(
        folder, _NAME, through(rabbitmq.stream_url, "rabbitmq"), rabbitmq.amqp_url, through(postgres.url, "postgres"),
        f"127.0.0.1:{servers['temporal'].proxy.port}", through(redis.url, "redis"),
    )  # fmt: skip


async def _create_streams(url: str, name: str) -> None:
    """Create the two streams of the pipeline."""
    from rstream import Producer

    parts = urlsplit(url)
    async with Producer(
        parts.hostname or "127.0.0.1", port=parts.port or 5552, username="guest", password="guest"
    ) as producer:
        for source in ("admin", "governance"):
            await producer.create_stream(f"{name}.{source}", exists_ok=True)
