"""The verdict: every event was done once, by every account there is; what was not is named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tests.chaos.entries import Kind, Ledger
from tests.chaos.facts import Facts

__all__ = ["Finding", "judge"]

_DEAD = (Kind.REFUSED, Kind.UNREADABLE)
_WELL = (Kind.SIGNAL, Kind.AUDIT, Kind.EXECUTION, Kind.CHANGE)
_SIGNALS = {"admin.workflow.paused": "pause", "admin.workflow.resumed": "resume"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One question, and what contradicts the promise.

    Attributes:
        question: What was asked; the promise is that nothing is found.
        of: How many were looked at.
        wrong: What is wrong, a line each.
    """

    question: str
    of: int
    wrong: Sequence[str]


def judge(ledger: Ledger, facts: Facts) -> list[Finding]:
    """Compare the ledger with the facts."""
    return [question(ledger, facts) for question in _QUESTIONS]


def _lost(ledger: Ledger, facts: Facts) -> Finding:
    """An event that cannot be read is told of by its dead letter, the others by the journal."""
    known = {event_id for event_id, outcome in facts.outcomes if outcome != "duplicate"}
    entries = ledger.of(*_WELL, Kind.REFUSED)
    return Finding("events lost", len(entries), [_name(ledger, entry.id) for entry in entries if entry.id not in known])


def _twice(ledger: Ledger, facts: Facts) -> Finding:
    """An event that cannot be read has no id to go by: a repeat of it is a message of its own."""
    unreadable = {entry.id for entry in ledger.of(*_DEAD) if entry.event.raw}
    found: Counter[str] = Counter()
    for (event_id, outcome), count in facts.outcomes.items():
        found[event_id] += count if outcome != "duplicate" and event_id not in unreadable else 0
    wrong = [f"{_name(ledger, event_id)}: {count} outcomes" for event_id, count in found.items() if count > 1]
    return Finding("events with more than one outcome", len(found), wrong)


def _outcome(ledger: Ledger, facts: Facts) -> Finding:
    wanted = {entry.id: "dead" if entry.kind in _DEAD else "handled" for entry in ledger}
    wrong = [
        f"{_name(ledger, event_id)}: {outcome}"
        for event_id, outcome in facts.outcomes
        if outcome not in ("duplicate", wanted.get(event_id, outcome))
    ]
    return Finding("events with the wrong outcome", len(facts.outcomes), wrong)


def _dead_letters(ledger: Ledger, facts: Facts) -> Finding:
    """Exactly the bad ones. What has no id is known by its body; a repeat of it is a message of its own."""
    bad = {entry.event.body: entry for entry in ledger.of(*_DEAD)}
    counts = Counter(body for _, body in facts.dead)
    wrong = [f"a dead letter of {_name(ledger, id_)}: {body[:60]!r}" for id_, body in facts.dead if body not in bad]
    for body, entry in bad.items():
        least, most = 1, ledger.confirmed[entry.id] + ledger.uncertain if entry.event.raw else 1
        if not least <= counts[body] <= most:
            wrong.append(f"{_name(ledger, entry.id)}: {counts[body]} dead letters")
    return Finding("dead letters missing, or of good events", len(bad), wrong)


def _audits(ledger: Ledger, facts: Facts) -> Finding:
    wanted = Counter({(entry.id, "handled"): 1 for entry in ledger.of(*_WELL)})
    wanted += Counter({(entry.id, "dead"): 1 for entry in ledger.of(Kind.REFUSED)})
    return Finding("audit rows missing or doubled", len(wanted), _differences(ledger, wanted, facts.audited))


def _signals_once(ledger: Ledger, facts: Facts) -> Finding:
    wanted = Counter(
        (entry.id, f"{_SIGNALS[entry.event.routing_key]} to {entry.key}") for entry in ledger.of(Kind.SIGNAL)
    )
    found = Counter((seen.event_id, f"{seen.name} to {key}") for key, all_ in facts.signals.items() for seen in all_)
    return Finding("signals missing or doubled", len(wanted), _differences(ledger, wanted, found))


def _signals_counted(ledger: Ledger, facts: Facts) -> Finding:
    wanted = {key: len(ids) for key, ids in ledger.by_key(Kind.SIGNAL).items()}
    wrong = [
        f"workflow {key} counts {count} signals, not {wanted.get(key, 0)}"
        for key, count in facts.applied.items()
        if count != wanted.get(key, 0)
    ]
    return Finding("workflows that count wrong", len(wanted), wrong)


def _signals_ordered(ledger: Ledger, facts: Facts) -> Finding:
    wrong = []
    wanted = ledger.by_key(Kind.SIGNAL)
    for key, ids in wanted.items():
        seen = list(dict.fromkeys(one.event_id for one in facts.signals.get(key, [])))
        ours = [event_id for event_id in ids if event_id in set(seen)]
        if seen != ours:
            first = next((a, b) for a, b in zip(seen, ours, strict=False) if a != b)
            wrong.append(f"workflow {key}: {first[0]} came where {first[1]} was due")
    return Finding("workflows signalled out of order", len(wanted), wrong)


def _executions(ledger: Ledger, facts: Facts) -> Finding:
    wanted = Counter((entry.id, "completed") for entry in ledger.of(Kind.EXECUTION))
    found = Counter((event_id, status) for (event_id, _), status in facts.executions.items())
    return Finding("executions stuck, missing or doubled", len(wanted), _differences(ledger, wanted, found))


def _effects(ledger: Ledger, facts: Facts) -> Finding:
    by_execution = {execution: event_id for event_id, execution in facts.executions}
    wrong = [
        f"{_name(ledger, event_id)}: {count[execution]} {what}"
        for execution, event_id in by_execution.items()
        for what, count in (("tasks", facts.tasks), ("notifications", facts.notifications))
        if count[execution] != 1
    ]
    strange = (set(facts.tasks) | set(facts.notifications)) - set(by_execution)
    wrong += [f"effects of an execution that is not there: {execution}" for execution in sorted(strange)]
    return Finding("SQL effects missing or doubled", 2 * len(by_execution), wrong)


def _entities(ledger: Ledger, facts: Facts) -> Finding:
    wanted = {key: len(ids) for key, ids in ledger.by_key(Kind.EXECUTION, Kind.CHANGE).items()}
    wrong = [
        f"{key}: version {version}, sequence {sequence}; {wanted.get(key, 0)} events were published"
        for key, (version, sequence) in facts.entities.items()
        if not version == sequence == wanted.get(key, 0)
    ]
    wrong += [f"{key} is not there" for key in wanted if key not in facts.entities]
    return Finding("entities that missed a change", len(wanted), wrong)


def _jobs(ledger: Ledger, facts: Facts) -> Finding:
    return Finding("jobs left over", len(facts.executions), facts.jobs)


_QUESTIONS: tuple[Callable[[Ledger, Facts], Finding], ...] = (
    _lost, _twice, _outcome, _dead_letters, _audits, _signals_once, _signals_counted, _signals_ordered, _executions,
    _effects, _entities, _jobs,
)  # fmt: skip


def _differences(ledger: Ledger, wanted: Counter[tuple[str, str]], found: Counter[tuple[str, str]]) -> list[str]:
    return [
        f"{_name(ledger, event_id)}: {what}: {found[event_id, what]}, not {wanted[event_id, what]}"
        for event_id, what in _sorted(wanted.keys() | found.keys())
        if found[event_id, what] != wanted[event_id, what]
    ]


def _sorted(keys: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(keys, key=lambda key: (len(key[0]), key))


def _name(ledger: Ledger, event_id: str) -> str:
    """What to call an event in a complaint."""
    try:
        entry = ledger[event_id]
    except KeyError:
        return f"{event_id} (never published)"
    times = ledger.confirmed[event_id]
    return f"{event_id} ({entry.kind}{f', {entry.key} #{entry.sequence}' if entry.key else ''}, published {times}×)"
