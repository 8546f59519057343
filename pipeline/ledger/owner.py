"""Who owns a source: the identity of a running process, and whether it is gone."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
from pathlib import Path
from typing import Final

__all__ = ["is_gone", "owner_id"]

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE: Final = Path("/proc/self/ns/pid")


def owner_id() -> str:
    """A new identity of this process: ``host:pid:machine:start:random``.

    `machine` and `start` are empty where the system does not tell them (they come from Linux's ``/proc``).
    """
    pid = os.getpid()
    return ":".join((socket.gethostname(), str(pid), _machine(), _start_of(pid) or "", secrets.token_hex(4)))


def is_gone(owner: str) -> bool:
    """True where that process certainly runs no more: it was on this machine, and its process id is free or taken anew.

    So a runner that was killed is replaced at once on its own machine, where others wait until its lease has run out.
    """
    parts = owner.rsplit(":", 4)
    if len(parts) != 5:
        return False
    host, pid, machine, start, _ = parts
    if not machine or not start or not pid.isdecimal() or (host, machine) != (socket.gethostname(), _machine()):
        return False
    return _start_of(int(pid)) != start


def _machine() -> str:
    """This boot of this machine, and this process-id namespace: a container's 4242 is not the host's."""
    try:
        identity = _BOOT.read_text("ascii").strip() + str(_NAMESPACE.readlink())
    except OSError:
        return ""
    return hashlib.sha256(identity.encode()).hexdigest()[:12]


def _start_of(pid: int) -> str | None:
    """When the process began, in clock ticks since boot; None where there is none, or only its remains."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace")
    except OSError:
        return None
    fields = status.rpartition(")")[2].split()  # the name before it may hold anything
    return None if fields[0] in ("Z", "X") else fields[19]
