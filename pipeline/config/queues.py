"""Queues: which there are, what holds for each, and which stages leave jobs on them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel

from pipeline.config.catalog import Catalog
from pipeline.config.models import JobsTable, QueueTable, StageTable
from pipeline.config.options import merged
from pipeline.config.positions import Path
from pipeline.config.problems import Problems, dotted, near
from pipeline.jobs.contract import INLINE

__all__ = [
    "check_async",
    "check_queues",
    "effective_queues",
    "queues_of_events",
    "queues_of_handlers",
    "queues_of_stages",
]


def queues_of_handlers(
    stages: Mapping[str, StageTable], options: Mapping[str, BaseModel], catalog: Catalog, problems: Problems
) -> dict[str, tuple[str, ...]]:
    """By stage the names of the queues on which its handler leaves jobs of its own."""
    return {
        name: _of_handler(stage.use, options[name], catalog, problems, ("stage", name))
        for name, stage in stages.items()
        if name in options
    }


def queues_of_stages(
    stages: Mapping[str, StageTable], of_handlers: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """By stage the names of the queues that it leaves jobs on; only of those stages that leave any."""
    found: dict[str, tuple[str, ...]] = {}
    for name, stage in stages.items():
        queues: tuple[str, ...] = (stage.async_queue,) if stage.async_queue else ()
        queues += of_handlers.get(name, ())
        if queues:
            found[name] = tuple(dict.fromkeys(queues))
    return found


def queues_of_events(stages: Mapping[str, StageTable], of_handlers: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
    """The queues that hold nothing but events of async stages: each is tried as its stage's policy says."""
    own = {INLINE, *(queue for queues in of_handlers.values() for queue in queues)}
    return frozenset(stage.async_queue for stage in stages.values() if stage.async_queue) - own


def check_async(stages: Mapping[str, StageTable], problems: Problems) -> None:
    """Warn of async stages that say how many events they handle at once: on a worker that is the queue's say."""
    for name, stage in stages.items():
        given = stage.policy.get("concurrency")
        path: Path = ("stage", name, "policy", "concurrency")
        if isinstance(given, dict):
            given, path = given.get("limit"), (*path, "limit")
        if stage.async_queue and given is not None:
            table = ("jobs",) if stage.async_queue == INLINE else ("jobs", "queue", stage.async_queue)
            problems.warn(path, f"an async stage does not keep to it: write 'concurrency' in [{dotted(table)}]")


def effective_queues(jobs: JobsTable, used: Mapping[str, tuple[str, ...]]) -> dict[str, QueueTable]:
    """Every queue: those of the file in its order, then those that stages use besides.

    What a queue's own table leaves out, also within ``retry``, is as in ``[jobs]``.
    """
    common = {name: getattr(jobs, name) for name in QueueTable.model_fields}
    common["retry"] = jobs.retry.model_dump()
    names = dict.fromkeys([*jobs.queue, *(name for queues in used.values() for name in queues)])
    own = {name: table.model_dump(exclude_unset=True) for name, table in jobs.queue.items()}
    return {name: QueueTable.model_validate(merged(common, own.get(name, {}))) for name in names}


def check_queues(
    jobs: JobsTable, used: Mapping[str, tuple[str, ...]], of_events: Collection[str], problems: Problems
) -> None:
    """Complain of a table for the inline queue; warn of what has no effect.

    That is a table of a queue that nothing uses, as its name is probably misspelled, and a ``retry`` for jobs that are
    tried as their stages say.
    """
    known = {name for queues in used.values() for name in queues}
    for name in jobs.queue:
        path: Path = ("jobs", "queue", name)
        if name == INLINE:
            problems.add(path, f"{INLINE!r} is the runner's own queue, which is as [jobs] says: name another")
        elif not name.strip():
            problems.add(path, "a queue needs a name")
        elif name not in known:
            problems.warn(path, f"no stage uses this queue{near(name, known)}")
        elif name in of_events and "retry" in jobs.queue[name].model_fields_set:
            problems.warn(
                (*path, "retry"),
                "it has no effect: this queue has only events of async stages, "
                "tried as the 'retry' of their 'policy' says",
            )


def _of_handler(use: str, options: BaseModel, catalog: Catalog, problems: Problems, path: Path) -> tuple[str, ...]:
    try:
        found: Any = catalog.handlers[use].queues(options)
    except Exception as error:  # noqa: BLE001 - a plugin's method may raise anything; the user needs the plugin's name
        problems.add(path, f"the queues of handler {use!r} could not be told: {type(error).__name__}: {error}")
        return ()
    if not isinstance(found, list | tuple) or not all(isinstance(name, str) and name.strip() for name in found):
        problems.add(path, f"the handler {use!r} returned {found!r} for its queues: it must return their names")
        return ()
    return tuple(found)
