"""The configuration as frozen typed models: every table and key of `pipeline.toml`, with its default and meaning."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from pipeline.config.alarm import AlarmTable
from pipeline.config.fields import Names, Seconds, Table, seconds
from pipeline.config.limits import Limits
from pipeline.config.policies import Policy, RetryPolicy

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
    "seconds",
]

STAGES = "stages"
"""The queue of async stages that name none."""


class PipelineTable(Table):
    """``[pipeline]``: the pipeline as a whole."""

    name: str = Field("pipeline", min_length=1, description="The pipeline's name, in logs, stats and broker tools.")
    handlers: Names = Field((), description="Folders or files of local handlers, relative to this file.")
    grace: Seconds = Field(25.0, description="How long a stopping runner lets work in flight finish.")
    on_unhealthy: AlarmTable | None = Field(
        None, description="Whom to tell when a runner or worker is unhealthy for a while, and when it is well again."
    )


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


def _max_waiting(value: object) -> object:
    if value is True or (value == 0 and value is not False):  # pydantic would take 0 for false
        raise ValueError("write how many jobs may wait, at least 1, or false for any number")
    return False if value == "false" else value  # what a variable gives is a text


class QueueTable(Table):
    """``[jobs.queue.<name>]``: one queue; what it leaves out is as in ``[jobs]``."""

    concurrency: int = Field(200, ge=1, description="How many of its jobs one worker runs at once.")
    retry: QueueRetry = Field(default_factory=QueueRetry, description="How failed jobs are repeated.")
    keep_completed: int = Field(100, ge=0, description="How many completed runs are kept for looking at.")
    keep_failed: int = Field(1_000, ge=0, description="How many failed runs are kept for looking at.")
    max_waiting: Annotated[Literal[False] | Annotated[int, Field(ge=1)], BeforeValidator(_max_waiting)] = Field(
        100_000,
        description="How many jobs may wait before the sources that leave them pause; false for any number.",
    )


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


def _dead_letters(value: object) -> object:
    if value in ("true", "false"):  # what a variable gives is a text
        return value == "true"
    if not isinstance(value, bool | str) or (isinstance(value, str) and not value.strip()):
        raise ValueError("write true, false, or the name of a stream")
    return value


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
    limits: Limits = Field(default_factory=Limits, description="What a message may be at most, to be an event.")
    dead_letters: Annotated[bool | str, BeforeValidator(_dead_letters)] = Field(
        False,
        description='Copy each dead letter to a stream, too: its name, or true for "<stream>.dead-letters".',
    )

    @model_validator(mode="after")
    def _refuse_a_circle(self) -> SourceTable:
        if self.dead_letter_stream == self.stream:
            raise ValueError("dead_letters names the source's own stream: it would read its dead letters for ever")
        return self

    @property
    def dead_letter_stream(self) -> str | None:
        """The stream that its dead letters are copied to; None for none."""
        return f"{self.stream}.dead-letters" if self.dead_letters is True else self.dead_letters or None


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
