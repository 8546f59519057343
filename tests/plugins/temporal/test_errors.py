"""What each answer of Temporal means for an event."""

from __future__ import annotations

import pytest
from temporalio.api.common.v1 import GrpcStatus
from temporalio.api.errordetails.v1 import NamespaceNotFoundFailure
from temporalio.service import RPCError, RPCStatusCode

from pipeline import Reject, Unavailable
from pipeline_plugins.temporal.errors import instruction, plain

Code = RPCStatusCode


def answer(code: RPCStatusCode, message: str = "", *, about_namespace: bool = False) -> RPCError:
    status = GrpcStatus(code=code, message=message)
    if about_namespace:
        status.details.add().Pack(NamespaceNotFoundFailure(namespace="nons"))
    return RPCError(message, code, status.SerializeToString())


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (answer(Code.NOT_FOUND, "workflow not found for ID: x"), "workflow_not_found"),
        (answer(Code.NOT_FOUND, "workflow execution already completed"), "workflow_completed"),
        (answer(Code.INVALID_ARGUMENT, "Blob data size exceeds limit."), "invalid_argument"),
        (
            answer(Code.RESOURCE_EXHAUSTED, "grpc: received message after decompression larger than max 4194304"),
            "invalid_argument",
        ),
    ],
)
def test_what_the_event_itself_causes_is_permanent(error: RPCError, kind: str) -> None:
    found = instruction(error, "x", "default")
    assert isinstance(found, Reject)
    assert found.kind == kind


@pytest.mark.parametrize(
    "code",
    [Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED, Code.RESOURCE_EXHAUSTED],
)
def test_an_outage_is_waited_out(code: RPCStatusCode) -> None:
    found = instruction(answer(code, "busy"), "x", "default")
    assert isinstance(found, Unavailable)
    assert (found.dependency, found.reason) == ("temporal", "busy")


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (answer(Code.NOT_FOUND, "Namespace nons is not found.", about_namespace=True), "mend namespace"),
        (answer(Code.PERMISSION_DENIED, "no"), "mend api_key or tls"),
        (answer(Code.UNAUTHENTICATED, "no"), "mend api_key or tls"),
        (answer(Code.UNIMPLEMENTED, "no"), "mend address"),
    ],
)
def test_a_fault_of_the_configuration_kills_no_event_and_says_what_to_mend(error: RPCError, advice: str) -> None:
    found = instruction(error, "x", "default")
    assert isinstance(found, Unavailable)
    assert advice in found.reason


@pytest.mark.parametrize("code", [Code.UNKNOWN, Code.INTERNAL, Code.FAILED_PRECONDITION, Code.ABORTED])
def test_anything_else_says_nothing_certain(code: RPCStatusCode) -> None:
    assert instruction(answer(code), "x", "default") is None


def test_the_native_core_s_debug_output_becomes_a_sentence() -> None:
    refused = RuntimeError(
        "Failed client connect: Server connection error: tonic::transport::Error(Transport, ConnectError(ConnectError("
        '"tcp connect error", 127.0.0.1:1, Os { code: 111, kind: ConnectionRefused, message: "Connection refused" })))'
    )
    assert plain(refused) == "Connection refused"
    assert plain(RuntimeError("as it is")) == "as it is"
    assert plain(TimeoutError()) == "TimeoutError"
