"""One client of a Temporal frontend: connected when it is first needed, and bounded in time whatever happens."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline import Reject, Unavailable
from pipeline.errors import UserError
from pipeline_plugins.temporal.errors import DEPENDENCY, instruction, plain

if TYPE_CHECKING:
    from temporalio.api.workflowservice.v1 import SignalWorkflowExecutionRequest
    from temporalio.client import Client, TLSConfig
    from temporalio.service import RPCError, WorkflowService

    from pipeline_plugins.temporal.options import TemporalOptions, TlsOptions

__all__ = ["Connection"]

ResultT = TypeVar("ResultT")

_CONNECT_PAUSES = (0.1, 0.3, 0.6)  # seconds between the tries of one connect; the engine's own backoff follows
# Milliseconds between pings, and until one must be answered: by default a dead connection is used for 45 s.
_KEEP_ALIVE = (10_000, 5_000)
_RPC_RETRIES = 4  # the client's core writes a line to stderr for each further one


class Connection:
    """The client, the calls made through it, and a probe.

    Args:
        address: The frontend's ``host:port``.
        options: The namespace, credentials, and the time that one call may take.

    Raises:
        UserError: temporalio is not installed, or a TLS file can't be read.
    """

    def __init__(self, address: str, options: TemporalOptions) -> None:
        require_temporalio()
        self.address = address
        self.namespace = options.namespace
        self._api_key = options.api_key.get_secret_value() if options.api_key else None
        self._tls = options.tls if options.tls is None or isinstance(options.tls, bool) else _tls(options.tls)
        self._timeout = options.timeout
        self._client: Client | None = None
        self._connecting: asyncio.Task[Client] | None = None
        self._calls: set[asyncio.Task[Any]] = set()

    async def client(self) -> Client:
        """The connected client; callers that come while it connects share the one attempt.

        Raises:
            Unavailable: No connection within the timeout.
        """
        if self._client is not None:
            return self._client
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(_retrieve)
        return await asyncio.shield(self._connecting)

    async def signal(
        self, workflow_id: str, signal: str, *, request_id: str, args: Sequence[Any] = (), run_id: str | None = None
    ) -> None:
        """Signal a workflow; the server applies one `request_id` once per run, however often it comes.

        This is the raw call, since the client's own `signal` makes a new request id each time.

        Raises:
            Reject: There is no such workflow, it has completed, or the signal can't be sent as it is.
            Unavailable: Temporal can't be reached or used; within about twice the timeout.
            temporalio.service.RPCError: Anything else that it answers.
        """
        client = await self.client()
        request = self._request(client, workflow_id, run_id, signal, request_id)
        if args:
            request.input.payloads.extend(await client.data_converter.encode(args))
        await self.call(
            lambda service, timeout: service.signal_workflow_execution(request, retry=True, timeout=timeout),
            workflow_id=workflow_id,
        )

    async def call(
        self,
        make: Callable[[WorkflowService, timedelta], Awaitable[ResultT]],
        *,
        workflow_id: str = "",
        what: str = "signal",
    ) -> ResultT:
        """Make a raw call. Once sent, it is not abandoned when the caller is cancelled: `close` waits for it.

        Args:
            make: Makes the call, given the service and how long it may take.
            workflow_id: The workflow that it is about, for messages.
            what: What is asked for, for messages.

        Raises:
            Reject: What is asked for can't be had, now or later: see `instruction`.
            Unavailable: Temporal can't be reached or used.
            temporalio.service.RPCError: Anything else that it answers.
        """
        client = await self.client()
        call = asyncio.create_task(self._call(client, make, workflow_id, what))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        call.add_done_callback(_retrieve)
        return await asyncio.shield(call)

    async def probe(self) -> None:
        """Return when the frontend answers and has the namespace.

        Raises:
            Unavailable: It does not answer.
            UserError: It refuses us, or has no such namespace; says what to do.
        """
        from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
        from temporalio.service import RPCError, RPCStatusCode

        client = await self.client()
        request = DescribeNamespaceRequest(namespace=self.namespace)
        try:
            await client.workflow_service.describe_namespace(request, timeout=timedelta(seconds=self._timeout))
        except RPCError as error:
            if error.status == RPCStatusCode.PERMISSION_DENIED:  # a key that may signal, but not describe, will do
                return
            raise self._probe_error(error) from error

    async def close(self) -> None:
        """Let calls in flight end (each is bounded in time), and drop the client."""
        if self._connecting is not None and not self._connecting.done():
            self._connecting.cancel()
        if self._calls:
            await asyncio.wait(self._calls)
        self._client = None

    async def _connect(self) -> Client:
        from temporalio.client import Client
        from temporalio.service import KeepAliveConfig, RetryConfig

        try:
            async with asyncio.timeout(self._timeout):
                for pause in (*_CONNECT_PAUSES, None):
                    try:
                        self._client = await Client.connect(
                            self.address,
                            namespace=self.namespace,
                            api_key=self._api_key,
                            tls=self._tls,
                            retry_config=RetryConfig(max_retries=_RPC_RETRIES),
                            keep_alive_config=KeepAliveConfig(*_KEEP_ALIVE),
                            identity=f"pipeline-runner@{socket.gethostname()}:{os.getpid()}",
                        )
                    except RuntimeError as error:  # what the client raises when it can't connect, whatever the cause
                        if pause is None:
                            raise Unavailable(DEPENDENCY, f"can't connect to {self.address}: {plain(error)}") from error
                        await asyncio.sleep(pause)
                    else:
                        return self._client
        except TimeoutError:
            pass
        raise Unavailable(DEPENDENCY, f"{self.address} does not answer within {self._timeout:g} s")

    def _request(
        self, client: Client, workflow_id: str, run_id: str | None, signal: str, request_id: str
    ) -> SignalWorkflowExecutionRequest:
        from temporalio.api.common.v1 import WorkflowExecution
        from temporalio.api.workflowservice.v1 import SignalWorkflowExecutionRequest

        try:
            return SignalWorkflowExecutionRequest(
                namespace=self.namespace,
                workflow_execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id or ""),
                signal_name=signal,
                identity=client.identity,
                request_id=request_id,
            )
        except ValueError as error:  # a lone surrogate is no text that can be sent
            raise Reject(f"the signal can't be encoded: {error}", kind="invalid_argument") from error

    async def _call(
        self,
        client: Client,
        make: Callable[[WorkflowService, timedelta], Awaitable[ResultT]],
        workflow_id: str,
        what: str,
    ) -> ResultT:
        from temporalio.service import RPCError

        try:
            return await make(client.workflow_service, timedelta(seconds=self._timeout))
        except RPCError as error:
            known = instruction(error, workflow_id, self.namespace, what)
            if known is not None:
                raise known from error
            await self.raise_if_down(error)
            raise

    async def raise_if_down(self, cause: RPCError) -> None:
        """Raise `Unavailable` where the server is silent: a broken connection also shows as UNKNOWN or INTERNAL."""
        try:
            await self.probe()
        except (Unavailable, UserError) as error:
            raise Unavailable(DEPENDENCY, str(error)) from cause

    def _probe_error(self, error: RPCError) -> Exception:
        known = instruction(error, "", self.namespace)
        if isinstance(known, Unavailable):
            from temporalio.service import RPCStatusCode as Code

            mendable = (Code.NOT_FOUND, Code.UNAUTHENTICATED, Code.UNIMPLEMENTED)
            return UserError(f"{self.address}: {known.reason}") if error.status in mendable else known
        return Unavailable(DEPENDENCY, plain(error))


def require_temporalio(extra: str = "temporal") -> None:
    """Raise a `UserError` that names the extra to install where temporalio is missing."""
    try:
        import temporalio  # noqa: F401
    except ImportError as error:
        raise UserError(f"Temporal needs the package temporalio: pip install 'pipeline-runner[{extra}]'") from error


def _tls(options: TlsOptions) -> TLSConfig:
    from temporalio.client import TLSConfig

    def read(key: str) -> bytes | None:
        path = getattr(options, key)
        try:
            return None if path is None else path.read_bytes()
        except OSError as error:
            raise UserError(f"[resource.temporal] tls.{key}: can't read {path}: {error.strerror}") from error

    return TLSConfig(
        server_root_ca_cert=read("ca"),
        client_cert=read("cert"),
        client_private_key=read("key"),
        domain=options.server_name,
    )


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Mark a task's error as seen, where every caller that waited for it was cancelled."""
    if not task.cancelled():
        task.exception()
