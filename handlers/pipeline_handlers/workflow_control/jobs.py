"""What is followed up after an event is handled, as the payload of the job that does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline.jobs.contract import NewJob
from pipeline_handlers.workflow_control.asking import Asked
from pipeline_handlers.workflow_control.checks import Target
from pipeline_handlers.workflow_control.options import VerifyOptions, WorkflowControlOptions
from pipeline_handlers.workflow_control.trail import Cause

__all__ = ["FollowUp", "batch_job", "verify_job"]


@dataclass(frozen=True, slots=True)
class FollowUp:
    """What a job of ours is about; its payload, read.

    Attributes:
        cause: The event.
        signal: The signal that was sent.
        requested: When it was asked for.
        deadline: When to give up.
        round: How many jobs looked before this one.
        check: How it is seen that a signal took effect; None for a batch operation.
        targets: The workflows that it is not confirmed of yet.
        undone_by: The signals that undo it.
        batch: What is told of the batch operation; empty for signals.
    """

    cause: Cause
    signal: str
    requested: datetime
    deadline: datetime
    round: int = 0
    check: VerifyOptions | None = None
    targets: tuple[Target, ...] = ()
    undone_by: tuple[str, ...] = ()
    batch: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The payload."""
        return {
            "cause": self.cause.as_json(),
            "signal": self.signal,
            "requested": self.requested.isoformat(),
            "deadline": self.deadline.isoformat(),
            "round": self.round,
            "check": None if self.check is None else self.check.model_dump(mode="json"),
            "targets": [list(target) for target in self.targets],
            "undone_by": list(self.undone_by),
            "batch": dict(self.batch),
        }

    @classmethod
    def read(cls, payload: Mapping[str, Any]) -> FollowUp:
        """A payload."""
        check = payload["check"]
        return cls(
            Cause(**payload["cause"]),
            payload["signal"],
            datetime.fromisoformat(payload["requested"]),
            datetime.fromisoformat(payload["deadline"]),
            payload["round"],
            None if check is None else VerifyOptions.model_validate(check),
            tuple(Target(*target) for target in payload["targets"]),
            tuple(payload.get("undone_by", ())),
            payload["batch"],
        )

    @property
    def is_late(self) -> bool:
        """Whether the time is over."""
        return datetime.now(UTC) >= self.deadline


def verify_job(options: WorkflowControlOptions, asked: Asked, workflow_ids: Sequence[str]) -> NewJob | None:
    """The job that looks whether a signal took effect on these workflows; None where nobody asked for that."""
    check = options.verify.get(asked.signal)
    if check is None or check.wait or not workflow_ids:
        return None
    targets = tuple(Target(name, asked.run_id, asked.request_id_of(name)) for name in workflow_ids)
    deadline = datetime.now(UTC) + timedelta(seconds=check.timeout)
    undone_by = options.undoing(asked.signal)
    order = FollowUp(asked.cause, asked.signal, asked.at, deadline, check=check, targets=targets, undone_by=undone_by)
    return NewJob(f"verify:{asked.request_id}", options.queue, order.as_json())


def batch_job(options: WorkflowControlOptions, asked: Asked) -> NewJob:
    """The job that looks how a batch operation ended."""
    batch = options.batch
    assert batch is not None  # noqa: S101 - without it no event has a query
    about = {
        "batch_id": asked.request_id,
        "operation": batch.operations.get(asked.signal, "signal"),
        "query": asked.query,
    }
    deadline = datetime.now(UTC) + timedelta(seconds=batch.timeout)
    order = FollowUp(asked.cause, asked.signal, asked.at, deadline, batch=about)
    return NewJob(f"batch:{asked.request_id}", options.queue, order.as_json())
