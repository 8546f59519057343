"""Where one test's pipeline lives: its stream, database and Temporal, its file, and the runners that it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

from tests.integration.rig.database import Books, books
from tests.integration.rig.publishers import Publisher, by_amqp, natively
from tests.integration.rig.runner import Runner, command, until

__all__ = ["Site"]

HANDLERS = Path(__file__).with_name("handlers")


@dataclass
class Site:
    """One test's servers, and what it does on them.

    Attributes:
        folder: For its files.
        stream: The stream's name.
        stream_url: The broker, by the stream protocol.
        amqp_url: The broker, by AMQP 0.9.1.
        database_url: The runner's database.
        temporal_address: Temporal's frontend.
        redis_url: The queue of jobs; empty for none.
    """

    folder: Path
    stream: str
    stream_url: str
    amqp_url: str
    database_url: str
    temporal_address: str
    redis_url: str = ""
    runners: list[Runner] = field(default_factory=list)

    @property
    def file(self) -> Path:
        """The ``pipeline.toml``."""
        return self.folder / "pipeline.toml"

    @property
    def env(self) -> dict[str, str]:
        """What the runner is told by its environment."""
        named = {
            "PIPELINE_BROKER_URL": self.stream_url,
            "DATABASE_URL": self.database_url,
            "TEMPORAL_HOST": self.temporal_address,
            "REDIS_URL": self.redis_url,
        }
        return {name: value for name, value in named.items() if value}

    async def lay_out(self, text: str) -> None:
        """Write the ``pipeline.toml``, and bring the database's schema up to date with it."""
        self.file.write_text(text)
        code, output = await command(self.file, self.env, "migrate", str(self.file))
        assert code == 0, output

    def run(self, *options: str, **env: str) -> Runner:
        """Start a runner."""
        return self._start("run", options, env)

    def worker(self, *options: str, **env: str) -> Runner:
        """Start a worker."""
        return self._start("worker", options, env)

    def _start(self, command: str, options: Sequence[str], env: Mapping[str, str]) -> Runner:
        output = self.folder / f"{command}-{len(self.runners)}.log"
        runner = Runner(self.file, {**self.env, **env}, output, (command, *options))
        self.runners.append(runner)
        return runner

    def by_amqp(self) -> AbstractAsyncContextManager[Publisher]:
        """A publisher through a topic exchange; declares the stream."""
        return by_amqp(self.amqp_url, self.stream)

    def natively(self) -> AbstractAsyncContextManager[Publisher]:
        """A publisher of the stream protocol; the stream is there already."""
        return natively(self.stream_url, self.stream)

    def books(self) -> AbstractAsyncContextManager[Books]:
        """What stands in the database."""
        return books(self.database_url)

    async def until_processed(self, found: Books, count: int, seconds: float, *runners: Runner) -> None:
        """Wait until so many messages have an outcome."""

        async def enough() -> bool:
            return await found.processed() >= count

        await until(enough, seconds, f"{count} messages to have an outcome", *runners)

    async def command(self, *arguments: str) -> tuple[int, str]:
        """Run another command of ``pipeline`` on this file."""
        return await command(self.file, self.env, *arguments)

    def close(self) -> None:
        """End every runner."""
        for runner in self.runners:
            runner.close()


def admin_pipeline(
    stream: str, *, source: str = "", stages: Sequence[str] = ("workflow-control",), more: str = ""
) -> str:
    """The reference's pipeline: admin events become signals, and leave an audit row."""
    names = ", ".join(f'"{name}"' for name in stages)
    return f"""
[pipeline]
name = "proof"
handlers = ["{HANDLERS}"]
grace = "15s"

[source.admin]
stream = "{stream}"
group = "workflow-control-consumer"
{source}

[[route]]
match = "admin.workflow.*"
key = "data.workflow_id"
stages = [{names}]
finally = ["audit"]

[stage.workflow-control]
signal_args = ["id"]
policy = {{ rate_limit = false }}   # a workflow gets more signals a second here than it would like

[[stage.audit.row]]
match = "admin.workflow.*"
action = "'workflow_' + data.event_type.split('.')[2]"
entity_type = "'bom_processing'"
entity_id = "data.bom_id"
user_id = "data.admin_id"
metadata = {{ workflow_id = "data.workflow_id" }}
{more}
"""


CRASH_POINT = """
[stage.crash-point]
point = "${CRASH_POINT:-never}"
events = "${CRASH_EVENTS:-0}"
statements = "${CRASH_STATEMENTS:-0}"
microseconds = "${CRASH_MICROSECONDS:-0}"
freeze = "${CRASH_FREEZE:-false}"
"""
"""The stage ``crash-point``, told where to act by the environment of the runner that it is to end."""


def effect_pipeline(stream: str, effects: Path, *, grace: str = "15s", source: str = "", options: str = "") -> str:
    """A pipeline whose only stage leaves a line in a file."""
    return f"""
[pipeline]
name = "proof"
handlers = ["{HANDLERS}"]
grace = "{grace}"

[source.jobs]
stream = "{stream}"
group = "proof"
{source}

[[route]]
match = "job.*"
key = "data.key"
stages = ["effect"]
finally = ["audit"]

[stage.effect]
policy = {{ timeout = "10m" }}
file = "{effects}"
{options}
"""
