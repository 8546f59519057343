"""What all connectors to one file have in common in this process: who reads, and who is woken by a publish."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path
from typing import ClassVar
from weakref import WeakValueDictionary

from pipeline.connectors import BrokerRefused
from pipeline_plugins.wakeup import Wakeup

__all__ = ["SharedFile"]


class SharedFile:
    """One file of this process; the same object for every connector to it, as long as there is one.

    Only one process reads a file, so that two runners don't do everything twice: it holds an exclusive lock on
    ``<file>.lock``, which the system releases when the process ends, however it ends.

    Attributes:
        changed: Notified when this process has published to the file.
    """

    _files: ClassVar[WeakValueDictionary[Path, SharedFile]] = WeakValueDictionary()

    def __init__(self, path: Path) -> None:
        self.changed = Wakeup()
        self._path = path
        self._lock_path = path.with_name(f"{path.name}.lock")
        self._guard = threading.Lock()
        self._readers = 0
        self._descriptor = -1

    @classmethod
    def at(cls, path: Path) -> SharedFile:
        """The object of this file; symbolic links are followed."""
        path = path.resolve()
        return cls._files.setdefault(path, cls(path))

    def begin_reading(self) -> None:
        """Take part in this process's reading of the file. Raises `BrokerRefused` where another process reads it."""
        with self._guard:
            if self._readers == 0:
                self._descriptor = self._lock()
            elif not self._is_current(self._descriptor):  # the folder was deleted: others would lock a new file
                fresh = self._lock()
                os.close(self._descriptor)
                self._descriptor = fresh
            self._readers += 1

    def end_reading(self) -> None:
        """Take part no longer; the last one lets other processes in."""
        with self._guard:
            self._readers -= 1
            if self._readers == 0:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # at once, also where a forked child holds a copy
                os.close(self._descriptor)

    def _lock(self) -> int:
        while True:
            try:
                self._lock_path.parent.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o644)
            except OSError as error:
                raise BrokerRefused(f"{self._lock_path} can't be opened: {error.strerror}") from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not self._is_current(descriptor):
                    os.close(descriptor)  # its folder was deleted in this moment
                    continue
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            except BlockingIOError:
                holder = os.pread(descriptor, 20, 0).decode().strip()
                os.close(descriptor)
                raise BrokerRefused(
                    f"the embedded broker {self._path} is being read by process {holder or '(unknown)'}: stop it, or "
                    "give this pipeline a file of its own in [broker] url"
                ) from None
            return descriptor

    def _is_current(self, descriptor: int) -> bool:
        """Whether the lock file that is open is the one that others would open."""
        try:
            return os.path.samestat(os.fstat(descriptor), self._lock_path.stat())
        except FileNotFoundError:
            return False
