"""What `up` started, kept in `.services/state.json`, so that a later `status`, `env` or `down` finds it."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from tests.services import places, probes
from tests.services.process import Process


@dataclass(frozen=True)
class Service:
    """One service: where it came from, the variables that point to it; or why it can't be had."""

    name: str
    source: str = ""
    env: dict[str, str] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    stop_signal: int = signal.SIGTERM
    data: str = ""
    problem: str = ""

    def healthy(self) -> bool:
        return not self.problem and probes.answers(self.env)

    def end(self) -> None:
        """End its processes, and delete its data."""
        for process in self.processes:
            process.end(signal.Signals(self.stop_signal))
        if self.data:
            shutil.rmtree(self.data, ignore_errors=True)


@contextmanager
def locked() -> Iterator[None]:
    """One `up` or `down` at a time."""
    places.RECORD.mkdir(exist_ok=True)
    with (places.RECORD / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def load() -> dict[str, Service]:
    try:
        entries = json.loads((places.RECORD / "state.json").read_text())
        return {entry["name"]: _from_json(entry) for entry in entries}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError):
        return {}  # written by another version of this file: nothing in it can be trusted


def save(services: Iterable[Service]) -> None:
    text = json.dumps([asdict(service) for service in services], indent=2)
    new = places.RECORD / "state.json.new"
    new.write_text(text + "\n")
    new.replace(places.RECORD / "state.json")


def _from_json(entry: dict[str, object]) -> Service:
    processes = entry.pop("processes")
    assert isinstance(processes, list)
    return Service(**entry, processes=[Process(**process) for process in processes])  # type: ignore[arg-type]
