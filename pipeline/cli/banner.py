"""What a runner says once it has started: its connections, its routes, and what to type next."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli.files import DEFAULT
from pipeline.cli.sample_event import publish_command
from pipeline.config.redact import redact

if TYPE_CHECKING:
    from pipeline.config.load import Loaded
    from pipeline.runner import Pipeline
    from pipeline.worker import Worker

__all__ = ["banner", "connections", "flow", "queues_line", "worker_banner"]


def banner(pipeline: Pipeline) -> Iterator[tuple[str, str]]:
    """Lines and their styles."""
    loaded = pipeline.loaded
    yield f"{loaded.config.pipeline.name} is running; Ctrl-C stops it", "bold"
    places = {name: resource.describe() for name, resource in pipeline.resources.items()}
    rows = connections(loaded, places)
    width = max(len(what) for what, _, _ in rows)
    for what, where, origin in rows:
        yield f"  {what:<{width}}  {where}  [{origin}]", ""
    if pipeline.jobs is not None and loaded.queues:
        serves = [name for name in pipeline.jobs.serves if name in loaded.queues]
        yield f"  {'queues':<{width}}  {queues_line(loaded, serves) or 'left to workers'}", ""
    for route in loaded.config.route:
        yield f"  {'route':<{width}}  {flow(route.source, route.match, route.stages, route.finally_)}", ""
    yield from ((line, "bold" if line.startswith("    ") else "") for line in _next(pipeline))


def worker_banner(worker: Worker) -> Iterator[tuple[str, str]]:
    """The same for a worker."""
    loaded = worker.loaded
    yield f"a worker of {loaded.config.pipeline.name} is running; Ctrl-C stops it", "bold"
    places = {name: resource.describe() for name, resource in worker.resources.items()}
    rows = [row for row in connections(loaded, places) if row[0] != "broker"]
    width = max(len(what) for what, _, _ in (*rows, ("queues", "", "")))
    for what, where, origin in rows:
        yield f"  {what:<{width}}  {where}  [{origin}]", ""
    serves = worker.jobs.serves if worker.jobs is not None else ()
    more = "" if worker.queues else "; and any other that jobs are left on"
    yield f"  {'queues':<{width}}  {queues_line(loaded, serves) or 'none yet'}{more}", ""


def queues_line(loaded: Loaded, names: Iterable[str]) -> str:
    """``governance:policy (100 at once), stages (10 at once)``."""
    tables = {name: loaded.queues.get(name, loaded.config.jobs) for name in names}
    return ", ".join(f"{name} ({table.concurrency} at once)" for name, table in tables.items())


def connections(loaded: Loaded, places: dict[str, str]) -> list[tuple[str, str, str]]:
    """What the pipeline connects to, where that is (without secrets), and where this was said.

    Args:
        loaded: The configuration.
        places: Resources by name, as they describe themselves.
    """
    config, origins = loaded.config, loaded.origins
    rows = [
        ("broker", redact(config.broker.url or ""), origins.get("broker.url", "default")),
        ("database", redact(config.database.url or ""), origins.get("database.url", "default")),
    ]
    if loaded.queues:
        rows.append(("jobs", redact(config.jobs.url or "in this process"), origins.get("jobs.url", "default")))
    for name, place in places.items():
        prefix = f"resource.{name}."
        said = dict.fromkeys(origin for path, origin in origins.items() if path.startswith(prefix))
        rows.append((name, place, ", ".join(origin for origin in said if origin != "default") or "default"))
    return rows


def flow(source: str, match: tuple[str, ...], stages: tuple[str, ...], finally_: tuple[str, ...]) -> str:
    """``admin: admin.workflow.* → workflow-control; finally audit``."""
    steps = " → ".join((", ".join(match), *stages))
    return f"{source}: {steps}" + (f"; finally {' → '.join(finally_)}" if finally_ else "")


def _next(pipeline: Pipeline) -> Iterator[str]:
    loaded = pipeline.loaded
    examples = {name: value for resource in pipeline.resources.values() for name, value in resource.examples().items()}
    command = publish_command(loaded, examples)
    if command:
        config = "" if loaded.path == DEFAULT else f" -c {shlex.quote(str(loaded.path))}"
        yield "Now, in another terminal:"
        yield f"    {_program()} {command}{config}"
    for resource in pipeline.resources.values():
        for hint in resource.hints():
            yield f"    {hint}"


def _program() -> str:
    """How this program is called from a shell in this folder: by its name where that finds it, else by its path."""
    own = Path(sys.argv[0])
    found = shutil.which(own.name)
    if found and own.exists() and Path(found).samefile(own):
        return own.name
    if own.name != "pipeline":  # started as a module
        return f"{shlex.quote(sys.executable)} -m pipeline"
    return shlex.quote(str(own))
