"""What the handler asks of its resource: to signal workflows, to look at them, to run batch operations."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, Protocol

__all__ = ["Answer", "BatchProgress", "Batches", "Operation", "Signalled", "Signaller", "Watcher"]

Operation = Literal["signal", "cancel", "terminate"]
"""What a batch operation does to each workflow."""


class Signaller(Protocol):
    """What every stage asks of its resource."""

    async def signal(
        self, workflow_id: str, signal: str, *, request_id: str, args: Sequence[Any] = (), run_id: str | None = None
    ) -> None:
        """Signal a workflow, once per run and `request_id`. Raises `Reject` or `Unavailable`."""


class Answer(Protocol):
    """What was seen of a workflow.

    Attributes:
        value: What it answered, or its status; None where there is no answer.
        reason: Why there is no answer; empty where there is one.
        at: Since when this holds, where the server knows (aware, UTC).
    """

    @property
    def value(self) -> Any: ...  # noqa: D102 - the class says it
    @property
    def reason(self) -> str: ...  # noqa: D102
    @property
    def at(self) -> datetime | None: ...  # noqa: D102


class Signalled(Protocol):
    """A signal that a workflow got.

    Attributes:
        signal: Its name.
        at: When the server took it (aware, UTC).
    """

    @property
    def signal(self) -> str: ...  # noqa: D102 - the class says it
    @property
    def at(self) -> datetime: ...  # noqa: D102


class Watcher(Protocol):
    """What a stage with ``verify`` asks of its resource besides."""

    async def query(
        self, workflow_id: str, name: str, *, run_id: str | None = None, args: Sequence[Any] = ()
    ) -> Answer:
        """What a workflow answers to a query. Raises `Unavailable`, but not for a workflow that gives no answer."""

    async def status(self, workflow_id: str, *, run_id: str | None = None) -> Answer:
        """A workflow's status: ``RUNNING``, ``CANCELED``, … Raises `Unavailable`."""

    async def signals_after(
        self, workflow_id: str, request_id: str, *, run_id: str | None = None
    ) -> Sequence[Signalled]:
        """The signals that it got after that of a request, in their order, as far as is known. Raises `Unavailable`."""


class BatchProgress(Protocol):
    """How far a batch operation has come.

    Attributes:
        state: ``running``, ``completed``, ``failed``; ``unknown`` where there is no such operation.
        total: How many workflows it is for.
        complete: For how many it is done.
        failed: For how many it failed.
        ended_at: When it ended (aware, UTC).
    """

    @property
    def state(self) -> str: ...  # noqa: D102 - the class says it
    @property
    def total(self) -> int: ...  # noqa: D102
    @property
    def complete(self) -> int: ...  # noqa: D102
    @property
    def failed(self) -> int: ...  # noqa: D102
    @property
    def ended_at(self) -> datetime | None: ...  # noqa: D102


class Batches(Protocol):
    """What a stage with ``batch`` asks of its resource besides."""

    async def count(self, query: str) -> int:
        """How many workflows a query matches. Raises `Reject` for what is no query, and `Unavailable`."""

    async def start_batch(
        self,
        job_id: str,
        query: str,
        operation: Operation,
        *,
        signal: str = "",
        args: Sequence[Any] = (),
        reason: str,
    ) -> None:
        """Start a batch operation, once per `job_id`. Raises `Reject` or `Unavailable`."""

    async def batch(self, job_id: str) -> BatchProgress:
        """How far a batch operation has come. Raises `Unavailable`."""
