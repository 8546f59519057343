"""Server processes: each in a session of its own, known by pid and start time, so that only our own are ever ended."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.services.errors import ServiceUnavailable
from tests.services.places import DATA

STARTED_BY = "PIPELINE_TESTS_STARTED_BY"  # in the environment of each server with its data in places.DATA

_children: list[subprocess.Popen[bytes]] = []  # kept, so that Python doesn't complain of those that outlive it


@dataclass(frozen=True)
class Process:
    """One server's first process. The start time tells it from a later process with the same pid."""

    pid: int
    started: int

    def alive(self) -> bool:
        _reap()
        stat = _stat(self.pid)
        return stat is not None and stat.started == self.started and stat.state not in "ZX"

    def family(self) -> list[int]:
        """The pids of this process, its session and its descendants (PostgreSQL's have sessions of their own)."""
        stats = [stat for pid in _pids() if (stat := _stat(pid)) and stat.state not in "ZX"]
        members = {self.pid} if self.alive() else set()
        members |= {stat.pid for stat in stats if stat.session == self.pid and stat.started >= self.started}
        grew = True
        while grew:
            children = {stat.pid for stat in stats if stat.parent in members} - members
            members |= children
            grew = bool(children)
        return sorted(members)

    def signal_family(self, number: signal.Signals) -> None:
        for pid in self.family():
            send(pid, number)

    def kill(self) -> None:
        """Kill -9 the whole family, and wait until nothing is left of it."""
        family = self.family()  # the orphans of a dead process would no longer be known
        for pid in family:
            send(pid, signal.SIGKILL)
        wait_until(lambda: not any(running(pid) for pid in family), seconds=10)

    def end(self, number: signal.Signals = signal.SIGTERM, seconds: float = 20) -> None:
        """Ask it to end, wait, and kill what is left."""
        if self.alive():
            send(self.pid, number)
            send(self.pid, signal.SIGCONT)
            wait_until(lambda: not self.alive(), seconds)
        self.kill()

    def to_json(self) -> dict[str, int]:
        return asdict(self)


def spawn(
    command: Sequence[str | Path], *, env: Mapping[str, str], folder: Path, output: Path, user: int | None = None
) -> Process:
    """Start a server in a session of its own, its output in a file that is made anew."""
    mark = {STARTED_BY: _mark(os.getpid())} if folder.is_relative_to(DATA) else {}
    with output.open("wb") as file:
        try:
            child = subprocess.Popen(
                [str(word) for word in command],
                env={**env, **mark},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=user,
                group=None if user is None else _group_of(user),
                extra_groups=None if user is None else [],
            )
        except OSError as error:
            raise ServiceUnavailable(f"can't start {command[0]}: {error}") from error
    _children.append(child)
    stat = _stat(child.pid)
    return Process(child.pid, stat.started if stat else 0)


def strays(*, own: bool = False) -> list[int]:
    """Servers of this project whose starter is gone; or, with `own`, those that this very process started."""
    marks = {pid: mark for pid in _pids() if (mark := _owner(pid))}
    if own:
        return [pid for pid, mark in marks.items() if mark == _mark(os.getpid())]
    return [pid for pid, mark in marks.items() if mark != _mark(int(mark.partition(":")[0]))]


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for the condition, no longer than `seconds`; tell whether it came true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def clean_env(*prefixes: str, **extra: str) -> dict[str, str]:
    """This process's environment less the variables that would steer the server, and with `extra`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    return {**kept, "LC_ALL": "C.UTF-8", **extra}


def send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


@dataclass(frozen=True)
class _Stat:
    pid: int
    state: str
    parent: int
    session: int
    started: int


def _stat(pid: int) -> _Stat | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return _Stat(pid, state=fields[0], parent=int(fields[1]), session=int(fields[3]), started=int(fields[19]))


def _mark(owner: int) -> str:
    stat = _stat(owner)
    return f"{owner}:{stat.started if stat else 0}:{DATA}"


def _owner(pid: int) -> str | None:
    """The mark of the process that started this one, if it is a server of this project."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    marks = [entry.decode() for entry in variables if entry.startswith(f"{STARTED_BY}=".encode())]
    mark = marks[0].partition("=")[2] if marks else ""
    return mark if mark.endswith(f":{DATA}") else None


def _pids() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]


def running(pid: int) -> bool:
    """Is there such a process? A zombie is none."""
    _reap()
    stat = _stat(pid)
    return stat is not None and stat.state not in "ZX"


def _reap() -> None:
    _children[:] = [child for child in _children if child.poll() is None]


def _group_of(user: int) -> int:
    return pwd.getpwuid(user).pw_gid
