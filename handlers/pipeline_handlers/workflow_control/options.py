"""The keys of ``[stage.workflow-control]``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from pipeline.config.models import Seconds
from pipeline.expressions import FINALLY, Expression, Text, compile_expression
from pipeline.jobs.contract import INLINE
from pipeline_handlers.workflow_control.contract import Operation
from pipeline_handlers.workflow_control.queries import QueryTemplate

__all__ = ["BatchOptions", "VerifyOptions", "WorkflowControlOptions"]

DEFAULT_SIGNALS: Mapping[str, str] = {
    "admin.workflow.paused": "pause",
    "admin.workflow.resumed": "resume",
    "admin.workflow.cancelled": "cancel",
}
"""Routing key → signal."""

STATUSES: Final = (
    "RUNNING", "COMPLETED", "FAILED", "CANCELED", "TERMINATED", "CONTINUED_AS_NEW", "TIMED_OUT", "PAUSED",
)  # fmt: skip
"""The statuses that Temporal's API has for a workflow execution, without their common prefix."""

LONGEST_WAIT: Final = 10.0
"""Seconds that an event may wait for its confirmation within its batch, whose other events wait with it."""

Name = Annotated[str, Field(min_length=1)]
Value = str | bool | int | float


def _by_signal(value: object) -> object:
    if isinstance(value, Mapping) and isinstance(value.get("by"), str):
        raise ValueError("it is a table for each signal: write verify.pause = { by = … }")  # noqa: TRY004 - pydantic's
    return value


class VerifyOptions(BaseModel):
    """``[stage.workflow-control.verify.<signal>]``: how it is seen that a signal took effect."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: Literal["query", "status"] = Field(
        description="What is looked at: what the workflow answers to a query, or the status that Temporal gives it."
    )
    name: str = Field("", description="The query's name, where it is by query.")
    field: str = Field("", description="The field of the answer that is compared, as in 'state.now'; else all of it.")
    equals: Annotated[Value | tuple[Value, ...], WithJsonSchema({})] = Field(
        description="The text, number or boolean that it must be; a list: one of these."
    )
    timeout: Seconds = Field(30.0, gt=0, le=86_400, description="How long it may take; then it is not confirmed.")
    undone_by: tuple[Name, ...] | None = Field(
        None, description="The signals that undo it; by default all others of the stage."
    )
    wait: bool = Field(
        False, description="Hold the event meanwhile, and try it again where it is not confirmed; else a job looks."
    )

    @property
    def expected(self) -> tuple[Value, ...]:
        """The values that confirm the signal."""
        return self.equals if isinstance(self.equals, tuple) else (self.equals,)

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.by == "query" and not self.name:
            raise ValueError('by = "query" needs the query\'s name, as in name = "state"')
        if self.by == "status" and (self.name or self.field):
            raise ValueError('name and field belong to by = "query": leave them out')
        if not self.expected:
            raise ValueError("equals is an empty list: nothing could confirm the signal")
        unknown = [value for value in self.expected if value not in STATUSES]
        if self.by == "status" and unknown:
            raise ValueError(f"equals: {unknown[0]!r} is no status of a workflow: {', '.join(STATUSES)}")
        if self.wait and self.timeout > LONGEST_WAIT:
            raise ValueError(
                f"wait = true holds up the events beside it: give a timeout of at most {LONGEST_WAIT:g}s, or leave it "
                "out, so that a job looks"
            )
        return self


class BatchOptions(BaseModel):
    """``[stage.workflow-control.batch]``: events that name no workflow, but a query that finds them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    query: QueryTemplate | None = Field(
        None, description="The visibility query, with values of the event in {{ … }}: they are quoted as they need be."
    )
    event_query: Expression | None = Field(
        None,
        description="Where an event's own query stands, as in 'data.query': whoever publishes may then reach any "
        "workflow of the namespace.",
    )
    operations: dict[Name, Operation] = Field(
        default_factory=dict, description="Signal → 'cancel' or 'terminate', to do that instead of signalling."
    )
    max_workflows: int | None = Field(
        None, ge=1, description="A query that matches more is rejected; without it, there is no limit."
    )
    timeout: Seconds = Field(3600.0, gt=0, description="How long its result is followed up.")

    @model_validator(mode="after")
    def _has_a_query(self) -> Self:
        if self.query is None and self.event_query is None:
            raise ValueError("give query, or event_query, or leave out the whole table")
        return self


class WorkflowControlOptions(BaseModel):
    """``[stage.workflow-control]``: which routing key sends which signal, and to which workflows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    signals: Annotated[dict[str, Name], Field(min_length=1)] = Field(
        default_factory=lambda: dict(DEFAULT_SIGNALS), description="Routing key → name of the signal."
    )
    workflow_id: Expression = Field(
        default_factory=lambda: compile_expression("data.workflow_id", extra=FINALLY), description="The workflow's id."
    )
    workflow_ids: Expression = Field(
        default_factory=lambda: compile_expression("data.workflow_ids", extra=FINALLY),
        description="A list of ids, for an event that is about many workflows; it counts where an event has it.",
        examples=[],
    )
    run_id: Expression | None = Field(
        None, description="One run of the workflow; without it, the current one. Not for lists."
    )
    signal_args: tuple[Expression, ...] = Field((), description="The signal's arguments, as in ['id', 'data.reason'].")
    in_flight: int = Field(50, ge=1, le=1_000, description="How many signals are on their way at once.")
    max_workflows: int = Field(
        1_000, ge=1, le=10_000, description="How many workflows an event may name; one that names more is rejected."
    )
    partial: Literal["reject", "accept"] = Field(
        "reject",
        description="A list of which some workflows take no signal, and the others did: 'reject' makes a dead letter "
        "that names them, 'accept' only tells of them.",
    )
    verify: Annotated[dict[Name, VerifyOptions], BeforeValidator(_by_signal)] = Field(
        default_factory=dict, description="Signal → how it is seen that it took effect."
    )
    batch: BatchOptions | None = Field(None, description="For events that name no workflow, but a query.", examples=[])
    user_id: Text | None = Field(None, description="Who asked, for the audit rows of what became of it.")
    queue: Name = Field(INLINE, description="The queue of jobs that follow up; 'inline' is the runner's own.")
    resource: str = Field("temporal", min_length=1, description="The [resource.…] that reaches the workflows.")

    @property
    def leaves_jobs(self) -> bool:
        """Whether anything is followed up by jobs."""
        return self.batch is not None or any(not check.wait for check in self.verify.values())

    def undoing(self, signal: str) -> tuple[str, ...]:
        """The signals that undo one that is verified."""
        named = self.verify[signal].undone_by
        others = tuple(name for name in dict.fromkeys(self.signals.values()) if name != signal)
        return others if named is None else named

    @model_validator(mode="after")
    def _names_its_signals(self) -> Self:
        known = dict.fromkeys(self.signals.values())
        undoing = {f"verify.{signal}.undone_by": check.undone_by or () for signal, check in self.verify.items()}
        operations = self.batch.operations if self.batch else {}
        named: dict[str, Iterable[str]] = {"verify": self.verify, "batch.operations": operations, **undoing}
        for key, names in named.items():
            for name in names:
                if name not in known:
                    raise ValueError(f"{key}.{name}: no routing key sends this signal; signals: {', '.join(known)}")
        return self
