"""One connection to one RabbitMQ node: logged in, with questions answered and listeners told.

The frames are rstream's (`rstream.schema`, `rstream.encoding`). Its `Client` and `Consumer` are not used: an error in
their listener leaves the connection open and deaf, a lost one leaves requests waiting, and silence is only logged.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import Callable, Container
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, cast

from rstream import schema
from rstream.encoding import decode_frame, encode_frame

from pipeline.connectors import BrokerRefused
from pipeline.errors import Unavailable
from pipeline_plugins.rabbitmq_streams import frames
from pipeline_plugins.rabbitmq_streams.dial import dial
from pipeline_plugins.rabbitmq_streams.frames import Text
from pipeline_plugins.rabbitmq_streams.refusals import NO_PLAIN, OK, explain, lost
from pipeline_plugins.rabbitmq_streams.url import Address, Node
from pipeline_plugins.rabbitmq_streams.wire import CLOSE_SECONDS, FRAME_MAX, Wire

__all__ = ["Link", "Listener"]

ANSWER_SECONDS: Final = 10.0
_PLAIN: Final = "PLAIN"
_TUNE: Final = 0  # the broker's Tune has no correlation id, and ours begin at 1
_RESPONSE: Final = 0x8000
_CREDIT_RESPONSE: Final = 0x8009
_u16 = struct.Struct(">H").unpack_from


class Listener:
    """What a subscription or a publisher hears from its link; every method is called synchronously."""

    def delivered(self, frame: bytes) -> None:
        """A chunk has come for this subscription."""

    def confirmed(self, ids: tuple[int, ...]) -> None:
        """RabbitMQ has written these messages of this publisher."""

    def stalled(self, frame: bytes) -> bool:
        """The rest of this chunk does not come; says whether what has come is all of it, and was taken."""
        return False

    def rejected(self, id_: int, code: int) -> None:
        """RabbitMQ has not written this message of this publisher."""

    def updated(self, stream: str) -> None:
        """The stream has moved or is gone, and RabbitMQ has ended what the link did with it."""

    def lost(self) -> None:
        """The link is dead, and nothing more will be heard: its `check` says why."""


class Link(Wire):
    """A connection that is logged in and open on its vhost; made by `Link.open`.

    Attributes:
        frame_max: How many bytes a frame that we send may have.
        properties: What the node tells about itself (`advertised_host`, `version` …).
        listeners: Who hears of subscriptions and publishers, by their id.
    """

    def __init__(self, address: Address, host: str, port: int) -> None:
        super().__init__(address, host, port)
        self.frame_max = FRAME_MAX
        self.properties: dict[str, str] = {}
        self.listeners: dict[int, Listener] = {}
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}

    @classmethod
    async def open(cls, address: Address, label: str, node: Node | None = None) -> Link:
        """Connect to one node and log in.

        Args:
            address: The broker's URL, taken apart.
            label: The connection's name in RabbitMQ's own tools.
            node: A node of the cluster to connect to, where it is not the URL's first.

        Raises:
            Unavailable: It can't be reached, or does not answer.
            BrokerRefused: The login, the vhost or its certificate is refused.
        """
        link = cls(address, *(node or (address.host, address.port)))
        try:
            await dial(link, address, link.host, link.port)
            await link._log_in(label)
        except BaseException:
            link.abort()
            raise
        return link

    async def request(self, frame: Callable[..., schema.Frame], *, tolerate: Container[int] = (), **fields: Any) -> Any:
        """Send a request and return its response.

        Args:
            frame: The request's class, in `rstream.schema`.
            tolerate: Response codes that the caller looks at itself.
            fields: The request's fields, but the correlation id.

        Raises:
            Unavailable: The link is dead, or there is no answer in time, or the answer says to wait.
            BrokerRefused: The answer says no.
        """
        number = next(self._numbers)
        request = frame(number, **fields)
        response = await self._ask(number, encode_frame(request), type(request).__name__)
        code = getattr(response, "response_code", OK)
        if code > OK and code not in tolerate:
            raise explain(code, self.address, str(fields.get("stream", "")))
        return response

    async def stats(self, stream: str) -> dict[str, int]:
        """What the node tells of a stream: `first_chunk_id`, `committed_chunk_id` …; raises like `request`."""
        number = next(self._numbers)
        code, stats = await self._ask(number, frames.stats_request(number, stream), "StreamStats")
        if code != OK:
            raise explain(code, self.address, stream)
        return cast("dict[str, int]", stats)

    async def close(self) -> None:
        """Take leave, for at most a second or two, and let go of the socket; safe to call twice."""
        try:
            if not self.is_lost:
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self.request(schema.Close, code=OK, reason="OK")
        except (TimeoutError, Unavailable, BrokerRefused):
            pass  # it is closed all the same
        except BaseException:
            self.abort()
            raise
        await self.let_go()

    def received(self, frame: bytes) -> None:
        """Hand a frame to whom it is for."""
        key = _u16(frame, 0)[0]
        if key == frames.DELIVER:
            if (listener := self.listeners.get(frame[4])) is not None:
                listener.delivered(frame)
        elif key == frames.PUBLISH_CONFIRM:
            publisher, ids = frames.read_confirm(frame)
            if (listener := self.listeners.get(publisher)) is not None:
                listener.confirmed(ids)
        elif key == frames.STREAM_STATS:
            number, code, stats = frames.read_stats(frame)
            self._answer(number, (code, stats))
        elif key & _RESPONSE and key != _CREDIT_RESPONSE:
            response = decode_frame(frame)
            self._answer(response.corr_id, response)
        else:
            self._told(decode_frame(frame))

    def stalled(self, frame: bytes) -> bool:
        """Ask the subscription whether it is all of a chunk."""
        if len(frame) <= 4 or _u16(frame, 0)[0] != frames.DELIVER:
            return False
        listener = self.listeners.get(frame[4])
        return listener is not None and listener.stalled(frame)

    def ended(self) -> None:
        """Wake everyone who waits; `check` then raises."""
        for future in self._waiting.values():
            if not future.done():
                future.set_result(None)
        for listener in list(self.listeners.values()):
            listener.lost()

    def _told(self, frame: schema.Frame) -> None:
        """What the broker says unasked."""
        if isinstance(frame, schema.MetadataUpdate):
            for listener in list(self.listeners.values()):
                listener.updated(frame.metadata_info.stream)
        elif isinstance(frame, schema.PublishError):
            for problem in frame.errors:
                if (publisher := self.listeners.get(frame.publisher_id)) is not None:
                    publisher.rejected(problem.publishing_id, problem.response_code)
        elif isinstance(frame, schema.Tune):
            self._answer(_TUNE, frame)
        elif isinstance(frame, schema.Close):
            self.send(schema.CloseResponse(frame.correlation_id, OK))
            self.end(f"it closed the connection: {frame.reason}", flush=True)

    def _answer(self, number: int | None, response: Any) -> None:
        future = None if number is None else self._waiting.get(number)
        if future is not None and not future.done():
            future.set_result(response)

    async def _ask(self, number: int, data: bytes, what: str) -> Any:
        """Send a question and wait for its answer."""
        self.write(data)
        return await self._answered(self._promise(number), number, what)

    def _promise(self, number: int) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        return future

    async def _answered(self, future: asyncio.Future[Any], number: int, what: str) -> Any:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await future
        except TimeoutError:
            self.end(f"no answer to {what} within {ANSWER_SECONDS:g} seconds")
            raise lost(self.address, f"no answer to {what} within {ANSWER_SECONDS:g} seconds") from None
        finally:
            self._waiting.pop(number, None)
        if answer is None:
            self.check()
        return answer

    async def _log_in(self, label: str) -> None:
        us = {"product": "pipeline-runner", "platform": "Python", "version": _our_version(), "connection_name": label}
        properties = [schema.Property(Text(name), Text(value)) for name, value in us.items()]
        theirs = await self.request(schema.PeerProperties, properties=properties)
        offer = await self.request(schema.SaslHandshake)
        if _PLAIN not in offer.mechanisms:
            raise explain(NO_PLAIN, self.address)
        login = f"\0{self.address.user}\0{self.address.password}".encode()
        tuning = self._promise(_TUNE)  # it may come together with the answer to the login
        await self.request(schema.SaslAuthenticate, mechanism=_PLAIN, data=login)
        tune = await self._answered(tuning, _TUNE, "the login")
        self.frame_max = min(tune.frame_max or FRAME_MAX, FRAME_MAX)
        heartbeat = min(self.address.heartbeat, tune.heartbeat or self.address.heartbeat)
        self.send(schema.Tune(frame_max=self.frame_max, heartbeat=heartbeat))
        opened = await self.request(schema.Open, virtual_host=Text(self.address.vhost))
        self.properties = {item.key: item.value for item in (*theirs.properties, *opened.properties)}
        self.trust(heartbeat)


def _our_version() -> str:
    try:
        return version("pipeline-runner")
    except PackageNotFoundError:
        return "0"
