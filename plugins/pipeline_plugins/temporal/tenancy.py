"""Who runs the embedded server of a database file: one living process, which others may join as guests."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.errors import UserError

__all__ = ["Record", "Tenancy"]

_END_SECONDS = 10.0
_LISTEN = "0A"  # the kernel's number of that state


@dataclass(frozen=True, slots=True)
class Record:
    """The running server, as its owner writes it down.

    Attributes:
        pid: The server's process.
        started: The process's start time in the kernel's clock ticks: tells it from a later one with the same pid.
        port: The frontend's port on the loopback interface.
    """

    pid: int
    started: int | None
    port: int

    @classmethod
    def of(cls, pid: int, port: int) -> Record:
        """The record of a process that runs now."""
        return cls(pid, _started(pid), port)

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return self.started is not None and _started(self.pid) == self.started

    @property
    def listens(self) -> bool:
        """Whether it is this very process that listens on the port, and not a stranger that was faster."""
        try:
            held = {link.readlink().name for link in Path(f"/proc/{self.pid}/fd").iterdir()}
            table = Path("/proc/net/tcp").read_text().splitlines()[1:]
        except OSError:
            return False
        for line in table:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == _LISTEN and local.endswith(f":{self.port:04X}") and f"socket:[{inode}]" in held:
                return True
        return False


class Tenancy:
    """The lock and the record beside a database file.

    The kernel lets go of the lock when its holder dies, whatever kills it: only a living process is an owner.

    Args:
        database: The database file; ``.lock`` and ``.json`` stand beside it.
    """

    def __init__(self, database: Path) -> None:
        self._lock_path = database.with_suffix(".lock")
        self._record_path = database.with_suffix(".json")
        self._lock: int | None = None

    def claim(self) -> bool:
        """Become the owner; False where another living process is.

        Raises:
            UserError: The folder can't be written to.
        """
        try:
            self._lock_path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            folder = self._lock_path.parent
            raise UserError(f"the embedded Temporal can't write to {folder}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        self._lock = lock
        return True

    def release(self) -> None:
        """Stop being the owner."""
        if self._lock is not None:
            self._record_path.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def write(self, record: Record) -> None:
        """Let guests know the server."""
        draft = self._record_path.with_suffix(".json.new")
        draft.write_text(json.dumps(asdict(record)))
        draft.replace(self._record_path)

    def read(self) -> Record | None:
        """The server that was written down, if it still runs."""
        try:
            record = Record(**json.loads(self._record_path.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return record if record.alive else None

    def evict(self) -> None:
        """End the server that an owner left behind when it was killed; the caller is the owner now."""
        orphan = self.read()
        if orphan is None:
            return
        _send(orphan.pid, signal.SIGTERM)
        deadline = time.monotonic() + _END_SECONDS
        while orphan.alive:
            if time.monotonic() > deadline:
                _send(orphan.pid, signal.SIGKILL)
            time.sleep(0.02)


def _started(pid: int) -> int | None:
    """When a process started; None where it is gone (a zombie is) or the system has no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
