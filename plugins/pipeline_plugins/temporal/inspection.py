"""Looking at workflows: what one answers to a query, the status that the server gives it, what it was told since."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pipeline import Reject

if TYPE_CHECKING:
    from temporalio.api.common.v1 import WorkflowExecution
    from temporalio.service import RPCError, WorkflowService

    from pipeline_plugins.temporal.connection import Connection

__all__ = ["Answer", "Signalled", "query", "signals_after", "status"]

_STATUS = "WORKFLOW_EXECUTION_STATUS_"
_NO_ID = "no workflow can have this id"
_PAGE = 250
_PAGES = 4
"""So many of the latest events of a history are read."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was seen of a workflow.

    Attributes:
        value: What it answered, or its status (``RUNNING``, ``CANCELED``, …); None where there is no answer.
        reason: Why there is no answer; empty where there is one.
        at: Since when this holds, where the server knows (aware, UTC).
    """

    value: Any = None
    reason: str = ""
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Signalled:
    """A signal in a workflow's history.

    Attributes:
        signal: Its name.
        at: When the server took it (aware, UTC).
    """

    signal: str
    at: datetime


async def query(
    connection: Connection, workflow_id: str, name: str, *, run_id: str | None = None, args: Sequence[Any] = ()
) -> Answer:
    """What a workflow answers to a query; that its worker gives no answer is no error.

    Raises:
        Unavailable: Temporal itself can't be reached or used.
    """
    from temporalio.api.query.v1 import WorkflowQuery
    from temporalio.api.workflowservice.v1 import QueryWorkflowRequest, QueryWorkflowResponse
    from temporalio.service import RPCError

    client = await connection.client()
    execution = _execution(workflow_id, run_id)
    if execution is None:
        return Answer(reason=_NO_ID)
    request = QueryWorkflowRequest(
        namespace=connection.namespace, execution=execution, query=WorkflowQuery(query_type=name)
    )
    if args:
        request.query.query_args.payloads.extend(await client.data_converter.encode(args))

    async def ask(service: WorkflowService, timeout: timedelta) -> QueryWorkflowResponse | str:
        try:
            return await service.query_workflow(request, timeout=timeout)
        except RPCError as error:
            if not _is_the_workers(error):
                raise
            await connection.raise_if_down(error)  # a server that is away is silent, too
            return f"no worker answers the query {name!r}: there is none, or its workflow tasks fail"

    try:
        response = await connection.call(ask, workflow_id=workflow_id, what="query")
    except (Reject, RPCError) as error:
        return Answer(reason=str(error))
    if isinstance(response, str):
        return Answer(reason=response)
    if response.HasField("query_rejected"):
        return Answer(reason=f"the workflow is {_status_name(response.query_rejected.status)}, and answers no query")
    try:
        values = await client.data_converter.decode(response.query_result.payloads)
    except Exception as error:  # noqa: BLE001 - a converter may raise anything; it is this workflow's answer only
        return Answer(reason=f"its answer to the query {name!r} can't be read: {error}")
    return Answer(values[0] if values else None)


async def status(connection: Connection, workflow_id: str, *, run_id: str | None = None) -> Answer:
    """A workflow's status, by the names that Temporal's API has for them, without their common prefix.

    This is the raw call, since the client's own `describe` fails for a status that it does not know.

    Raises:
        Unavailable: Temporal can't be reached or used.
    """
    from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionRequest
    from temporalio.service import RPCError

    execution = _execution(workflow_id, run_id)
    if execution is None:
        return Answer(reason=_NO_ID)
    request = DescribeWorkflowExecutionRequest(namespace=connection.namespace, execution=execution)
    try:
        response = await connection.call(
            lambda service, timeout: service.describe_workflow_execution(request, retry=True, timeout=timeout),
            workflow_id=workflow_id,
            what="question",
        )
    except (Reject, RPCError) as error:
        return Answer(reason=str(error))
    info, pause = response.workflow_execution_info, response.workflow_extended_info.pause_info
    at = info.close_time if info.HasField("close_time") else pause.paused_time
    return Answer(_status_name(info.status), at=at.ToDatetime(UTC) if at.ByteSize() else None)


async def signals_after(
    connection: Connection, workflow_id: str, request_id: str, *, run_id: str | None = None
) -> Sequence[Signalled]:
    """The signals that a workflow got after that of a request, in their order.

    None where its history does not tell: because of its length, or of an older server, which notes no request ids.

    Raises:
        Unavailable: Temporal can't be reached or used.
    """
    from temporalio.api.workflowservice.v1 import GetWorkflowExecutionHistoryReverseRequest
    from temporalio.service import RPCError

    execution = _execution(workflow_id, run_id)
    if execution is None:
        return ()
    found: list[Signalled] = []
    request = GetWorkflowExecutionHistoryReverseRequest(
        namespace=connection.namespace, execution=execution, maximum_page_size=_PAGE
    )
    for _ in range(_PAGES):
        try:
            page = await connection.call(
                lambda service, timeout: service.get_workflow_execution_history_reverse(
                    request, retry=True, timeout=timeout
                ),
                workflow_id=workflow_id,
                what="question",
            )
        except (Reject, RPCError):
            return ()
        for event in page.history.events:
            if event.HasField("workflow_execution_signaled_event_attributes"):
                signal = event.workflow_execution_signaled_event_attributes
                if signal.request_id == request_id:
                    return found[::-1]
                found.append(Signalled(signal.signal_name, event.event_time.ToDatetime(UTC)))
        request.next_page_token = page.next_page_token
        if not page.next_page_token:
            break
    return ()


def _status_name(status: int) -> str:
    from temporalio.api.enums.v1 import WorkflowExecutionStatus

    return WorkflowExecutionStatus.Name(status).removeprefix(_STATUS)  # type: ignore[arg-type]


def _execution(workflow_id: str, run_id: str | None) -> WorkflowExecution | None:
    """The workflow; None for a text that can't be sent, such as a lone surrogate."""
    from temporalio.api.common.v1 import WorkflowExecution

    try:
        return WorkflowExecution(workflow_id=workflow_id, run_id=run_id or "")
    except ValueError:
        return None


def _is_the_workers(error: RPCError) -> bool:
    """Whether an error is how a query ends for which there is no worker."""
    from temporalio.service import RPCStatusCode as Code

    return error.status in (Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.FAILED_PRECONDITION)
