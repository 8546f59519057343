"""A socket that carries frames: cuts them apart, sends heartbeats, and notices when the other side is dead."""

from __future__ import annotations

import asyncio
import struct
from typing import Final, cast

from rstream import schema
from rstream.encoding import encode_frame

from pipeline_plugins.rabbitmq_streams.refusals import lost
from pipeline_plugins.rabbitmq_streams.url import Address

__all__ = ["Wire"]

CLOSE_SECONDS: Final = 1.0
SILENT_TICKS: Final = 5
"""After how many half heartbeats in which nothing came the other side is dead. Ticks are counted, not seconds, so that
a process that was stopped or busy for a while does not take its own absence for the broker's."""
FRAME_MAX: Final = 1024 * 1024
"""The largest frame we send, where the broker sets no lower limit; its own chunks may be larger."""
CHUNK_MAX: Final = 256 * 1024 * 1024
"""The largest frame we take: what claims to be larger is no chunk that a broker has written."""
_HEARTBEAT: Final = b"\x00\x00\x00\x04\x00\x17\x00\x01"
_u32 = struct.Struct(">I").unpack_from


class Wire(asyncio.Protocol):
    """A connection as long as it lives. Whatever goes wrong with it ends it, once; a dead one is never used again.

    Attributes:
        address: Where it was asked to connect to.
        host: Where it is connected to; another node of the cluster, maybe.
        port: The port there.
    """

    def __init__(self, address: Address, host: str, port: int) -> None:
        self.address = address
        self.host = host
        self.port = port
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._needed = 4
        self._heard = False
        self._trusted = False  # logged in, so frames may have any size
        self._lost: str | None = None
        self._gone = asyncio.Event()
        self._writable = asyncio.Event()
        self._ticker: asyncio.TimerHandle | None = None
        self._silent = 0

    @property
    def is_lost(self) -> bool:
        """Whether it is dead or closed."""
        return self._lost is not None

    @property
    def is_amid_frame(self) -> bool:
        """Whether a frame has begun to come, and has not ended."""
        return self._needed > 4

    def check(self) -> None:
        """Raise `Unavailable` where it is dead."""
        if self._lost is not None:
            raise lost(self.address, self._lost)

    def send(self, frame: schema.Frame) -> None:
        """Send a frame. Raises `Unavailable` where the wire is dead."""
        self.write(encode_frame(frame))

    def write(self, data: bytes) -> None:
        """Send the bytes of a frame. Raises `Unavailable` where the wire is dead."""
        self.check()
        assert self._transport is not None  # noqa: S101 - there is one until the wire is dead
        self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the broker has taken most of what was written. Raises `Unavailable` where the wire is dead."""
        await self._writable.wait()
        self.check()

    def abort(self) -> None:
        """Let go of the socket at once; safe to call twice."""
        self.end("the connection was closed")

    def end(self, reason: str, *, flush: bool = False) -> None:
        """Make it dead, for this reason where it is the first; `flush` still sends what was written."""
        if self._transport is not None:
            if flush:
                self._transport.close()
            else:
                self._transport.abort()
        if self._lost is not None:
            return
        self._lost = reason
        if self._ticker is not None:
            self._ticker.cancel()
        self._writable.set()
        self.ended()

    def received(self, frame: bytes) -> None:
        """A frame has come, without its length. What this raises ends the wire."""
        raise NotImplementedError

    def stalled(self, frame: bytes) -> bool:
        """The rest of this frame does not come; says whether what has come was taken, as all that there is."""
        return False

    def ended(self) -> None:
        """The wire is dead: tell everyone who waits."""
        raise NotImplementedError

    def trust(self, heartbeat: float) -> None:
        """The login is done: watch the other side from now on, with this many seconds between heartbeats."""
        self._trusted = True
        self._tick(heartbeat / 2)

    async def let_go(self) -> None:
        """Flush and close, for at most a second; what is not flushed by then is dropped."""
        self.end("the connection was closed", flush=True)
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                if self._transport is not None:
                    await self._gone.wait()
        except TimeoutError:
            pass
        finally:
            self.abort()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; nothing has been sent."""
        self._transport = cast("asyncio.Transport", transport)
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Take the frames out of what has come."""
        self._silent = 0
        self._heard = True
        buffer = self._buffer
        buffer += data
        if len(buffer) < self._needed:
            return
        pos = 0
        try:
            while len(buffer) - pos >= 4:
                self._needed = 4 + _u32(buffer, pos)[0]
                if len(buffer) - pos < self._needed:
                    break
                frame = bytes(memoryview(buffer)[pos + 4 : pos + self._needed])
                pos += self._needed
                self._needed = 4
                self.received(frame)
        except Exception as error:  # noqa: BLE001 - whatever it is, the wire must not live on without its frames
            self.end(f"it sent what can't be read: {type(error).__name__}: {error}")
        del buffer[:pos]
        if self._needed > FRAME_MAX and not self._trusted:
            self.end("it does not speak the stream protocol: is this its port (5552, or 5551 with TLS)?")
        elif self._needed > CHUNK_MAX:
            self.end(f"it announced a frame of {self._needed} bytes, and at most {CHUNK_MAX} are taken")

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed, by whichever side."""
        self._gone.set()
        if exc is not None:
            self.end(f"the connection broke: {exc}")
        elif self._heard:
            self.end("it closed the connection")
        else:
            self.end("it closed the connection at once: is this the stream protocol's port (5552, or 5551 with TLS)?")

    def pause_writing(self) -> None:
        """The broker is slow to take what was written."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """It has taken most of it."""
        self._writable.set()

    def _tick(self, seconds: float) -> None:
        """Send a heartbeat, and give the other side up where nothing has come for several of them."""
        if self._ends_short():
            self.end(f"it announced a frame of {self._needed - 4} bytes, and has no more than {len(self._buffer) - 4}")
            return
        self._silent += 1
        if self._silent > SILENT_TICKS:
            self.end(f"nothing was heard for {SILENT_TICKS * seconds:g} seconds")
            return
        self.send(schema.Heartbeat())
        self._ticker = asyncio.get_running_loop().call_later(seconds, self._tick, seconds)

    def _ends_short(self) -> bool:
        """Whether what has come of a frame, while nothing more comes, is all of it; it has then been taken.

        RabbitMQ announces the length that its disk gives for a chunk, and can't send more than the disk has.
        """
        if self._needed == 4 or not (self._silent or self._buffer.endswith(_HEARTBEAT)):
            return False
        return self.stalled(bytes(self._buffer[4:]))
