"""Rows that travel as JSON are what they would be had each been bound; what JSON can't say is bound."""

from __future__ import annotations

import asyncio
import enum
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Insert, insert, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import Field, SQLModel

from pipeline import Row
from pipeline.ledger.columns import big_id, json_type, utcnow
from pipeline.ledger.database import Database
from pipeline.ledger.recordset import Recordsets
from pipeline.ledger.rows import RowWriter


class Model(SQLModel):
    metadata = type(SQLModel.metadata)()


class Sample(Model, table=True):
    id: int | None = Field(default=None, primary_key=True, sa_type=big_id())
    name: str = Field(unique=True)
    number: int | None = None
    flag: bool = False
    data: Any = Field(default=None, nullable=True, sa_type=json_type())
    at: datetime = Field(default_factory=utcnow)


class Measure(Model, table=True):
    id: int | None = Field(default=None, primary_key=True)
    value: float


TABLE: Any = Sample.__table__  # type: ignore[attr-defined]
AT = datetime(2026, 1, 31, 12, 30, 15, 123456, UTC)


@pytest.fixture
async def database(postgres: str) -> AsyncIterator[Database]:
    found = Database(postgres)
    async with found.write() as connection:
        await connection.run_sync(Model.metadata.create_all)
    yield found
    await found.close()


async def written(connection: AsyncConnection, rows: list[dict[str, Any]], statement: Insert | None = None) -> bool:
    return await Recordsets().write(connection, insert(TABLE) if statement is None else statement, TABLE, rows)


def row(name: str, /, **values: Any) -> dict[str, Any]:
    return {"name": name, "number": 1, "flag": True, "data": {"a": [1, None, "ü"]}, "at": AT} | values


async def stored(connection: AsyncConnection) -> list[Any]:
    return list(await connection.execute(select(TABLE).order_by(TABLE.c.id)))


async def test_every_value_comes_back_as_it_was(database: Database) -> None:
    rows = [
        row("plain"),
        row("none", number=None, data=None),
        row("odd ' \" \\ \n $1 %s :x {}", number=-(2**31), flag=False),
        row("texts", data='a "text"'),
        row("numbers", data=1.5, number=2**31 - 1),
        row("lists", data=[{"b": {}}, [], True]),
        row("later", at=datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ]
    async with database.write() as connection:
        assert await written(connection, rows)
        found = await stored(connection)
    assert [{name: getattr(one, name) for name in rows[0]} for one in found] == rows
    assert [one.id for one in found] == list(range(1, 8))


class Colour(enum.StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    "value",
    [
        {"name": 5}, {"name": Colour.RED}, {"name": "\ud800"}, {"number": True}, {"number": "1"}, {"flag": 1},
        {"at": datetime(2026, 1, 1)}, {"at": "2026-01-01T00:00:00Z"}, {"data": 2**70}, {"data": {1: 2}},
        {"data": object()},
    ],
    ids=["number", "enum", "surrogate", "boolean", "digits", "bit", "naive", "ISO", "huge", "key", "object"],
)  # fmt: skip
async def test_what_json_may_say_otherwise_is_left_to_the_driver(database: Database, value: dict[str, Any]) -> None:
    async with database.write() as connection:
        assert not await written(connection, [row("a"), row("b", **value)])
        assert await stored(connection) == []


async def test_types_of_unknown_meaning_are_left_to_the_driver(database: Database) -> None:
    async with database.write() as connection:
        table: Any = Measure.__table__  # type: ignore[attr-defined]
        assert not await Recordsets().write(connection, insert(table), table, [{"value": 1.0}] * 9)


async def test_conflicts_are_dealt_with_as_the_statement_says(database: Database) -> None:
    ignoring = postgresql.insert(TABLE).on_conflict_do_nothing()
    updating = postgresql.insert(TABLE)
    updating = updating.on_conflict_do_update(index_elements=["name"], set_={"number": updating.excluded.number})
    async with database.write() as connection:
        assert await written(connection, [row("a"), row("b")])
        assert await written(connection, [row("a", number=2), row("c", number=2)], ignoring)
        assert await written(connection, [row("b", number=3), row("d", number=3)], updating)
        assert {one.name: one.number for one in await stored(connection)} == {"a": 1, "b": 3, "c": 2, "d": 3}
        assert not await written(connection, [row("e"), row("e")], updating)  # one statement updates no row twice


async def test_rows_with_the_same_key_are_parted_and_the_last_one_holds(database: Database) -> None:
    updating = postgresql.insert(TABLE)
    updating = updating.on_conflict_do_update(index_elements=["name"], set_={"number": updating.excluded.number})
    rows = [row(f"n-{number % 10}", number=number) for number in range(30)]
    async with database.write() as connection:
        assert await written(connection, rows, updating)
        assert {one.name: one.number for one in await stored(connection)} == {f"n-{at}": 20 + at for at in range(10)}


async def test_none_where_a_column_has_a_default_is_left_to_others(database: Database) -> None:
    rows = [Row(Sample, row(f"d-{number}", flag=None if number == 3 else True)) for number in range(9)]
    async with database.write() as connection:
        assert not await written(connection, [dict(one.values) for one in rows])
        await RowWriter("postgresql").write_rows(connection, rows)
        assert [one.flag for one in await stored(connection)] == [number != 3 for number in range(9)]


async def test_a_writer_writes_what_it_can_in_either_way(database: Database) -> None:
    rows = [Row(Sample, row(f"s-{number}", data=2**70 if number == 7 else number)) for number in range(20)]
    async with database.write() as connection:
        await RowWriter("postgresql").write_rows(connection, rows)
        found = await stored(connection)
    assert [one.name for one in found] == [f"s-{number}" for number in range(20)]
    assert [one.data for one in found][6:8] == [6, 2**70]


async def test_transactions_that_update_the_same_rows_in_different_order_never_meet_in_a_deadlock(
    database: Database,
) -> None:
    updating = postgresql.insert(TABLE)
    updating = updating.on_conflict_do_update(index_elements=["name"], set_={"number": updating.excluded.number})
    names = [f"{letter}-{number}" for number in range(150) for letter in "aBcÄ"]

    async def write(number: int) -> None:
        mixed = [name for name in names if hash((name, number)) % 3]
        random.Random(number).shuffle(mixed)
        rows = [Row(Sample, row(name, number=number), updating) for name in (*mixed, *mixed[:20])]
        async with database.write() as connection:
            await RowWriter("postgresql").write_rows(connection, rows)

    for _ in range(5):
        await asyncio.gather(*(write(number) for number in range(6)))


async def test_few_rows_are_updated_in_the_order_of_their_keys_too(database: Database) -> None:
    updating = postgresql.insert(TABLE)
    updating = updating.on_conflict_do_update(index_elements=["name"], set_={"number": updating.excluded.number})
    async with database.write() as connection:
        rows = [Row(Sample, row(name), updating) for name in ("b", "Z", "a")]
        await RowWriter("postgresql").write_rows(connection, rows)
        found = (await connection.execute(select(TABLE.c.name).order_by(TABLE.c.id))).scalars().all()
    assert found == ["Z", "a", "b"]  # ids tell the order in which they were written
