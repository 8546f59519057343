"""``pipeline publish``: put events into a stream."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.files import DEFAULT, ConfigOption, JsonOption, open_file

if TYPE_CHECKING:
    from pipeline.cli.publishing import Publishing
    from pipeline.connectors import Outgoing

__all__ = ["publish"]

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
    source: Annotated[str | None, typer.Option(metavar="NAME", help="Publish to this source's stream.")] = None,
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
    from pipeline.cli.jsonl import Batch
    from pipeline.cli.publishing import Publishing

    _refuse_contradictions(key, data, event_id, file)
    loaded = open_file(config).loaded
    headers = _headers(header or [])
    work = Publishing(loaded, source)
    if file is not None:
        _publish_file(work, file, key, headers)
    else:
        work.run([Batch([_single(key or "", data, event_id, headers)], 0)])
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
        raise UserError('name a routing key, as in: pipeline publish hello.world \'{"name": "you"}\'; or a --file')
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
    from pipeline.errors import UserError

    text = sys.stdin.read() if data == "-" else data or "{}"
    try:
        return outgoing(key, parse_object(text, "JSON"), event_id, headers)
    except UserError as error:
        if data is None or not _is_file(data):
            raise
        raise UserError(f"{error}; {data} is a file: write - in its place, and < {data} at the end") from None


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a name, or with a character that none can have
        return False


def _publish_file(work: Publishing, file: Path, key: str | None, headers: Mapping[str, Any]) -> None:
    """Publish a file once all of it was read and found right; a pipe, which can be read only once, as it comes."""
    from pipeline.cli.jsonl import read

    size = 0
    if file.is_file():
        for batch in read(file, key, headers):
            for message in batch.messages:
                work.stream_of(message.routing_key)
            size += batch.size
    with _progress(size) as advance:
        work.run(read(file, key, headers), advance)
    if work.published != 1:
        work.last_id = None


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
