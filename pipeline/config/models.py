"""The configuration as frozen typed models: every table and key of `pipeline.toml`, with its default and meaning."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

__all__ = [
    "STAGES",
    "BrokerTable",
    "DatabaseTable",
    "JobsTable",
    "PipelineConfig",
    "PipelineTable",
    "Policy",
    "QueueRetry",
    "QueueTable",
    "ResourceTable",
    "RetryPolicy",
    "RouteTable",
    "Seconds",
    "SourceTable",
    "StageTable",
]

STAGES = "stages"
"""The queue of async stages that name none."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def seconds(value: object) -> object:
    """Seconds from a duration such as ``10s``, ``1m30s``, ``250ms``, ``7d``; a mere number is seconds already.

    Raises:
        ValueError: It is a text, but not a duration.
    """
    if not isinstance(value, str):
        return value
    if _NUMBER.fullmatch(value):  # what a variable gives is a text
        return float(value)
    if not _DURATION.fullmatch(value):
        raise ValueError(f"{value!r} is not a duration: write a number and ms, s, m, h or d, as in '10s' or '1m30s'")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value))


def _duration_text(value: float) -> str:
    for unit in ("d", "h", "m"):
        if value and value % _UNITS[unit] == 0:
            return f"{value / _UNITS[unit]:g}{unit}"
    return f"{value:g}s"


Seconds = Annotated[
    float,
    BeforeValidator(seconds, json_schema_input_type=float | Annotated[str, Field(pattern=rf"^{_DURATION.pattern}$")]),
    Field(ge=0, allow_inf_nan=False),
    PlainSerializer(_duration_text, when_used="json"),
]
"""A duration: ``"10s"``, ``"1m30s"``, ``"250ms"``, ``"7d"``, or a number of seconds."""


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed, json_schema_input_type=str | tuple[str, ...])]


class Table(BaseModel):
    """A table of `pipeline.toml`: frozen, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class PipelineTable(Table):
    """``[pipeline]``: the pipeline as a whole."""

    name: str = Field("pipeline", min_length=1, description="The pipeline's name, in logs, stats and broker tools.")
    handlers: Names = Field((), description="Folders or files of local handlers, relative to this file.")
    grace: Seconds = Field(25.0, description="How long a stopping runner lets work in flight finish.")


class BrokerTable(Table):
    """``[broker]``: where the events come from."""

    url: str | None = Field(None, description="The broker's URL; its scheme names the connector.")
    create_streams: bool | None = Field(
        None, description="Create missing streams at start; by default only on the embedded broker and in memory."
    )


class DatabaseTable(Table):
    """``[database]``: where progress, audit rows and dead letters live."""

    url: str | None = Field(None, description="sqlite:///path or postgresql://…")


class QueueRetry(Table):
    """``retry = {…}`` of a queue: reference/governance-workflow-queue.md asks for five retries after the first try."""

    attempts: int = Field(6, ge=1, description="How often a job is tried before it failed; an outage counts none.")
    backoff: Seconds = Field(2.0, description="The wait before the second try; doubled for each further one.")
    max_backoff: Seconds = Field(3600.0, description="The longest wait.")
    jitter: float = Field(0.0, ge=0, le=1, description="The part of each wait that is random, 0 to 1.")


class QueueTable(Table):
    """``[jobs.queue.<name>]``: one queue; what it leaves out is as in ``[jobs]``."""

    concurrency: int = Field(200, ge=1, description="How many of its jobs one worker runs at once.")
    retry: QueueRetry = Field(default_factory=QueueRetry, description="How failed jobs are repeated.")
    keep_completed: int = Field(100, ge=0, description="How many completed runs are kept for looking at.")
    keep_failed: int = Field(1_000, ge=0, description="How many failed runs are kept for looking at.")


class JobsTable(QueueTable):
    """``[jobs]``: the queues of jobs; without this table, and without REDIS_… variables, a runner runs them itself."""

    url: str | None = Field(None, description="redis://… or rediss://…")
    prefix: str = Field("pipeline", min_length=1, description="What the names of its queues in Redis begin with.")
    queue: dict[str, QueueTable] = Field(default_factory=dict, description="The queues by name.")


class ResourceTable(BaseModel):
    """``[resource.<name>]``: something that handlers share; all but `use` are the resource's own options."""

    model_config = ConfigDict(frozen=True)

    use: str = Field(description="The kind of resource; by default the table's name.")
    options: dict[str, Any] = Field(default_factory=dict, description="The resource's own keys.")


def _start(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("write 'first', 'last', 'next', an offset, or a time with its zone")  # noqa: TRY004 - pydantic's
    if isinstance(value, str) and value.isdecimal():  # what a variable gives is a text
        return int(value)
    if isinstance(value, str) and value not in ("first", "last", "next"):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{value!r} is none of 'first', 'last', 'next', an offset, or a time") from None
    if isinstance(value, datetime) and value.tzinfo is None:
        raise ValueError("the time has no zone: add 'Z' or an offset, as in 2026-01-31T12:00:00Z")
    return value


def _dedupe(value: object) -> object:
    if value is True:
        raise ValueError("write how long ids are remembered, as in '24h', or false")
    return False if value == "false" else value  # what a variable gives is a text


class SourceTable(Table):
    """``[source.<name>]``: a stream and the consumer group that reads it."""

    stream: str = Field(min_length=1, description="The stream's name.")
    group: str = Field(min_length=1, description="The consumer group: progress and dedupe belong to it.")
    start: Annotated[
        Literal["first", "last", "next"] | Annotated[int, Field(ge=0)] | datetime, BeforeValidator(_start)
    ] = Field("first", description="Where a group without progress begins: first, last, next, an offset, or a time.")
    dedupe: Annotated[Literal[False] | Seconds, BeforeValidator(_dedupe)] = Field(
        86400.0, description="How long a message id is remembered, so that a repeat is dropped; false remembers none."
    )
    journal: bool = Field(False, description="Keep a row for every outcome, not only for dead ones.")
    batch: int = Field(500, ge=1, le=10_000, description="How many messages are taken from the broker at a time.")
    window: int = Field(
        5_000,
        ge=1,
        le=1_000_000,
        description="How many messages may be in flight before reading pauses; a batch that has come is taken in.",
    )
    max_ahead: int = Field(
        100_000, ge=1, le=10_000_000, description="How many messages may be finished beyond one that is not."
    )


def _timeout(value: object) -> object:
    if value is True:
        raise ValueError("write how long a try may take, as in '10s', or false")
    return False if value is None or value == "false" else value


class RetryPolicy(Table):
    """``retry = {…}`` in a stage's policy."""

    attempts: int = Field(5, ge=1, description="How often an event is tried before it is dead; an outage counts none.")
    backoff: Seconds = Field(1.0, description="The wait before the second try; doubled for each further one.")
    max_backoff: Seconds = Field(60.0, description="The longest wait.")
    jitter: float = Field(0.1, ge=0, le=1, description="The part of each wait that is random, 0 to 1.")


class Policy(Table):
    """``policy = {…}``: how a stage treats time and failure."""

    timeout: Annotated[Literal[False] | Seconds, BeforeValidator(_timeout)] = Field(
        30.0, description="How long one try may take, of one event or of one batch; false for no limit."
    )
    retry: RetryPolicy = Field(default_factory=RetryPolicy, description="How failed tries are repeated.")
    concurrency: int = Field(100, ge=1, description="How many events of one source the stage handles at once.")


def _queue(value: object) -> object:
    if value in ("true", "false"):  # what a variable gives is a text
        return value == "true"
    if not isinstance(value, bool | str) or (isinstance(value, str) and not value.strip()):
        raise ValueError("write true, false, or the name of a queue")
    return value


class StageTable(BaseModel):
    """``[stage.<name>]``: a handler, its policy and its options; the keys that are not named here are the handler's."""

    model_config = ConfigDict(frozen=True)

    use: str = Field(description="The handler; by default the table's name.")
    when: str | None = Field(None, description="A CEL condition; an event that does not meet it passes the stage by.")
    async_: Annotated[bool | str, BeforeValidator(_queue)] = Field(
        False, alias="async", description='Run on a worker, as a job: true for the queue "stages", or a queue\'s name.'
    )
    policy: dict[str, Any] = Field(default_factory=dict, description="Overrides of the handler's default policy.")
    options: dict[str, Any] = Field(default_factory=dict, description="The handler's own keys.")

    @property
    def is_async(self) -> bool:
        """Whether it runs on a worker."""
        return self.async_ is not False

    @property
    def async_queue(self) -> str | None:
        """The queue of its jobs; None where it is not async."""
        return STAGES if self.async_ is True else self.async_ or None


class RouteTable(Table):
    """``[[route]]``: which events run through which stages."""

    name: str = Field("", description="The route's name; by default its first pattern.")
    source: str = Field("", description="The source; may be left out where there is one.")
    match: Annotated[Names, Field(min_length=1)] = Field(description="A topic pattern, or a list of them.")
    key: Names = Field((), description="The ordering key, a path such as data.id; a list means the first that exists.")
    when: str | None = Field(None, description="A CEL condition; an event that does not meet it is filtered.")
    stages: Names = Field((), description="The stages, in order.")
    finally_: Names = Field((), alias="finally", description="Stages that run once at the end, whatever the outcome.")


class PipelineConfig(BaseModel):
    """A whole `pipeline.toml`, resolved: defaults filled in, environment applied, names checked."""

    model_config = ConfigDict(frozen=True)

    pipeline: PipelineTable = Field(default_factory=PipelineTable)
    broker: BrokerTable = Field(default_factory=BrokerTable)
    database: DatabaseTable = Field(default_factory=DatabaseTable)
    jobs: JobsTable = Field(default_factory=JobsTable)
    resource: dict[str, ResourceTable] = Field(default_factory=dict)
    source: dict[str, SourceTable] = Field(default_factory=dict)
    route: tuple[RouteTable, ...] = ()
    stage: dict[str, StageTable] = Field(default_factory=dict)
