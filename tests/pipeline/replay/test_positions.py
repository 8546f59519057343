"""Where a replay's range begins and ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest

from pipeline.connectors import BrokerRefused
from pipeline.errors import UserError
from pipeline.replay.positions import Position, Span, order, parse_position, resolve, text_of
from tests.pipeline.replay.site import MORNING, Site

NINE = datetime.fromtimestamp(MORNING / 1000, UTC)


def minutes(number: float) -> datetime:
    return NINE + timedelta(minutes=number)


@pytest.mark.parametrize(
    ("text", "end", "position"),
    [
        ("first", "from", "first"),
        ("now", "to", "now"),
        ("0", "from", 0),
        ("1200", "to", 1200),
        ("2026-01-01T09:00:00Z", "from", NINE),
        ("2026-01-01T10:00+01:00", "to", NINE),
        ("2026-01-01T09:00", "to", NINE),
        ("2026-01-01", "from", datetime(2026, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_position_is_a_word_an_offset_or_a_time(text: str, end: Literal["from", "to"], position: Position) -> None:
    assert parse_position(text, end) == position


@pytest.mark.parametrize(
    ("text", "end", "says"),
    [
        ("yesterday", "from", "write 'first', an offset such as 1200, a time as in"),
        ("last", "to", "write 'now', an offset"),
        ("now", "from", "write 'first'"),
        ("-3", "from", "is no place in a stream"),
        (str(2**63), "from", "offsets go from 0 to"),
    ],
)
def test_what_is_no_position_is_refused_with_what_is_one(text: str, end: Literal["from", "to"], says: str) -> None:
    with pytest.raises(UserError) as error:
        parse_position(text, end)
    assert says in str(error.value)
    assert f"--{end}" in str(error.value)


def test_a_position_may_be_how_long_ago() -> None:
    before = datetime.now(UTC)
    position = parse_position("2h", "from")
    assert isinstance(position, datetime)
    assert before <= position + timedelta(hours=2) <= datetime.now(UTC)


def test_a_time_reads_the_same_however_it_is_written() -> None:
    one, other = parse_position("2026-01-01T10:00+01:00", "from"), parse_position("2026-01-01T09:00:00Z", "from")
    assert text_of(one) == text_of(other)


@pytest.mark.parametrize(
    ("begin", "end"), [(3, 2), (minutes(1), NINE), (NINE, NINE), ("now", "now"), (1, "first"), (-1, "now")]
)
def test_a_range_that_is_turned_round_is_refused(begin: Any, end: Any) -> None:
    with pytest.raises(UserError):
        order(begin, end)


def test_a_range_may_be_one_message() -> None:
    assert order(3, 3) == (3, 3)


@pytest.mark.parametrize(
    ("begin", "end", "first", "last"),
    [
        ("first", "now", 0, 9),
        (3, 5, 3, 5),
        (3, 500, 3, 9),
        (minutes(3), minutes(6), 3, 5),
        (minutes(2.5), minutes(5.5), 3, 5),
        (minutes(-100), "now", 0, 9),
        ("first", minutes(100), 0, 9),
        (minutes(9), minutes(100), 9, 9),
        (4, minutes(6), 4, 5),
    ],
)
async def test_a_range_is_fixed_in_offsets(site: Site, begin: Position, end: Position, first: int, last: int) -> None:
    site.publish(*[("a.b", {})] * 10)
    assert await resolve(site.connector, "st", begin, end) == Span(first, last)


@pytest.mark.parametrize(("begin", "end"), [(minutes(9.5), "now"), (minutes(2.2), minutes(2.4))])
async def test_a_range_that_holds_nothing_is_empty_and_says_so(site: Site, begin: Position, end: Position) -> None:
    site.publish(*[("a.b", {})] * 10)
    span = await resolve(site.connector, "st", begin, end)
    assert span.last < span.first
    assert "holds nothing" in span.note


async def test_an_empty_stream_gives_an_empty_range(site: Site) -> None:
    assert await resolve(site.connector, "st", NINE, "now") == Span(0, -1, "stream st is empty")


@pytest.mark.parametrize(
    ("begin", "end", "says"),
    [
        (10, "now", "stream st ends at offset 9"),
        (1, 3, "keeps messages from offset 4 on, of 2026-01-01T09:04:00+00:00"),
        (minutes(1), minutes(3), "keeps messages from offset 4 on"),
        (7, minutes(6), "--from 7 is offset 7, which does not lie before"),
    ],
)
async def test_a_range_that_can_hold_nothing_is_refused(site: Site, begin: Any, end: Any, says: str) -> None:
    site.publish(*[("a.b", {})] * 10)
    site.connector.store.trim("st", 4)
    with pytest.raises(UserError) as error:
        await resolve(site.connector, "st", begin, end)
    assert says in str(error.value)


async def test_a_range_that_retention_has_cut_begins_at_what_is_left(site: Site) -> None:
    site.publish(*[("a.b", {})] * 10)
    site.connector.store.trim("st", 4)
    span = await resolve(site.connector, "st", 2, 6)
    assert (span.first, span.last) == (4, 6)
    assert "2 to 3 are gone" in span.note


async def test_a_stream_that_is_not_there_is_refused(site: Site) -> None:
    with pytest.raises(BrokerRefused, match="no stream 'nowhere'"):
        await resolve(site.connector, "nowhere", "first", "now")
