"""The servers that are measured on: streams and databases of a run's own, made before and dropped afterwards."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["MissingServer", "Servers", "rstream_login"]


class MissingServer(Exception):
    """A server that is needed is not there; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Servers:
    """Where the servers listen; an empty URL where there is none.

    Attributes:
        stream_url: RabbitMQ's stream protocol.
        amqp_url: RabbitMQ's AMQP 0.9.1.
        database_url: PostgreSQL.
        redis_url: Redis.
    """

    stream_url: str = ""
    amqp_url: str = ""
    database_url: str = ""
    redis_url: str = ""

    @classmethod
    def from_environment(cls) -> Servers:
        """The servers that ``python -m tests.services`` tells of."""
        names = ("TEST_RABBITMQ_STREAM_URL", "TEST_AMQP_URL", "TEST_DATABASE_URL", "TEST_REDIS_URL")
        return cls(*(os.environ.get(name, "") for name in names))

    def require(self, *, rabbitmq: bool, postgresql: bool, redis: bool = False) -> None:
        """Raise `MissingServer` where one of these is not there."""
        missing = []
        if rabbitmq and not (self.stream_url and self.amqp_url):
            missing.append("RabbitMQ (TEST_RABBITMQ_STREAM_URL, TEST_AMQP_URL)")
        if postgresql and not self.database_url:
            missing.append("PostgreSQL (TEST_DATABASE_URL)")
        if redis and not self.redis_url:
            missing.append("Redis (TEST_REDIS_URL)")
        if missing:
            raise MissingServer(f"there is no {' and no '.join(missing)}: run 'make bench', which starts them")

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[str]:
        """A new, empty stream."""
        from rstream import Producer

        name = f"benchmark.{secrets.token_hex(6)}"
        async with Producer(**rstream_login(self.stream_url)) as producer:
            await producer.create_stream(name)
        try:
            yield name
        finally:
            async with Producer(**rstream_login(self.stream_url)) as producer:
                await producer.delete_stream(name, missing_ok=True)

    @asynccontextmanager
    async def database(self) -> AsyncIterator[str]:
        """The URL of a new, empty database."""
        import asyncpg

        name = f"benchmark_{secrets.token_hex(6)}"
        await _execute(asyncpg, self.database_url, f"CREATE DATABASE {name}")
        try:
            yield urlsplit(self.database_url)._replace(path=f"/{name}").geturl()
        finally:
            await _execute(asyncpg, self.database_url, f"DROP DATABASE {name} WITH (FORCE)")

    @asynccontextmanager
    async def redis_keys(self) -> AsyncIterator[str]:
        """A prefix for keys in Redis that nobody else has; all that begin with it are deleted afterwards."""
        from redis.asyncio import Redis

        prefix = f"benchmark-{secrets.token_hex(6)}"
        try:
            yield prefix
        finally:
            async with Redis.from_url(self.redis_url) as redis:
                keys = [key async for key in redis.scan_iter(f"{prefix}*", count=1_000)]
                for begin in range(0, len(keys), 1_000):
                    await redis.delete(*keys[begin : begin + 1_000])

    async def versions(self) -> dict[str, str]:
        """What answers, by name."""
        found: dict[str, str] = {}
        if self.stream_url:
            from rstream import Producer

            async with Producer(**rstream_login(self.stream_url)) as producer:
                found["RabbitMQ"] = ((await producer.default_client).server_properties or {}).get("version", "?")
        if self.database_url:
            import asyncpg

            connection = await asyncpg.connect(self.database_url)
            found["PostgreSQL"] = await connection.fetchval("SHOW server_version")
            for setting in ("fsync", "synchronous_commit"):
                found[f"PostgreSQL {setting}"] = await connection.fetchval(f"SHOW {setting}")
            await connection.close()
        if self.redis_url:
            from redis.asyncio import Redis

            async with Redis.from_url(self.redis_url) as redis:
                found["Redis"] = (await redis.info("server"))["redis_version"]
                found["Redis appendonly"] = (await redis.config_get("appendonly"))["appendonly"]
        return found


def rstream_login(stream_url: str) -> dict[str, Any]:
    """The arguments that rstream's `Producer` and `Consumer` take for a URL."""
    parts = urlsplit(stream_url)
    return {
        "host": parts.hostname,
        "port": parts.port,
        "username": unquote(parts.username or "guest"),
        "password": unquote(parts.password or "guest"),
        "vhost": unquote(parts.path[1:]) or "/",
    }


async def _execute(asyncpg: Any, url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
