"""A signed POST to an operator's own URL; no redirects are followed."""

from __future__ import annotations

import asyncio
import importlib.util
import ssl
import time
from collections.abc import Mapping
from typing import Any, Final

import orjson

from pipeline.signing import signature

__all__ = ["Webhook", "WebhookRefused", "missing_package"]

_AGAIN: Final = frozenset({408, 425, 429})


class WebhookRefused(Exception):
    """The receiver says no (a redirect, or 4xx): trying again would not help."""


def missing_package() -> str:
    """What to do where the HTTP client is not installed; empty where it is."""
    if importlib.util.find_spec("httpcore") is not None:
        return ""
    return "webhooks need the package httpcore: pip install 'pipeline-runner[webhook]'"


class Webhook:
    """One URL that is posted to.

    Args:
        url: ``https://…`` or ``http://…``
        secret: What signs; None for no signature.
        timeout: Seconds that one call may take in all.
    """

    def __init__(self, url: str, secret: str | None, timeout: float) -> None:
        self._url = url
        self._secret = secret
        self._timeout = timeout
        self._tls: ssl.SSLContext | None = None

    async def post(self, id_: str, payload: Mapping[str, Any]) -> None:
        """Post a payload as JSON, on a connection of its own.

        Args:
            id_: Names the message: a repeat has the same.
            payload: JSON values.

        Raises:
            WebhookRefused: The receiver says no.
            OSError: It can't be reached, does not answer in time (`TimeoutError`), or can't take it now.
        """
        import httpcore

        body, timestamp = orjson.dumps(payload), int(time.time())
        headers: list[tuple[str | bytes, str | bytes]] = [
            ("Content-Type", "application/json"),
            ("User-Agent", "pipeline-runner"),
            ("webhook-id", id_),
            ("webhook-timestamp", str(timestamp)),
        ]
        if self._secret:
            headers.append(("webhook-signature", signature(self._secret, id_, timestamp, body)))
        try:
            async with asyncio.timeout(self._timeout):
                if self._tls is None:  # honours SSL_CERT_FILE; reading the authorities takes a while
                    self._tls = await asyncio.to_thread(ssl.create_default_context)
                async with (
                    httpcore.AsyncConnectionPool(ssl_context=self._tls) as pool,
                    pool.stream("POST", self._url, headers=headers, content=body) as response,
                ):
                    status = response.status
        except httpcore.TimeoutException as error:
            raise TimeoutError(str(error)) from error
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise OSError(str(error) or type(error).__name__) from error
        if status >= 500 or status in _AGAIN:
            raise OSError(f"it answered {status}")
        if not 200 <= status < 300:
            raise WebhookRefused(f"it answered {status}")
