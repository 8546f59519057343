"""Publishes entries of a stream as they are, among them blocks that no client library would write."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence

from rstream import schema

from pipeline_plugins.rabbitmq_streams.cluster import link_for_publishing
from pipeline_plugins.rabbitmq_streams.frames import Text
from pipeline_plugins.rabbitmq_streams.link import Listener
from pipeline_plugins.rabbitmq_streams.url import parse_url


class _Confirms(Listener):
    def __init__(self, count: int) -> None:
        self._left = count
        self.done = asyncio.Event()

    def confirmed(self, ids: tuple[int, ...]) -> None:
        self._left -= len(ids)
        if self._left <= 0:
            self.done.set()


async def publish_entries(url: str, stream: str, entries: Sequence[bytes]) -> None:
    """Append entries (of `chunk_frames`), each in a frame of its own, and wait for the confirms."""
    link = await link_for_publishing(parse_url(url), "test", stream)
    try:
        confirms = _Confirms(len(entries))
        link.listeners[0] = confirms
        await link.request(schema.DeclarePublisher, publisher_id=0, reference="", stream=Text(stream))
        for number, entry in enumerate(entries, 1):
            frame = struct.pack(">HHBIQ", 2, 1, 0, 1, number) + entry
            link.write(struct.pack(">I", len(frame)) + frame)
            await link.drain()
        await asyncio.wait_for(confirms.done.wait(), 20)
    finally:
        await link.close()
