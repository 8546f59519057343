"""What Temporal's answers mean for an event: which instruction each error becomes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pipeline import PipelineError, Reject, Unavailable

if TYPE_CHECKING:
    from temporalio.service import RPCError

__all__ = ["BATCHES", "DEPENDENCY", "instruction", "plain"]

DEPENDENCY = "temporal"
"""What `Unavailable.dependency` says."""

BATCHES = "temporal batch operations"
"""What it says where Temporal itself is well, but runs as many batch operations in the namespace as it may."""

_QUOTED = re.compile(r'(?:message|error): "([^"]+)"')


def plain(error: BaseException) -> str:
    """The sentence inside an error of the client's native core, which wraps it in several layers of debug output."""
    found = _QUOTED.search(str(error))
    return found.group(1) if found else str(error) or type(error).__name__


def instruction(error: RPCError, workflow_id: str, namespace: str, what: str = "signal") -> PipelineError | None:
    """The instruction that an RPC's error stands for; None for one that says nothing certain.

    Args:
        error: The error.
        workflow_id: The workflow that it is about.
        namespace: The namespace.
        what: What was asked for, as messages call it.

    Permanent are only errors that this event itself causes. A wrong namespace or key fails every event alike: that is
    a fault of the configuration, so events wait until it is mended.
    """
    from temporalio.service import RPCStatusCode as Code

    known: PipelineError | None = None
    match error.status:
        case Code.NOT_FOUND:
            known = _not_found(error, workflow_id, namespace)
        case Code.INVALID_ARGUMENT:
            known = Reject(f"Temporal refuses the {what}: {error.message}", kind="invalid_argument")
        case Code.RESOURCE_EXHAUSTED if "larger than max" in error.message:  # gRPC's own limit, for this message only
            known = Reject(f"the {what} is too large: {error.message}", kind="invalid_argument")
        case Code.RESOURCE_EXHAUSTED if "concurrent batch operations" in error.message:
            known = Unavailable(BATCHES, "the namespace has as many as it may: others must end first")
        case Code.PERMISSION_DENIED | Code.UNAUTHENTICATED:
            reason = f"access refused ({error.message}): mend api_key or tls in [resource.temporal]"
            known = Unavailable(DEPENDENCY, reason)
        case Code.UNIMPLEMENTED:
            known = Unavailable(DEPENDENCY, "what answers there is no Temporal frontend: mend address")
        case Code.UNAVAILABLE | Code.DEADLINE_EXCEEDED | Code.CANCELLED | Code.RESOURCE_EXHAUSTED:
            known = Unavailable(DEPENDENCY, plain(error))
    return known


def _not_found(error: RPCError, workflow_id: str, namespace: str) -> PipelineError:
    """Namespace, finished workflow and unknown workflow share a status; the last two differ in their text only."""
    if any(detail.type_url.endswith("NamespaceNotFoundFailure") for detail in error.grpc_status.details):
        return Unavailable(
            DEPENDENCY, f"there is no namespace {namespace!r}: create it, or mend namespace in [resource.temporal]"
        )
    if "already completed" in error.message:
        return Reject(f"workflow {workflow_id!r} has already completed", kind="workflow_completed")
    return Reject(f"there is no workflow {workflow_id!r} in namespace {namespace!r}", kind="workflow_not_found")
