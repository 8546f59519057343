"""Decoding: from a message's bytes to an event, or the reason why not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import orjson

from pipeline.config.limits import Limits, size_text
from pipeline.connectors import Message
from pipeline.dispatch.strict_json import has_huge_number, nests_deeper, repeats_a_key
from pipeline.events import Event
from pipeline.ledger.lease import Lease
from pipeline.topics import MAX_BYTES

__all__ = ["Decoder", "Undecodable"]

_SHORT_ID: Final = 255
"""An id is at most so long where it comes by AMQP 0.9.1; only longer ones are measured, where there are no headers."""
_JSON_TYPES: Final = (None, "", "application/json")


class Undecodable(Exception):
    """The message is no event; its text says why.

    Attributes:
        kind: The kind of its dead letter.
    """

    def __init__(self, reason: str, kind: str = "undecodable") -> None:
        super().__init__(reason)
        self.kind = kind


class Decoder:
    """Makes events of one source's messages.

    Args:
        source: The source's name.
        stream: The stream's name.
        lease: Knows which incarnation of the stream this is; it is part of the ids of messages that have none.
        limits: What a message may be at most; by default what a source without limits of its own has.
    """

    def __init__(self, source: str, stream: str, lease: Lease, limits: Limits | None = None) -> None:
        self.source = source
        self.stream = stream
        self._lease = lease
        self._limits = limits = limits or Limits()
        self._event = limits.event
        self._nesting = limits.nesting
        self._unique = limits.duplicate_keys == "reject"
        self._exact = limits.huge_numbers == "reject"
        self._strict = self._unique or self._exact

    def decode(self, message: Message) -> Event[Any]:
        """The message's event.

        Raises:
            Undecodable: A broken frame, invalid JSON, or JSON that is not an object, or more than the limits allow.
        """
        if message.defect is not None:
            raise Undecodable(message.defect)
        body, headers = message.body, message.headers
        if len(body) > self._event:
            raise Undecodable(
                f"the body has {len(body)} bytes, more than limits.event ({size_text(self._event)})", "too_big"
            )
        if headers or (message.id and len(message.id) > _SHORT_ID):
            self._check_headers(message)
        data = self._data(body, message.content_type)
        key = message.routing_key
        if key is None:
            key = data.get("event_type")
            if type(key) is not str:
                key = ""
        if len(key) > MAX_BYTES or (not key.isascii() and len(key.encode("utf-8", "surrogatepass")) > MAX_BYTES):
            raise Undecodable(f"the routing key {key[:40]!r}… has more than {MAX_BYTES} bytes", "routing_key_too_long")
        return Event(
            message.id or f"{self.stream}/{self._lease.incarnation}/{message.offset}",
            key,
            data,
            headers,
            message.content_type,
            body,
            message.timestamp,
            self.source,
            self.stream,
            message.offset,
        )

    def _data(self, body: bytes, content_type: str | None) -> dict[str, Any]:
        if nests_deeper(body, self._nesting):
            raise Undecodable(f"the body nests deeper than limits.nesting ({self._nesting})", "too_deep")
        try:
            data = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            said = f" (its content type is {content_type!r})" if content_type not in _JSON_TYPES else ""
            raise Undecodable(f"the body is not valid JSON: {error}{said}") from None
        if type(data) is not dict:
            raise Undecodable(f"the body is a JSON {_json_type(data)}, and must be an object")
        if self._strict and (anew := orjson.dumps(data)) != body:
            self._check_ambiguous(body, anew)
        return data

    def _check_ambiguous(self, body: bytes, anew: bytes) -> None:
        """Look closer at a body that is not the one that `orjson` makes of its data: one of another writer's style."""
        if self._unique and repeats_a_key(body, anew):
            raise Undecodable("an object in the body has a key twice (limits.duplicate_keys)", "duplicate_keys")
        if self._exact and has_huge_number(body):
            raise Undecodable("a whole number in the body has more than 64 bits (limits.huge_numbers)", "huge_number")

    def _check_headers(self, message: Message) -> None:
        limits, headers = self._limits, message.headers
        if len(headers) > limits.headers:
            raise Undecodable(
                f"the message has {len(headers)} headers, more than limits.headers ({limits.headers})",
                "too_many_headers",
            )
        size = _json_size(headers) + len(message.id or "")
        if size > limits.header_bytes:
            raise Undecodable(
                f"the headers and the id take {size} bytes, more than limits.header_bytes "
                f"({size_text(limits.header_bytes)})",
                "headers_too_big",
            )


def _json_size(headers: Mapping[str, Any]) -> int:
    if not headers:
        return 0
    headers = headers if type(headers) is dict else dict(headers)
    try:
        return len(orjson.dumps(headers))
    except orjson.JSONEncodeError:  # text with a lone surrogate, say, which only some connectors can bring
        pass
    try:
        return len(json.dumps(headers, default=str, skipkeys=True))
    except (RecursionError, ValueError):
        raise Undecodable("the headers nest too deep", "headers_too_big") from None


def _json_type(value: object) -> str:
    names = {list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
