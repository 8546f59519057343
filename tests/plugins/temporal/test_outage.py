"""What an outage looks like: always Unavailable, never endless, and over as soon as the server is back."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client

from pipeline import Unavailable
from pipeline.errors import UserError
from pipeline_plugins.temporal import TemporalResource
from pipeline_plugins.temporal.options import TemporalOptions
from tests.handlers.eventually import eventually
from tests.plugins.temporal.support import goes_through, is_silent
from tests.services import Temporal, start_temporal

PATIENCE = 60.0  # seconds after which an outage that does not show never will


def start_durable_temporal(folder: Path) -> Temporal:
    return start_temporal(folder, durable=True)


@pytest.fixture
def server(own_server: Callable[..., Temporal]) -> Temporal:
    return own_server(start_durable_temporal)


@asynccontextmanager
async def connected(address: str, **options: Any) -> AsyncIterator[TemporalResource]:
    resource = TemporalResource(TemporalOptions.model_validate({"address": address, **options}))
    await resource.start()
    try:
        yield resource
    finally:
        await resource.stop()


async def begin(address: str, workflow_id: str) -> None:
    client = await Client.connect(address)
    await client.start_workflow("Untended", id=workflow_id, task_queue="nobody")


async def unavailable(call: Callable[[], Awaitable[None]]) -> Unavailable:
    """The outage that the call reports."""
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(Unavailable) as caught:
            await call()
    assert caught.value.dependency == "temporal"
    return caught.value


async def hang(server: Temporal) -> None:
    """Stop the server's process, and wait until that has come about: it takes effect thread by thread."""
    server.pause()
    async with connected(server.address, timeout="300ms") as witness:
        await eventually(lambda: is_silent(witness))


@contextmanager
def a_port_that_never_answers() -> Iterator[str]:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        yield f"127.0.0.1:{silent.getsockname()[1]}"


async def test_a_killed_server_is_unavailable_and_works_again_after_its_restart(server: Temporal) -> None:
    await begin(server.address, "w")
    async with connected(server.address) as resource:
        await resource.signal("w", "pause", request_id="1")
        await asyncio.to_thread(server.kill)
        await unavailable(lambda: resource.signal("w", "pause", request_id="2"))
        await unavailable(resource.probe)
        await asyncio.to_thread(server.restart)
        await eventually(lambda: goes_through(resource, "w", "2"))
        await resource.probe()


async def test_a_hung_server_is_unavailable_and_works_again_when_it_goes_on(server: Temporal) -> None:
    await begin(server.address, "w")
    async with connected(server.address, timeout="1s") as resource:
        await resource.signal("w", "pause", request_id="1")
        try:
            await hang(server)
            await unavailable(lambda: resource.signal("w", "pause", request_id="2"))
            await unavailable(resource.probe)
        finally:
            server.resume()
        await eventually(lambda: goes_through(resource, "w", "2"))


async def test_a_server_that_is_down_at_first_is_found_once_it_is_up(server: Temporal) -> None:
    await asyncio.to_thread(server.stop)
    async with connected(server.address) as resource:
        outage = await unavailable(resource.probe)
        assert outage.reason == f"can't connect to {server.address}: Connection refused"
        await asyncio.to_thread(server.restart)
        await resource.probe()


async def test_a_hundred_callers_share_one_failed_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    connects = 0
    connect = Client.connect

    async def counted(*args: Any, **kwargs: Any) -> Client:
        nonlocal connects
        connects += 1
        return await connect(*args, **kwargs)

    monkeypatch.setattr(Client, "connect", counted)
    with a_port_that_never_answers() as address:
        async with connected(address, timeout="500ms") as resource:
            found = await asyncio.gather(
                *(resource.signal("w", "pause", request_id=str(n)) for n in range(100)), return_exceptions=True
            )
    assert connects == 1
    assert all(isinstance(error, Unavailable) for error in found)
    assert "does not answer within 0.5 s" in str(found[0])


async def test_a_cancelled_caller_leaves_the_connect_to_the_others() -> None:
    with a_port_that_never_answers() as address:
        async with connected(address, timeout="500ms") as resource:
            first = asyncio.create_task(resource.probe())
            second = asyncio.create_task(resource.probe())
            await asyncio.sleep(0)
            first.cancel()
            with pytest.raises(Unavailable):
                await second


async def test_an_unknown_host_is_unavailable() -> None:
    async with connected("nowhere.invalid:7233") as resource:
        await unavailable(resource.probe)


async def test_tls_to_a_server_without_it_is_unavailable(temporal_address: str) -> None:
    async with connected(temporal_address, tls=True) as resource:
        await unavailable(resource.probe)


async def test_a_wrong_namespace_kills_no_event_and_the_probe_says_what_to_do(temporal_address: str) -> None:
    async with connected(temporal_address, namespace="nons") as resource:
        outage = await unavailable(lambda: resource.signal("w", "pause", request_id="1"))
        assert "no namespace 'nons'" in outage.reason
        with pytest.raises(UserError, match="no namespace 'nons': create it, or mend namespace"):
            await resource.probe()


async def test_stopping_waits_for_the_calls_in_flight(server: Temporal) -> None:
    await begin(server.address, "w")
    resource = TemporalResource(TemporalOptions(address=server.address))
    await resource.start()
    await resource.client()
    await hang(server)
    abandoned = asyncio.create_task(resource.signal("w", "pause", request_id="1"))
    await asyncio.sleep(0.05)
    abandoned.cancel()
    await asyncio.wait([abandoned])
    stopping = asyncio.create_task(resource.stop())
    await asyncio.sleep(0.05)
    assert not stopping.done()
    server.resume()
    await stopping
    history = await (await Client.connect(server.address)).get_workflow_handle("w").fetch_history()
    assert sum(event.HasField("workflow_execution_signaled_event_attributes") for event in history.events) == 1
