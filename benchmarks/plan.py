"""What is compared with what, on how many events, and which ratio is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["COMPARISONS", "Comparison", "Target", "Variant"]

_PACE = 200
"""Events a second, where latency is measured."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One program on one kind of server.

    Attributes:
        name: What it is called in results.
        title: What it is, for people.
        program: Module and function in `benchmarks.variants`.
        share: The part of ``--events`` that it takes: slow programs take few.
        stream: ``filled``: the one that all read; ``new``: an empty one of its own; None: none.
        database: Whether it gets a PostgreSQL database of its own; ``sqlite`` is a file that it makes itself.
        redis: Whether it gets keys of its own in Redis.
        node: Whether it is a program of Node.js.
        options: What else the program takes.
    """

    name: str
    title: str
    program: str
    share: float = 1.0
    stream: Literal["filled", "new"] | None = "filled"
    database: Literal["postgresql", "sqlite"] | None = None
    redis: bool = False
    node: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def events(self, of: int) -> int:
        """How many events it takes, the warm-up included."""
        return max(int(of * self.share), 10)


@dataclass(frozen=True, slots=True)
class Target:
    """A variant's rate must be at least so many times another's; in each round, and the median counts.

    Attributes:
        variant: The variant's name.
        peer: The other's name; of several, the fastest in each round counts.
        at_least: The ratio that is wanted; None for one that is only reported.
    """

    variant: str
    peer: str | tuple[str, ...]
    at_least: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Variants that are run in turn, and the ratios between them."""

    name: str
    title: str
    variants: tuple[Variant, ...]
    targets: tuple[Target, ...] = ()


_GOVERNANCE_SHARE = 0.1
_CONNECTIONS = 20
"""To PostgreSQL, in Bull's pool: more were no faster."""
_BULL = (50, 100, 200)
"""Bull's concurrency: how many jobs one worker runs at once; 10 were slower by a third."""


def _governance(name: str, title: str, program: str, **more: Any) -> Variant:
    """A contestant in the comparison with Bull; all take the same events, on the same servers."""
    return Variant(name, title, program, _GOVERNANCE_SHARE, database="postgresql", redis=True, **more)


def _bull(
    name: str, title: str, concurrency: int, stream: Literal["new"] | None = "new", processes: int = 1
) -> Variant:
    connections = min(concurrency, _CONNECTIONS)
    options = {"concurrency": concurrency, "connections": connections, "processes": processes}
    return _governance(name, title, "bull:run", stream=stream, node=True, options=options)


_BULL_VARIANTS = (
    *(_bull(f"bull-{number}", f"Bull, concurrency {number}", number) for number in _BULL),
    _bull("bull-two", "Bull, concurrency 100, worker in a process of its own", 100, processes=2),
)
_UNFED_VARIANTS = (
    _bull("bull-unfed", "Bull, concurrency 100, events made in memory", 100, None),
    _bull("bull-unfed-two", "Bull, the same, worker in a process of its own", 100, None, 2),
)
_BEST_BULL = tuple(variant.name for variant in _BULL_VARIANTS)
_BEST_UNFED = tuple(variant.name for variant in _UNFED_VARIANTS)
_OUR_BEST = "governance-two"
_OURS = ("governance", "governance-400", _OUR_BEST)


def _jobs(name: str, title: str, share: float, program: str = "hints:hinted", **more: Any) -> Variant:
    return Variant(name, title, program, share, stream=None, redis=True, **more)


def _isolated(name: str, title: str, program: str, share: float, **options: Any) -> Variant:
    return Variant(name, title, f"isolation:{program}", share, stream=None, database="sqlite", options=options)


_ROUTE = Variant("pipeline-postgresql", "no-op route, PostgreSQL", "route:noop", database="postgresql")
_DEDUPE: Mapping[str, Any] = {"dedupe": "24h"}

COMPARISONS = (
    Comparison(
        "noop",
        "the no-op route, through everything",
        (
            _ROUTE,
            Variant("pipeline-sqlite", "no-op route, SQLite", "route:noop", database="sqlite"),
            Variant("rstream-loop", "bare rstream loop, amqp_decoder, orjson", "rstream_loop:run"),
            Variant("rabbit-broker", "FastStream RabbitBroker, prefetch 500", "rabbit_broker:run", 0.1),
            Variant(
                "pipeline-postgresql-dedupe", "no-op route, PostgreSQL, dedupe = 24h", "route:noop", 0.5,
                database="postgresql", options=_DEDUPE,
            ),
            Variant(
                "pipeline-sqlite-dedupe", "no-op route, SQLite, dedupe = 24h", "route:noop", 0.5,
                database="sqlite", options=_DEDUPE,
            ),
        ),
        (
            Target("pipeline-postgresql", "rstream-loop", 0.8),
            Target("pipeline-postgresql", "rabbit-broker", 10),
            Target("pipeline-sqlite", "rstream-loop", 0.8),
            Target("pipeline-sqlite", "rabbit-broker", 10),
            Target("pipeline-postgresql-dedupe", "rstream-loop"),
            Target("pipeline-sqlite-dedupe", "rstream-loop"),
        ),
    ),
    Comparison(
        "audit",
        "the audit route on PostgreSQL",
        (
            Variant("pipeline-audit", "audit route", "route:audit", 0.25, database="postgresql"),
            Variant(
                "pipeline-audit-dedupe", "audit route, dedupe = 24h", "route:audit", 0.25,
                database="postgresql", options=_DEDUPE,
            ),
            Variant(
                "commit-per-event", "by hand: rstream, ORM, a commit per event", "commit_per_event:run", 0.01,
                database="postgresql",
            ),
        ),
        (
            Target("pipeline-audit", "commit-per-event", 10),
            Target("pipeline-audit-dedupe", "commit-per-event"),
        ),
    ),
    Comparison(
        "latency",
        f"latency of {_PACE} events a second, from the publisher to the handler",
        (
            Variant(
                "pipeline-latency", "no-op route, PostgreSQL", "latency:run", 0.005,
                stream="new", database="postgresql", options={"rate": _PACE},
            ),
            Variant(
                "rstream-latency", "bare rstream loop", "rstream_loop:latency", 0.005,
                stream="new", options={"rate": _PACE},
            ),
        ),
    ),
    Comparison(
        "engine",
        "without RabbitMQ, SQLite",
        (
            Variant("memory", "no-op route, events in memory", "route:memory", stream=None, database="sqlite"),
            Variant("embedded", "no-op route, embedded broker", "route:embedded", 0.5, stream=None, database="sqlite"),
            Variant("dispatch", "dispatch alone, no keys", "dispatch:unkeyed", stream=None, database="sqlite"),
            Variant("dispatch-keyed", "dispatch alone, a key each", "dispatch:keyed", stream=None, database="sqlite"),
        ),
    ),
    Comparison(
        "isolation",
        "two sources, events in memory, SQLite: one of them, while the other's dependency is down",
        (
            _isolated("isolation", "no-op route, the other source is idle", "throughput", 1.0),
            _isolated(
                "isolation-outage", "no-op route, the other one's dependency is down", "throughput", 1.0, outage=True
            ),
        ),
        (Target("isolation-outage", "isolation", 0.9),),
    ),
    Comparison(
        "isolation-latency",
        f"the same, latency of {_PACE} events a second",
        (
            _isolated("isolation-latency", "the other source is idle", "latency", 0.005, rate=_PACE),
            _isolated(
                "isolation-latency-outage", "the other one's dependency is down", "latency", 0.005, rate=_PACE,
                outage=True,
            ),
        ),
    ),
    Comparison(
        "publish",
        "publishing, every message confirmed",
        (
            Variant("publish-rabbitmq", "this project's connector, RabbitMQ", "publish:rabbitmq", 0.5, stream="new"),
            Variant("publish-rstream", "rstream Producer.send_batch", "publish:rstream", 0.5, stream="new"),
            Variant("publish-embedded", "embedded broker", "publish:embedded", 0.5, stream=None),
        ),
        (Target("publish-rabbitmq", "publish-rstream"),),
    ),
    Comparison(
        "governance",
        "event, execution row, job, two SQL actions, completed; beside Bull",
        (
            _governance("governance", "governance, one process, as it comes", "governance:run", stream="new"),
            _governance(
                "governance-400", "governance, one process, concurrency 400", "governance:run", stream="new",
                options={"concurrency": 400},
            ),
            _governance(
                "governance-two", "governance, a runner and a worker, concurrency 400", "governance:run", stream="new",
                options={"processes": 2, "concurrency": 400},
            ),
            *_BULL_VARIANTS,
            *_UNFED_VARIANTS,
        ),
        (
            *(Target(name, _BEST_BULL, 1 if name == _OUR_BEST else None) for name in _OURS),
            *(Target(name, _BEST_UNFED) for name in _OURS),
        ),
    ),
    Comparison(
        "jobs",
        "jobs by arq's public API: row, queue, claim, run, row on PostgreSQL; and without rows",
        (
            _jobs("hints-100", "up to 100 jobs to a hint", 0.25, database="postgresql", options={"size": 100}),
            _jobs("hints-1", "one job to a hint", 0.02, database="postgresql", options={"size": 1}),
            _jobs("arq", "arq itself, a job each", 0.02, "hints:one_each", database="postgresql"),
            _jobs("hints-100-noop", "up to 100 jobs to a hint, no rows", 1.0, options={"size": 100}),
            _jobs("hints-1-noop", "one job to a hint, no rows", 0.02, options={"size": 1}),
            _jobs("arq-noop", "arq itself, a job each, no rows", 0.02, "hints:one_each"),
        ),
        (
            Target("hints-100", "hints-1", 10),
            Target("hints-100", "arq", 10),
            Target("hints-100-noop", "hints-1-noop", 10),
            Target("hints-100-noop", "arq-noop", 10),
        ),
    ),
)  # fmt: skip
