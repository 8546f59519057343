"""The live check: asks the broker, the database, the queue and each resource, all at once, and says what is wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.config.redact import redact
from pipeline.errors import PipelineError
from pipeline.jobs.contract import INLINE

if TYPE_CHECKING:
    from pipeline.cli.files import Opened
    from pipeline.config.load import Loaded
    from pipeline.connectors import Connector
    from pipeline.ledger.database import Database

__all__ = ["Answer", "ask_all"]

LIMIT = 5.0
"""Seconds that each may take."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one service answered.

    Attributes:
        name: ``broker``, ``database``, ``queue``, or the resource's name.
        where: Where it is, without secrets.
        ok: Whether a runner could use it now.
        message: What it found, or what is wrong and what to do.
        seconds: How long that took.
    """

    name: str
    where: str
    ok: bool
    message: str
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


async def ask_all(opened: Opened) -> list[Answer]:
    """Ask every service; none can hold up the others, or the whole for longer than `LIMIT`."""
    loaded = opened.loaded
    asked = [
        _ask("broker", redact(loaded.config.broker.url or ""), partial(_broker, opened)),
        _ask("database", redact(loaded.config.database.url or ""), partial(_database, opened)),
    ]
    if loaded.queues and loaded.config.jobs.url:
        asked.append(_ask("queue", redact(loaded.config.jobs.url), partial(_queue, opened)))
    for name in loaded.resources:
        resource = loaded.resource(name)(loaded.resource_options(name))
        asked.append(_ask(name, resource.describe(), partial(_resource, resource)))
    return list(await asyncio.gather(*asked))


async def _ask(name: str, where: str, question: Callable[[], Awaitable[str]]) -> Answer:
    began = time.monotonic()
    try:
        async with asyncio.timeout(LIMIT):
            ok, message = True, await question()
    except TimeoutError:
        ok, message = False, f"no answer within {LIMIT:g} s: is it running, and can this machine reach it?"
    except PipelineError as error:
        ok, message = False, str(error)
    except Exception as error:  # noqa: BLE001 - a plugin's probe may raise anything; the others are asked all the same
        ok, message = False, f"{type(error).__name__}: {error}"
    return Answer(name, where, ok, message, round(time.monotonic() - began, 3))


async def _broker(opened: Opened) -> str:
    config = opened.loaded.config
    connector = opened.loaded.connector(config.broker.url or "")
    created = connector.creates_streams if config.broker.create_streams is None else config.broker.create_streams
    try:
        await connector.connect()
        await connector.probe()
        streams = dict.fromkeys(source.stream for source in config.source.values())
        copies = (source.dead_letter_stream for source in config.source.values())
        streams |= dict.fromkeys(stream for stream in copies if stream is not None)
        return "; ".join([await _stream(connector, stream, created=created) for stream in streams]) or "it answers"
    finally:
        await connector.close()


async def _stream(connector: Connector, stream: str, *, created: bool) -> str:
    from pipeline.connectors import BrokerRefused

    try:
        bounds = await connector.bounds(stream)
    except BrokerRefused:
        if not created:
            raise
        return f"stream {stream} will be created"
    if bounds.first is None:
        return f"stream {stream} is empty"
    return f"stream {stream} holds offsets {bounds.first} to {bounds.last}"


async def _database(opened: Opened) -> str:
    from pipeline.errors import UserError
    from pipeline.ledger.database import Database
    from pipeline.ledger.migrations import pending

    database = Database(opened.loaded.config.database.url or "")
    try:
        if database.dialect == "sqlite" and not database.exists():
            return "it will be created"
        await database.probe()
        missing = await pending(database, opened.plugins.branches())
        stranded = [] if missing else await _stranded(database, opened.loaded)
    finally:
        await database.close()
    if not missing:
        return "; ".join(["its schema is up to date", *stranded])
    if database.dialect == "sqlite":
        return f"'pipeline run' will migrate it to {', '.join(missing)}"
    raise UserError(f"its schema lacks {', '.join(missing)}: run 'pipeline migrate {opened.loaded.path}'")


async def _stranded(database: Database, loaded: Loaded) -> list[str]:
    """Jobs that nobody may run as the file is now, in words."""
    from pipeline.cli.console import count
    from pipeline.jobs.figures import jobs_by_stage

    told: list[str] = []
    for stage, (number, queues) in (await jobs_by_stage(database, loaded.config.pipeline.name)).items():
        jobs = f"{count(number, 'job')} on {', '.join(queues)}"
        if stage not in loaded.config.stage:
            told.append(f"{jobs} of the stage {stage}, which is not configured: nobody runs them")
        elif unused := [queue for queue in queues if queue != INLINE and queue not in loaded.queues]:
            told.append(
                f"{jobs} of the stage {stage}, and no stage uses {', '.join(unused)} any more: "
                "workers that are told their queues by --queue must be told of it, too"
            )
    return told


async def _queue(opened: Opened) -> str:
    from pipeline.jobs.service import hint_queue

    jobs = opened.loaded.config.jobs
    queue = hint_queue(jobs.url, jobs.prefix)
    try:
        await queue.probe()
    finally:
        await queue.close()
    return "it answers"


async def _resource(resource: Any) -> str:
    try:
        await resource.probe()
    finally:
        await resource.stop()
    return "it answers"
