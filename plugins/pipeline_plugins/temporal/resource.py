"""The resource ``temporal``: what handlers use to reach workflows."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel

from pipeline import Resource, Unavailable
from pipeline_plugins.temporal import batches, inspection
from pipeline_plugins.temporal.connection import Connection, require_temporalio
from pipeline_plugins.temporal.embedded import EmbeddedServer, find_program, shown_program
from pipeline_plugins.temporal.errors import DEPENDENCY
from pipeline_plugins.temporal.options import TemporalOptions

if TYPE_CHECKING:
    from temporalio.client import Client

    from pipeline_plugins.temporal.batches import BatchProgress, Operation
    from pipeline_plugins.temporal.inspection import Answer, Signalled
    from pipeline_plugins.temporal.sample.worker import Sample

__all__ = ["TemporalResource"]

_log = logging.getLogger("pipeline.temporal")


class TemporalResource(Resource[TemporalOptions]):
    """A Temporal client that connects when it is first needed; with no address, to an embedded dev server."""

    name = "temporal"
    Options: ClassVar[type[BaseModel]] = TemporalOptions
    environment: ClassVar[Mapping[str, str]] = {
        "address": "TEMPORAL_HOST",
        "namespace": "TEMPORAL_NAMESPACE",
        "api_key": "TEMPORAL_API_KEY",
    }

    def __init__(self, options: TemporalOptions) -> None:
        super().__init__(options)
        self._server = EmbeddedServer(options) if options.address is None else None
        self._connection: Connection | None = None
        self._sample: Sample | None = None

    async def start(self) -> None:
        """Check what is needed, and start the embedded server where no address is given.

        Raises:
            UserError: A package, program or TLS file is missing, or the embedded server does not start.
        """
        if self._server is None:
            self._connected()
            if self.options.sample:
                _log.info("sample: only the embedded Temporal runs it; nothing is started at %s", self.options.address)
            return
        require_temporalio("embedded")
        await self._server.start()
        _log.info("%s", self.describe())
        if self.options.sample and self._server.owned:
            from pipeline_plugins.temporal.sample.worker import Sample

            self._sample = Sample(await self.client())
            await self._sample.start()

    async def stop(self) -> None:
        """Let calls in flight end, then stop the sample and the embedded server."""
        if self._connection is not None:
            await self._connection.close()
        if self._sample is not None:
            await self._sample.stop()
            self._sample = None
        if self._server is not None:
            await self._server.stop()

    async def client(self) -> Client:
        """The temporalio client, connected. Raises `Unavailable` where Temporal can't be reached within the timeout."""
        return await self._connected().client()

    async def signal(
        self, workflow_id: str, signal: str, *, request_id: str, args: Sequence[Any] = (), run_id: str | None = None
    ) -> None:
        """Signal a workflow, once per run and `request_id` however often this is called.

        Raises:
            Reject: ``workflow_not_found``, ``workflow_completed`` or ``invalid_argument``.
            Unavailable: Temporal can't be reached or used.
        """
        await self._connected().signal(workflow_id, signal, request_id=request_id, args=args, run_id=run_id)

    async def query(
        self, workflow_id: str, name: str, *, run_id: str | None = None, args: Sequence[Any] = ()
    ) -> Answer:
        """What a workflow answers to a query, or why it does not. Raises `Unavailable`, where Temporal itself is."""
        return await inspection.query(self._connected(), workflow_id, name, run_id=run_id, args=args)

    async def status(self, workflow_id: str, *, run_id: str | None = None) -> Answer:
        """A workflow's status (``RUNNING``, ``CANCELED``, …), or why there is none. Raises `Unavailable`."""
        return await inspection.status(self._connected(), workflow_id, run_id=run_id)

    async def signals_after(
        self, workflow_id: str, request_id: str, *, run_id: str | None = None
    ) -> Sequence[Signalled]:
        """The signals that it got after that of a request, as far as its history tells. Raises `Unavailable`."""
        return await inspection.signals_after(self._connected(), workflow_id, request_id, run_id=run_id)

    async def count(self, query: str) -> int:
        """How many workflows a visibility query matches.

        Raises:
            Reject: ``invalid_argument``: it is no query of this namespace.
            Unavailable: Temporal can't be reached or used.
        """
        return await batches.count(self._connected(), query)

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
        """Have Temporal signal, cancel or terminate whatever a visibility query matches, once per `job_id`.

        Raises:
            Reject: ``invalid_argument``: it is no query of this namespace.
            Unavailable: Temporal can't be reached or used, or has as many batch operations as it may.
        """
        await batches.start(self._connected(), job_id, query, operation, signal=signal, args=args, reason=reason)

    async def batch(self, job_id: str) -> BatchProgress:
        """How far a batch operation has come. Raises `Unavailable`."""
        return await batches.progress(self._connected(), job_id)

    async def probe(self) -> None:
        """Return when Temporal answers and has the namespace; else raise `Unavailable`, or a `UserError`.

        An embedded server that is not started is not started for this: where no other process runs it, that it could
        be started is what is checked.
        """
        if self._server is not None and not self._server.port:
            require_temporalio("embedded")
            find_program()
            if not self._server.find():
                return
        await self._connected().probe()

    def describe(self) -> str:
        """The address and namespace, and where the embedded server keeps its state."""
        if self._server is None:
            return f"Temporal at {self.options.address}, namespace {self.options.namespace}"
        place = f" at {self._server.address}" if self._server.port else ""
        ui = f", web UI at http://127.0.0.1:{self.options.ui_port}" if self.options.ui_port else ""
        return f"Temporal{place}, namespace {self.options.namespace} (embedded, {self.options.database}){ui}"

    def hints(self) -> Sequence[str]:
        """The command that shows what the sample workflow was told."""
        if self._sample is None or self._server is None:
            return ()
        options = ["--address", self._server.address, "--namespace", self.options.namespace]
        return [
            shlex.join([shown_program(), "workflow", "show", "--workflow-id", *self._sample.workflow_ids, *options])
        ]

    def examples(self) -> Mapping[str, Any]:
        """The sample workflow's id, where it runs."""
        return {} if self._sample is None else {"workflow_id": self._sample.workflow_ids[0]}

    def _connected(self) -> Connection:
        """The connection; none while our own server is down, for a stranger's may have taken its port."""
        if self._server is not None and not self._server.ready:
            raise Unavailable(DEPENDENCY, "the embedded server is not running")
        if self._connection is None:
            address = str(self.options.address) if self._server is None else self._server.address
            self._connection = Connection(address, self.options)
        return self._connection
