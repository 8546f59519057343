"""Decoding: from a message's bytes to an event, or the reason why not."""

from __future__ import annotations

from typing import Any

import orjson

from pipeline.connectors import Message
from pipeline.events import Event
from pipeline.ledger.lease import Lease

__all__ = ["Decoder", "Undecodable"]


class Undecodable(Exception):
    """The message is no event; its text says why."""


class Decoder:
    """Makes events of one source's messages.

    Args:
        source: The source's name.
        stream: The stream's name.
        lease: Knows which incarnation of the stream this is; it is part of the ids of messages that have none.
    """

    def __init__(self, source: str, stream: str, lease: Lease) -> None:
        self.source = source
        self.stream = stream
        self._lease = lease

    def decode(self, message: Message) -> Event[Any]:
        """The message's event.

        Raises:
            Undecodable: A broken frame, invalid JSON, or JSON that is not an object.
        """
        if message.defect is not None:
            raise Undecodable(message.defect)
        try:
            data = orjson.loads(message.body)
        except orjson.JSONDecodeError as error:
            raise Undecodable(f"the body is not valid JSON: {error}") from None
        if type(data) is not dict:
            raise Undecodable(f"the body is a JSON {_json_type(data)}, and must be an object")
        key = message.routing_key
        if key is None:
            key = data.get("event_type")
            if type(key) is not str:
                key = ""
        return Event(
            message.id or f"{self.stream}/{self._lease.incarnation}/{message.offset}",
            key,
            data,
            message.headers,
            message.content_type,
            message.body,
            message.timestamp,
            self.source,
            self.stream,
            message.offset,
        )


def _json_type(value: object) -> str:
    names = {list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
