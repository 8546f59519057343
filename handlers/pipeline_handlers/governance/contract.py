"""The contract of a workflow action: what a package offers by the hook `governance_actions`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Generic

from pydantic import BaseModel
from typing_extensions import TypeVar

from pipeline import NoOptions
from pipeline.jobs.contract import NewJob
from pipeline.templates import Template, template_type

if TYPE_CHECKING:
    from pipeline.connectors import Outgoing
    from pipeline_handlers.governance.options import GovernanceOptions

__all__ = ["WAIT", "Action", "ActionText", "EntityView", "Step", "Wait"]

OptionsT = TypeVar("OptionsT", bound=BaseModel, default=Any)


ActionText = Annotated[Template, template_type(extra=("entity", "execution"))]
"""A pydantic field type: a template of an action's, which sees ``entity`` and ``execution`` besides the event."""


class Wait:
    """The type of `WAIT`."""

    def __repr__(self) -> str:
        return "WAIT"


WAIT: Final = Wait()
"""What an action returns that has only begun: its execution waits, and holds no worker and no job, until it is resumed
(`Executions.resume`) or ended."""


@dataclass(frozen=True, slots=True)
class EntityView:
    """The entity that a workflow is about, as it was when the step was planned.

    Attributes:
        status_event: The event, or the step of a workflow, that gave it its status, or deleted it.
        status_at: When that was, in milliseconds since 1970.
    """

    type: str
    id: str
    status: str | None = None
    version: int = 0
    data: Mapping[str, Any] = field(default_factory=dict)
    deleted: bool = False
    status_event: str = ""
    status_at: int = 0


@dataclass(slots=True)
class Step:
    """One try of one action of one execution, and what it leaves.

    Attributes:
        execution_id: The execution.
        workflow: The workflow's name.
        stage: The stage that it belongs to, for jobs that it leaves.
        queue: The execution's queue.
        position: The action's index.
        attempt: 1 for the first try.
        round: Counts from 0 how often the action was begun anew by ``executions retry``.
        entity: What the workflow is about.
        actor_id: Who caused the event.
        stream: The stream of the event, where follow-up events go; empty where it came from none.
        causation: What led here, oldest first, this execution last.
        variables: What expressions and templates see: ``routing_key``, ``id``, ``data``, ``headers``, ``time``, and
            ``entity`` (``type``, ``id``, ``status``, ``version``, ``data``) and ``execution`` (``id``, ``workflow``).
        settings: The stage's options, for what all actions share (the mail server, the webhook's secret).
        now: The time.
    """

    execution_id: str
    workflow: str
    stage: str
    queue: str
    position: int
    attempt: int
    round: int
    entity: EntityView
    actor_id: str | None
    stream: str
    causation: Sequence[Mapping[str, Any]]
    variables: Mapping[str, Any]
    settings: GovernanceOptions
    now: datetime
    rows: list[Any] = field(default_factory=list)
    statements: list[Any] = field(default_factory=list)
    jobs: list[NewJob] = field(default_factory=list)
    messages: list[tuple[str, Outgoing]] = field(default_factory=list)

    @property
    def key(self) -> str:
        """The idempotency key ``<execution>/<position>``, the same at every try: hand it to other systems."""
        return f"{self.execution_id}/{self.position}"

    def text(self, template: Template) -> str:
        """The template with this step's values; a value that is missing leaves its place empty."""
        return template.render(self.variables)[0]

    def add(self, row: Any) -> None:
        """Leave a row (a SQLModel instance or `pipeline.Row`), written with the step's own row, once."""
        self.rows.append(row)

    def execute(self, statement: Any) -> None:
        """Leave a SQL statement, executed in that transaction after the rows."""
        self.statements.append(statement)

    def enqueue(self, job: NewJob) -> None:
        """Leave a job, such as a timer; one that names no stage is for this one's."""
        self.jobs.append(job if job.stage else replace(job, stage=self.stage))

    def publish(self, message: Outgoing) -> bool:
        """Publish an event on the stream that the execution's own came from, once the step is committed.

        Returns:
            False where it came from none (a program triggered the workflow by itself): then nothing is published.
        """
        if self.stream:
            self.messages.append((self.stream, message))
        return bool(self.stream)


class Action(Generic[OptionsT]):
    """One kind of action; an instance for each place in a definition that uses it.

    Class attributes:
        name: What ``use`` names it by.
        Options: A pydantic model of its keys beside ``use`` (``extra="forbid"``).
        timeout: Seconds that `run` of an external action may take; the option ``timeout_action`` overrides it.
        locks_entity: Whether `run` depends on the entity's state so much that nothing may change it meanwhile.
    """

    name: ClassVar[str]
    Options: ClassVar[type[BaseModel]] = NoOptions
    timeout: ClassVar[float] = 30.0
    locks_entity: ClassVar[bool] = False

    def __init__(self, options: OptionsT) -> None:
        self.options = options

    def is_external(self) -> bool:
        """Whether `run` does anything but leave rows.

        One that is not is called within the transaction that writes its step's row; it must not wait for anything.
        One that is runs outside, beside others, under its time-out, and may be run again after a crash.
        """
        return False

    def problem(self, settings: GovernanceOptions) -> str:
        """Why this can never work with these options of the stage, for ``pipeline check``; empty where it can."""
        return ""

    async def stop(self) -> None:
        """Let go of what `run` opened; called once."""

    async def run(self, step: Step) -> Mapping[str, Any] | Wait | None:
        """Do it; return a result (JSON values) to keep, None, or `WAIT`.

        Raises:
            Reject: It can never succeed: the execution fails.
            Retry: Try again after the time that it names.
            Unavailable: What it needs is down: try again; this counts as no failure.
            Exception: Anything else is a failed try, bounded by the queue's retries.
        """
        raise NotImplementedError
