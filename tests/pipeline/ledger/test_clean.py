"""What a broker delivers becomes text that every database takes, and stays distinct where it identifies."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipeline.ledger.clean import LONGEST_ID, clean_id, clean_json, clean_text

ANY_TEXT = st.text(alphabet=st.one_of(st.characters(), st.just("\0"), st.characters(categories=["Cs"])))


@given(ANY_TEXT)
def test_clean_text_can_be_stored(text: str) -> None:
    cleaned = clean_text(text)
    assert "\0" not in cleaned
    cleaned.encode()
    assert clean_text(cleaned) == cleaned


@given(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=LONGEST_ID))
def test_an_ordinary_id_stays_as_it_is(event_id: str) -> None:
    assert clean_id(event_id) == event_id


@given(ANY_TEXT, ANY_TEXT)
def test_two_ids_never_become_one(one: str, other: str) -> None:
    assert (clean_id(one) == clean_id(other)) == (one == other)


def test_an_id_never_outgrows_an_index_entry() -> None:
    assert len(clean_id("\U0001f600" * 100_000).encode()) < 2_000


def test_what_nests_deeper_than_any_event_may_is_cut_off() -> None:
    value: Any = "bottom"
    for _ in range(100_000):
        value = [{"a": value}]
    cleaned, depth = clean_json(value), 0
    while cleaned:
        cleaned, depth = cleaned[0] if isinstance(cleaned, list) else cleaned["a"], depth + 1
    assert depth == 250
    while isinstance(value, list):  # Python would take it apart by recursion
        value = value[0].pop("a")


def test_json_is_clean_to_its_depth() -> None:
    assert clean_json({"a\0": [{"b": ("\ud800", 1.5, True, None)}], 3: b"x", "big": 2**64}) == {
        r"a\u0000": [{"b": [r"\ud800", 1.5, True, None]}],
        "3": "b'x'",
        "big": str(2**64),
    }
