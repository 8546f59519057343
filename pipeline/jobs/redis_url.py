"""Connections to Redis: from a URL as redis-py reads it, or to one that lives in this process."""

from __future__ import annotations

import ssl
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
from redis.asyncio import ConnectionPool, SSLConnection
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from pipeline.errors import UserError

__all__ = ["connection_pool", "embedded_pool", "from_json", "refusal", "to_json"]

_CONNECT_WAIT: Final = 5.0
_ANSWER_WAIT: Final = 5.0
_WHERE: Final = "check 'url' in [jobs], or REDIS_URL, or REDIS_HOST, REDIS_USERNAME, REDIS_PASSWORD and REDIS_DB"


def connection_pool(url: str) -> ConnectionPool:
    """A pool for a URL: ``rediss://host:6379/0?ssl_ca_certs=ca.pem``, and whatever else redis-py takes in it.

    Certificates are checked against the host's name, unless the URL says ``ssl_check_hostname=false`` or
    ``ssl_cert_reqs=none``; a Redis that gives no answer for 5 s counts as away.

    Raises:
        UserError: redis-py does not understand it.
    """
    options: dict[str, Any] = {"socket_connect_timeout": _CONNECT_WAIT, "socket_timeout": _ANSWER_WAIT}
    try:
        if urlsplit(url).scheme == "rediss":
            options["ssl_check_hostname"] = "ssl_cert_reqs=none" not in url
        pool = ConnectionPool.from_url(url, **options)
        connection: Any = pool.make_connection()  # type: ignore[no-untyped-call] # speaks to nobody yet, and complains of parameters that it does not know
        if isinstance(connection, SSLConnection):
            connection.ssl_context.get()
    except (TypeError, ValueError, OSError, RedisError) as error:
        raise UserError(f"the URL of Redis can't be used ({error}): {_WHERE}") from None
    return pool


def embedded_pool() -> ConnectionPool:
    """A pool for a Redis of its own in this process, which forgets everything with it.

    Raises:
        UserError: fakeredis is not installed.
    """
    try:
        import fakeredis
    except ImportError:
        raise UserError("a queue without Redis needs fakeredis: pip install 'pipeline-runner[embedded]'") from None
    return ConnectionPool(connection_class=fakeredis.FakeAsyncRedisConnection, server=fakeredis.FakeServer())


def refusal(error: BaseException) -> str | None:
    """What to tell a user whom no waiting helps; None for an error that may pass."""
    if isinstance(error, AuthenticationError):
        return f"Redis refuses the login ({error}): {_WHERE}"
    if isinstance(error, NoPermissionError):
        return f"Redis does not allow this user what queues need ({error}): {_WHERE}"
    if isinstance(error, ResponseError) and "DB index" in str(error):
        return f"Redis has no such database ({error}): {_WHERE}"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"the certificate of Redis can't be trusted ({cause.verify_message}): add ?ssl_ca_certs=<file> to the "
                "URL, or see that it names the host"
            )
        cause = cause.__cause__ or cause.__context__
    return None


def to_json(value: dict[str, Any]) -> bytes:
    """What a hint looks like in Redis; JSON, as whoever may write there must not make workers execute anything."""
    return orjson.dumps(value, default=repr)


def from_json(value: bytes) -> dict[str, Any]:
    """The inverse of `to_json`."""
    found: dict[str, Any] = orjson.loads(value)
    return found
