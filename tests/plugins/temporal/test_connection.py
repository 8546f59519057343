"""Answers that say nothing certain: the probe decides whether they are an outage."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.service import RPCError, RPCStatusCode

from pipeline import Unavailable
from pipeline_plugins.temporal.connection import Connection
from pipeline_plugins.temporal.options import TemporalOptions


class Service:
    """A workflow service that answers each signal with UNKNOWN, and the probe as it is told."""

    def __init__(self, probe: RPCError | None) -> None:
        self.probe = probe

    async def signal_workflow_execution(self, request: Any, **options: Any) -> None:
        raise RPCError("h2 protocol error", RPCStatusCode.UNKNOWN, b"")

    async def describe_namespace(self, request: Any, **options: Any) -> None:
        if self.probe is not None:
            raise self.probe


class Client:
    identity = "test"

    def __init__(self, probe: RPCError | None) -> None:
        self.workflow_service = Service(probe)


def connection(probe: RPCError | None) -> Connection:
    made = Connection("a:1", TemporalOptions())
    made._client = Client(probe)  # type: ignore[assignment]
    return made


async def test_an_unclear_error_of_a_server_that_answers_is_raised_as_it_is() -> None:
    with pytest.raises(RPCError, match="h2 protocol error"):
        await connection(None).signal("w", "pause", request_id="1")


async def test_an_unclear_error_of_a_server_that_is_silent_is_an_outage() -> None:
    silent = RPCError("tcp connect error", RPCStatusCode.UNAVAILABLE, b"")
    with pytest.raises(Unavailable):
        await connection(silent).signal("w", "pause", request_id="1")


async def test_a_key_that_may_signal_but_not_describe_the_namespace_passes_the_probe() -> None:
    await connection(RPCError("no", RPCStatusCode.PERMISSION_DENIED, b"")).probe()
