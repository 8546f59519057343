"""``pipeline publish``: put events into a stream."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.files import DEFAULT, ConfigOption, JsonOption, open_file

if TYPE_CHECKING:
    from pipeline.cli.jsonl import Line
    from pipeline.config.load import Loaded
    from pipeline.connectors import Connector, Outgoing
    from pipeline.errors import PipelineError

__all__ = ["publish"]

BATCH = 500
"""How many events are sent before their confirms are waited for."""
_BAR_FROM_BYTES = 100_000


def publish(
    key: Annotated[str | None, typer.Argument(help="The routing key.")] = None,
    data: Annotated[
        str | None, typer.Argument(metavar="JSON", help="The event's data; {} if left out, - for standard input.")
    ] = None,
    config: ConfigOption = DEFAULT,
    event_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="The event's id; a new UUID if left out.")
    ] = None,
    header: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A header; may be repeated.")] = None,
    source: Annotated[
        str | None, typer.Option(metavar="NAME", help="The source whose stream to publish to, where routes leave it open.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            metavar="EVENTS.JSONL",
            help='Publish a line each: {"routing_key": …, "data": …, "id": …, "headers": …}, or with a KEY plain data; '
            "- is standard input.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Publish an event, or a file of events.

    An event goes to the stream of the source whose routes take its routing key; --source chooses where that is not
    clear. Returns when the broker has confirmed every event. Works while the pipeline runs.
    """
    from pipeline.cli.console import count, say, show_json

    _refuse_contradictions(key, data, event_id, file)
    loaded = open_file(config).loaded
    headers = _headers(header or [])
    work = _Publishing(loaded, source)
    if file is not None:
        _publish_file(work, file, key, headers)
    else:
        work.run([(_single(key or "", data, event_id, headers), 0)])
    if as_json:
        show_json({"published": work.published, "streams": work.streams, "id": work.last_id, "broker": work.broker})
        return
    for stream, number in work.streams.items():
        what = f"event {work.last_id}" if work.last_id else count(number, "event")
        say(f"published {what} to {stream} on {work.broker}", style="green")
    if not work.streams:
        say("there was nothing to publish")


def _refuse_contradictions(key: str | None, data: str | None, event_id: str | None, file: Path | None) -> None:
    from pipeline.errors import UserError

    if file is None and key is None:
        raise UserError("name a routing key, as in: pipeline publish hello.world '{\"name\": \"you\"}'; or a --file")
    if file is not None and (data is not None or event_id is not None):
        raise UserError("with --file, each event's data and id stand in the file")


def _headers(texts: Sequence[str]) -> dict[str, str]:
    from pipeline.errors import UserError

    headers = {}
    for text in texts:
        name, found, value = text.partition("=")
        if not found or not name:
            raise UserError(f"--header {text!r}: write NAME=VALUE")
        headers[name] = value
    return headers


def _single(key: str, data: str | None, event_id: str | None, headers: Mapping[str, Any]) -> Outgoing:
    from pipeline.cli.json_input import parse_object
    from pipeline.cli.jsonl import outgoing

    text = sys.stdin.read() if data == "-" else data or "{}"
    return outgoing(key, parse_object(text, "JSON"), event_id, headers)


def _publish_file(work: _Publishing, file: Path, key: str | None, headers: Mapping[str, Any]) -> None:
    """Publish a file once all of it was read and found right; a pipe, which can be read only once, as it comes."""
    from pipeline.cli.jsonl import read

    size = 0
    if file.is_file():
        for message, length in read(file, key, headers):
            work.stream_of(message.routing_key)
            size += length
    with _progress(size) as advance:
        work.run(read(file, key, headers), advance)
    if work.published != 1:
        work.last_id = None


class _Publishing:
    """One run of the command: finds each event's stream, and sends in batches.

    Attributes:
        published: How many events the broker has confirmed.
        streams: How many of them by stream.
        last_id: The id of the last one.
        broker: The broker's URL without its password.
    """

    def __init__(self, loaded: Loaded, source: str | None) -> None:
        from pipeline.config.redact import redact
        from pipeline.errors import UserError
        from pipeline.routing import Router

        sources = loaded.config.source
        if source is not None and source not in sources:
            raise UserError(f"there is no [source.{source}]; the sources are: {', '.join(sources)}")
        self._loaded = loaded
        self._source = source
        self._router = Router(loaded.config.route)
        self._stream_by_key: dict[str, str] = {}
        self.published = 0
        self.streams: dict[str, int] = {}
        self.last_id: str | None = None
        self.broker = redact(loaded.config.broker.url or "")

    def stream_of(self, key: str) -> str:
        """The stream for a routing key. Raises `UserError` where several sources, or none, could be meant."""
        stream = self._stream_by_key.get(key)
        if stream is None:
            stream = self._stream_by_key[key] = self._loaded.config.source[self._source_of(key)].stream
        return stream

    def run(self, lines: Iterable[Line], advance: Callable[[int], None] = lambda _: None) -> None:
        """Publish them all. Raises `UserError`, and `Unavailable` where the broker can't be reached."""
        asyncio.run(self._run(lines, advance))

    def _source_of(self, key: str) -> str:
        from pipeline.cli.console import warn
        from pipeline.errors import UserError

        sources = self._loaded.config.source
        taking = dict.fromkeys(found.route.source for found in self._router.explain(key, self._source) if found.matched)
        chosen = self._source or (next(iter(sources)) if len(sources) == 1 else None)
        if chosen is not None:
            if not taking:
                warn(f"no route of source {chosen!r} takes {key!r}: the event will be filtered")
            return chosen
        if len(taking) == 1:
            return next(iter(taking))
        why = f"routes of {', '.join(taking)} take" if taking else "no route takes"
        raise UserError(f"{why} {key!r}: choose a stream with --source, one of {', '.join(sources)}")

    async def _run(self, lines: Iterable[Line], advance: Callable[[int], None]) -> None:
        from pipeline.errors import PipelineError

        connector = self._loaded.connector(self._loaded.config.broker.url or "")
        try:
            await connector.connect()
            for batch, length in _batches(lines):
                await self._send(connector, batch)
                advance(length)
        except PipelineError as error:
            self._tell_how_far(error)
            raise
        finally:
            await connector.close()

    async def _send(self, connector: Connector, batch: Sequence[Outgoing]) -> None:
        by_stream: dict[str, list[Outgoing]] = {}
        for message in batch:
            by_stream.setdefault(self.stream_of(message.routing_key), []).append(message)
        for stream, messages in by_stream.items():
            if stream not in self.streams and self._creates_streams(connector):
                await connector.create_stream(stream)
            await connector.publish(stream, messages)
            self.streams[stream] = self.streams.get(stream, 0) + len(messages)
            self.published += len(messages)
            self.last_id = messages[-1].id

    def _creates_streams(self, connector: Connector) -> bool:
        wanted = self._loaded.config.broker.create_streams
        return connector.creates_streams if wanted is None else wanted

    def _tell_how_far(self, error: PipelineError) -> None:
        from pipeline.cli.console import count, say

        if self.published:
            say(f"{count(self.published, 'event')} were published before this:", stderr=True)


def _batches(lines: Iterable[Line]) -> Iterator[tuple[list[Outgoing], int]]:
    batch: list[Outgoing] = []
    length = 0
    for message, size in lines:
        batch.append(message)
        length += size
        if len(batch) == BATCH:
            yield batch, length
            batch, length = [], 0
    if batch:
        yield batch, length


@contextmanager
def _progress(size: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, for a long file; else nothing."""
    if size < _BAR_FROM_BYTES or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("publishing", total=size)
        yield lambda length: bar.update(task, advance=length)
