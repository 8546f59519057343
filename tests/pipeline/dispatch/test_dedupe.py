"""Dedupe: an id is known while it is in flight and when it is committed; a database that is away is waited for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from pipeline.connectors import Message
from pipeline.dispatch.dedupe import Dedupe
from pipeline.errors import Unavailable
from pipeline.ledger.ledger import Ledger


class FakeLedger:
    """Remembers some ids, and is away for the first calls."""

    def __init__(self, *ids: str, outages: int = 0) -> None:
        self.ids = set(ids)
        self.outages = outages

    async def seen(self, group: str, ids: Sequence[str]) -> set[str]:
        assert group == "group"
        if self.outages:
            self.outages -= 1
            raise Unavailable("database", "it is away")
        return self.ids & set(ids)


class Holds:
    """What a window is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, ...]] = []

    def hold(self, cause: str, reason: str) -> None:
        self.told.append((cause, reason))

    def release(self, cause: str) -> None:
        self.told.append((cause,))


def dedupe(ledger: FakeLedger, holds: Holds | None = None) -> Dedupe:
    holds = holds or Holds()
    return Dedupe(cast("Ledger", ledger), "group", holds.hold, holds.release)


def batch(*ids: str | None) -> list[Message]:
    return [Message(offset, 0, b"{}", id=id_) for offset, id_ in enumerate(ids)]


async def test_ids_in_flight_and_ids_that_the_ledger_remembers_are_known() -> None:
    made = dedupe(FakeLedger("committed"))
    made.take_in("in flight")
    assert await made.known(batch("committed", "in flight", "new", None)) == {"committed", "in flight"}


async def test_an_id_that_was_let_go_is_known_by_the_ledger_alone() -> None:
    made = dedupe(FakeLedger())
    made.take_in("a")
    made.let_go(["a"])
    assert await made.known(batch("a")) == set()


async def test_a_database_that_is_away_is_waited_for_and_pauses_the_source_meanwhile() -> None:
    holds = Holds()
    made = dedupe(FakeLedger("a", outages=2), holds)
    assert await made.known(batch("a", "b")) == {"a"}
    away = ("database", "database is unavailable: it is away")
    assert holds.told == [away, away, ("database",)]
