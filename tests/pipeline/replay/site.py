"""A pipeline on a stream in memory, whose events are replayed."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import text

from pipeline.config.load import Loaded, load
from pipeline.connectors import Outgoing
from pipeline.ledger.database import Database
from pipeline.parts import Parts
from pipeline.plugins import Plugins, load_plugins
from pipeline.replay import DryRunReport, Replay, ReplayRequest, ReplaySummary, dry_run, plan_replay
from pipeline_plugins.memory import MemoryConnector

MORNING = 1_767_258_000_000
"""2026-01-01T09:00:00Z, when the first event came; each further one came a minute later."""

HANDLERS = """
import asyncio
from pathlib import Path
from pydantic import BaseModel, field_validator
from pipeline import Event, NewJob, Reject, handler

SEEN = Path(__file__).with_name("seen.txt")
MENDED = Path(__file__).with_name("mended.txt")

class Order(BaseModel):
    n: int

    @field_validator("n", mode="before")
    @classmethod
    def known(cls, n):
        return {"one": 1}[n] if n in ("one", "none") else n

@handler("note")
async def note(event, context):
    await asyncio.sleep(event.data.get("sleep", 0))
    with SEEN.open("a") as seen:
        seen.write(f"{context.stage} {event.id} {context.request_id}\\n")

@handler("strict")
async def strict(event: Event[Order], context):
    if event.model.n == 666 and not MENDED.exists():
        raise Reject("unlucky")
"""

PIPELINE = """
[pipeline]
name = "p"
handlers = ["{kit}/mine.py"]
grace = "5s"
[broker]
url = "{broker}"
[database]
url = "sqlite:///{folder}/pipeline.db"
[source.s]
stream = "st"
group = "g"
batch = 10
window = 20
[[route]]
name = "orders"
match = "order.*"
key = "data.key"
when = "!has(data.draft)"
stages = ["strict", "note"]
finally = ["audit"]
[[route]]
name = "all"
match = ["order.#", "bill.#"]
stages = ["later"]
finally = ["last"]
[stage.later]
use = "note"
when = "has(data.n)"
async = true
[stage.last]
use = "note"
when = "outcome == 'handled'"
[[stage.audit.row]]
match = "#"
action = "routing_key"
"""


class Kit:
    """What all sites share, as it takes long to make: the handlers, the plugins, and a migrated database.

    Args:
        folder: For the handlers.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "mine.py").write_text(HANDLERS)
        self.plugins = load_plugins([folder / "mine.py"]).require_sound()
        self.database = b""

    async def migrate(self) -> None:
        """Make the database."""
        site = Site(self.folder, self)
        parts = Parts(*site.loaded)
        await parts.prepare_database()
        await parts.database.close()
        await site.database.close()
        self.database = (self.folder / "pipeline.db").read_bytes()


class Site:
    """One test's pipeline, its stream, and what stands in its database.

    Args:
        folder: For its files.
        kit: What it shares with others.

    Attributes:
        began: When the message at offset 0 comes, in milliseconds.
    """

    def __init__(self, folder: Path, kit: Kit) -> None:
        self.folder = folder
        self.kit = kit
        self.file = folder / "pipeline.toml"
        self.began = MORNING
        self.connector = MemoryConnector(f"memory://{secrets.token_hex(8)}")
        self.write(PIPELINE)
        if kit.database:
            (folder / "pipeline.db").write_bytes(kit.database)
        self._seen = kit.folder / "seen.txt"
        self._seen.unlink(missing_ok=True)
        self._mended = kit.folder / "mended.txt"
        self._mended.unlink(missing_ok=True)
        self.database = Database(f"sqlite:///{folder}/pipeline.db")

    @property
    def loaded(self) -> tuple[Loaded, Plugins]:
        """The pipeline's file, loaded once."""
        if self._loaded is None:
            self._loaded = load(self.file, {}, self.kit.plugins.catalog()), self.kit.plugins
        return self._loaded

    def write(self, pipeline: str) -> None:
        """Write the pipeline's file."""
        self._loaded: tuple[Loaded, Plugins] | None = None
        values = {"broker": self.connector.url, "folder": str(self.folder), "kit": str(self.kit.folder)}
        for name, value in values.items():
            pipeline = pipeline.replace(f"{{{name}}}", value)
        self.file.write_text(pipeline)

    def mend(self) -> None:
        """Let the handler ``strict`` reject no event any more for its number."""
        self._mended.touch()

    def publish(self, *events: tuple[str, dict[str, Any]] | bytes, id_: bool = True) -> None:
        """Publish events, a minute apart; bytes are a body that is no event."""
        store = self.connector.store
        store.create("st")
        log = store.log("st")
        for event in events:
            key, body = ("order.raw", event) if isinstance(event, bytes) else (event[0], orjson.dumps(event[1]))
            message = Outgoing(body, key, f"e{log.next}" if id_ else "")
            log.append([message], self.began + 60_000 * log.next)
        store.changed.notify()

    def replay(self, begin: Any = "first", end: Any = "now", *, rate: float | None = None, **more: Any) -> Replay:
        """A replay, not started yet."""
        return Replay(*self.loaded, ReplayRequest(begin, end, **more), rate=rate)

    async def run(self, *arguments: Any, **more: Any) -> ReplaySummary:
        """Run a replay to its end."""
        return await self.replay(*arguments, **more).complete()

    async def dry_run(self, begin: Any = "first", end: Any = "now", *, show: int = 5, **more: Any) -> DryRunReport:
        """What a replay would do."""
        plan = await plan_replay(*self.loaded, ReplayRequest(begin, end, **more), dry_run=True)
        return await dry_run(self.loaded[0], plan, show=show)

    @property
    def seen(self) -> list[tuple[str, str]]:
        """Stage and event of each call of the handler ``note``."""
        return [(stage, event) for stage, event, _ in self.calls]

    @property
    def calls(self) -> list[list[str]]:
        """Stage, event and request id of each call of the handler ``note``."""
        return [line.split() for line in self._seen.read_text().splitlines()] if self._seen.exists() else []

    async def rows(self, query: str) -> Sequence[Any]:
        """What a query finds."""
        async with self.database.read() as connection:
            return (await connection.execute(text(query))).all()

    async def audited(self) -> Counter[str]:
        """How many audit rows each event has."""
        return Counter(row[0] for row in await self.rows("SELECT event_id FROM audit_logs"))

    async def everything(self) -> dict[str, list[Any]]:
        """All rows of all tables, and what the broker keeps for groups."""
        names = [row[0] for row in await self.rows("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = {name: list(await self.rows(f"SELECT * FROM {name}")) for name in names}
        return found | {"groups of the broker": list(self.connector.store.log("st").groups.items())}
