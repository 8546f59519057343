"""Batch operations: Temporal itself signals, cancels or terminates every workflow that a visibility query matches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from pipeline import Reject, Unavailable
from pipeline_plugins.temporal.errors import BATCHES

if TYPE_CHECKING:
    from temporalio.api.workflowservice.v1 import StartBatchOperationRequest
    from temporalio.service import WorkflowService

    from pipeline_plugins.temporal.connection import Connection

__all__ = ["BatchProgress", "Operation", "count", "progress", "start"]

Operation = Literal["signal", "cancel", "terminate"]

_STATE = "BATCH_OPERATION_STATE_"


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """How far a batch operation has come.

    Attributes:
        state: ``running``, ``completed`` or ``failed``; ``unknown`` where the server has no such operation.
        total: How many workflows it is for.
        complete: For how many it is done, those that were gone by then included.
        failed: For how many it failed.
        ended_at: When it ended (aware, UTC).
    """

    state: str
    total: int = 0
    complete: int = 0
    failed: int = 0
    ended_at: datetime | None = None


async def count(connection: Connection, query: str) -> int:
    """How many workflows a visibility query matches now, as far as the visibility store has caught up.

    Raises:
        Reject: It is no query, or names a search attribute that the namespace does not have.
        Unavailable: Temporal can't be reached or used.
    """
    from temporalio.api.workflowservice.v1 import CountWorkflowExecutionsRequest

    request = CountWorkflowExecutionsRequest(namespace=connection.namespace, query=_sendable(query))
    response = await connection.call(
        lambda service, timeout: service.count_workflow_executions(request, retry=True, timeout=timeout), what="query"
    )
    return int(response.count)


async def start(
    connection: Connection,
    job_id: str,
    query: str,
    operation: Operation,
    *,
    signal: str = "",
    args: Sequence[Any] = (),
    reason: str,
) -> None:
    """Start a batch operation, once per `job_id` however often this is called.

    Raises:
        Reject: Temporal refuses the query.
        Unavailable: Temporal can't be reached or used; of `BATCHES`, where the namespace has as many running as it may.
    """
    from temporalio.service import RPCError, RPCStatusCode

    request = await _request(connection, job_id, query, operation, signal, args, reason)

    async def make(service: WorkflowService, timeout: timedelta) -> None:
        try:
            await service.start_batch_operation(request, timeout=timeout)
        except RPCError as error:
            if error.status != RPCStatusCode.ALREADY_EXISTS:
                raise

    try:
        await connection.call(make, what="batch operation")
    except Unavailable as error:
        if error.dependency != BATCHES or (await progress(connection, job_id)).state == "unknown":
            raise  # else it is this very operation that takes the place


async def progress(connection: Connection, job_id: str) -> BatchProgress:
    """How far a batch operation has come. Raises `Unavailable` where Temporal can't be reached or used."""
    from temporalio.api.enums.v1 import BatchOperationState
    from temporalio.api.workflowservice.v1 import DescribeBatchOperationRequest

    request = DescribeBatchOperationRequest(namespace=connection.namespace, job_id=job_id)
    try:
        found = await connection.call(
            lambda service, timeout: service.describe_batch_operation(request, retry=True, timeout=timeout),
            workflow_id=job_id,
            what="batch operation",
        )
    except Reject:
        return BatchProgress("unknown")
    return BatchProgress(
        BatchOperationState.Name(found.state).removeprefix(_STATE).lower(),
        found.total_operation_count,
        found.complete_operation_count,
        found.failure_operation_count,
        found.close_time.ToDatetime(UTC) if found.HasField("close_time") else None,
    )


async def _request(
    connection: Connection,
    job_id: str,
    query: str,
    operation: Operation,
    signal: str,
    args: Sequence[Any],
    reason: str,
) -> StartBatchOperationRequest:
    from temporalio.api.batch.v1 import BatchOperationCancellation, BatchOperationSignal, BatchOperationTermination
    from temporalio.api.workflowservice.v1 import StartBatchOperationRequest

    client = await connection.client()
    request = StartBatchOperationRequest(
        namespace=connection.namespace, visibility_query=_sendable(query), job_id=job_id, reason=reason
    )
    match operation:
        case "signal":
            request.signal_operation.CopyFrom(BatchOperationSignal(signal=signal, identity=client.identity))
            if args:
                request.signal_operation.input.payloads.extend(await client.data_converter.encode(args))
        case "cancel":
            request.cancellation_operation.CopyFrom(BatchOperationCancellation(identity=client.identity))
        case "terminate":
            request.termination_operation.CopyFrom(BatchOperationTermination(identity=client.identity))
    return request


def _sendable(query: str) -> str:
    """The query. Raises `Reject` for a lone surrogate, which is no text that can be sent."""
    try:
        query.encode()
    except UnicodeEncodeError as error:
        raise Reject(f"the query can't be encoded: {error}", kind="invalid_argument") from error
    return query
