"""Outgoing HTTP calls, each to an address that was checked: no redirects, no proxies, no look-up after the check."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpcore

from pipeline import Reject
from pipeline_handlers.governance.actions.ssrf import AddressRules
from pipeline_handlers.governance.actions.targets import Target
from pipeline_handlers.governance.actions.tls import tls_context
from pipeline_handlers.governance.actions.webhook import WebhookOptions

__all__ = ["Answer", "Caller", "Resolve", "addresses_of"]

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a host and a port to its addresses, as texts. Raises OSError."""

_LARGEST_ANSWER: Final = 65_536
"""Bytes of an answer that are read; the rest is left, and the connection with it."""
_CONNECTIONS: Final = 100
_KEPT: Final = 20
_KEPT_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered.

    Attributes:
        status: The HTTP status.
        retry_after: The header ``Retry-After``; empty where there is none.
        body: The answer's beginning.
    """

    status: int
    retry_after: str
    body: bytes


async def addresses_of(host: str, port: int) -> list[str]:
    """What the system's resolver says, in its order. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Looks a host up once, checks every address, and connects to what it has checked."""

    def __init__(self, rules: AddressRules, resolve: Resolve) -> None:
        self._rules = rules
        self._resolve = resolve
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address that answers; each has its share of the time.

        Raises:
            Reject: One of the addresses must not be called.
            httpcore.ConnectError: The host has no address, or none answers.
            httpcore.ConnectTimeout: None answers in time.
        """
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} can't be looked up: {error}") from error
        if refusal := self._rules.refusal(host, addresses):
            raise Reject(refusal, kind="forbidden_address")
        share = timeout / len(addresses) if timeout is not None else None
        for address in addresses[:-1]:
            try:
                return await self._network.connect_tcp(address, port, share, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._network.connect_tcp(addresses[-1], port, share, local_address, socket_options)


class Caller:
    """Makes calls, many at once, and keeps connections for a moment."""

    def __init__(self, options: WebhookOptions, resolve: Resolve = addresses_of) -> None:
        self._options = options
        self._backend = GuardedBackend(AddressRules(options.allow), resolve)
        self._pool: httpcore.AsyncConnectionPool | None = None
        self._opening = asyncio.Lock()

    async def stop(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            await self._pool.aclose()
            self._pool = None

    async def post(self, target: Target, headers: Mapping[str, str], body: bytes) -> Answer:
        """Post the body.

        Raises:
            Reject: The host must not be called.
            TimeoutError: There is no answer in time.
            OSError: It can't be reached, or the connection broke.
        """
        pool = await self._opened()
        url = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
        times = dict.fromkeys(("connect", "read", "write", "pool"), self._options.timeout)
        request: list[tuple[str | bytes, str | bytes]] = [
            ("Host", target.authority),
            ("Content-Length", str(len(body))),
            ("Accept-Encoding", "identity"),
            *headers.items(),
        ]
        try:
            async with (
                asyncio.timeout(self._options.timeout),
                pool.stream("POST", url, headers=request, content=body, extensions={"timeout": times}) as response,
            ):
                return Answer(response.status, _header(response, b"retry-after"), await _beginning(response))
        except httpcore.TimeoutException as error:
            raise TimeoutError(str(error)) from error
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise OSError(str(error) or type(error).__name__) from error

    async def _opened(self) -> httpcore.AsyncConnectionPool:
        async with self._opening:
            if self._pool is None:
                self._pool = httpcore.AsyncConnectionPool(
                    ssl_context=await asyncio.to_thread(tls_context, self._options.ca),
                    max_connections=_CONNECTIONS,
                    max_keepalive_connections=_KEPT,
                    keepalive_expiry=_KEPT_SECONDS,
                    network_backend=self._backend,
                )
            return self._pool


def _header(response: httpcore.Response, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in response.headers if key.lower() == name), "")


async def _beginning(response: httpcore.Response) -> bytes:
    body = bytearray()
    async for part in response.aiter_stream():
        body += part
        if len(body) > _LARGEST_ANSWER:
            break
    return bytes(body[:_LARGEST_ANSWER])
