"""What became of everything, read past the product's own code: from the database, and from the workflows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.integration.rig.database import Books
from tests.integration.rig.workflows import Seen, Workflows

__all__ = ["Facts", "Quiet", "gather_facts"]

_PENDING = """
SELECT (SELECT coalesce(sum(handled + filtered + dead + duplicate), 0) FROM progress)::bigint AS processed,
       (SELECT coalesce(sum(handled + filtered + dead), 0) FROM progress)::bigint AS done,
       (SELECT count(*) FROM workflow_executions)::bigint AS executions,
       (SELECT count(*) FROM workflow_executions WHERE status = 'completed')::bigint AS completed,
       (SELECT count(*) FROM jobs)::bigint AS jobs
"""


@dataclass(frozen=True, slots=True)
class Quiet:
    """How much has been done.

    Attributes:
        processed: Messages that have an outcome.
        done: Those of them that are not repeats.
        executions: Executions, in whatever state.
        completed: Executions that completed.
        jobs: Jobs that are not over.
    """

    processed: int
    done: int
    executions: int
    completed: int
    jobs: int

    @classmethod
    async def of(cls, books: Books) -> Quiet:
        """As it is now."""
        [row] = await books.rows(_PENDING)
        return cls(**dict(row))


@dataclass(slots=True)
class Facts:
    """What was found at the end.

    Attributes:
        outcomes: How often each event has each outcome, by (id, outcome); duplicates are outcomes of their own.
        audited: How often each event was audited with each outcome, by (id, outcome).
        dead: The dead letters: (id, body) each.
        executions: The status of each execution, by (event's id, execution's id).
        tasks: How many tasks each execution left.
        notifications: How many notifications each execution left.
        jobs: The ids of the jobs that are left.
        entities: The version and the last sequence number of each entity.
        signals: What is in each workflow's history, oldest first.
        applied: How many signals each workflow counts.
        repeated: How many signals each workflow recognised as repeats.
    """

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    audited: Counter[tuple[str, str]] = field(default_factory=Counter)
    dead: list[tuple[str, bytes]] = field(default_factory=list)
    executions: dict[tuple[str, str], str] = field(default_factory=dict)
    tasks: Counter[str] = field(default_factory=Counter)
    notifications: Counter[str] = field(default_factory=Counter)
    jobs: list[str] = field(default_factory=list)
    entities: dict[str, tuple[int, int]] = field(default_factory=dict)
    signals: dict[str, list[Seen]] = field(default_factory=dict)
    applied: dict[str, int] = field(default_factory=dict)
    repeated: dict[str, int] = field(default_factory=dict)


async def gather_facts(books: Books, workflows: Workflows) -> Facts:
    """Read everything; nothing runs any more."""
    facts = Facts()
    facts.outcomes = await _count(books, "SELECT event_id, outcome FROM outcomes")
    facts.audited = await _count(
        books, "SELECT event_id, coalesce(outcome, 'handled') FROM audit_logs WHERE action = 'chaos_event'"
    )
    facts.dead = [(row["event_id"], bytes(row["body"])) for row in await books.dead_letters()]
    rows = await books.rows("SELECT id, event_id, status FROM workflow_executions")
    facts.executions = {(row["event_id"], row["id"]): row["status"] for row in rows}
    facts.tasks = Counter(row[0] for row in await books.rows("SELECT execution_id FROM tasks"))
    facts.notifications = Counter(row[0] for row in await books.rows("SELECT execution_id FROM notifications"))
    facts.jobs = [row[0] for row in await books.rows("SELECT id FROM jobs ORDER BY id")]
    rows = await books.rows("SELECT entity_id, version, (data->>'sequence')::int FROM entities")
    facts.entities = {row[0]: (row[1], row[2] or 0) for row in rows}
    facts.signals = await workflows.histories()
    memories = await workflows.memories()
    facts.applied = {name: memory.applied for name, memory in memories.items()}
    facts.repeated = {name: memory.repeated for name, memory in memories.items() if memory.repeated}
    return facts


async def _count(books: Books, query: str) -> Counter[Any]:
    return Counter(tuple(row) for row in await books.rows(query))
