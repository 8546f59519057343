"""The limits of a source: written as people write sizes, with defaults that suit, and clear about mistakes."""

from __future__ import annotations

import tomllib

import pytest
from jsonschema import Draft202012Validator

from pipeline.config.limits import Limits, size_text
from pipeline.config.schema import json_schema
from tests.pipeline.config.fakes import CATALOG, SOUND, Folder


def with_limits(written: str) -> str:
    return SOUND.replace("[source.admin]\n", f"[source.admin]\nlimits = {{ {written} }}\n")


def fits_the_schema(written: str) -> bool:
    return Draft202012Validator(json_schema(CATALOG)).is_valid(tomllib.loads(with_limits(written)))


def test_a_source_has_limits_without_saying_so(folder: Folder) -> None:
    assert folder.load(SOUND).config.source["admin"].limits == Limits()
    assert (Limits().event, Limits().nesting, Limits().headers, Limits().header_bytes) == (2**20, 64, 100, 2**16)


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("100", 100), ('"100"', 100), ('"100B"', 100), ('"64KiB"', 65_536), ('"1MiB"', 2**20), ('"2GiB"', 2**31),
        ('"5kB"', 5_000), ('"5KB"', 5_000), ('"1.5MB"', 1_500_000), ('"1GB"', 10**9),
    ],
)  # fmt: skip
def test_a_size_is_a_number_of_bytes_or_has_a_unit(folder: Folder, written: str, size: int) -> None:
    assert folder.load(with_limits(f"event = {written}")).config.source["admin"].limits.event == size
    assert written == '"100"' or fits_the_schema(f"event = {written}")


def test_a_size_may_come_from_a_variable(folder: Folder) -> None:
    loaded = folder.load(with_limits('event = "${SIZE}", nesting = "${DEEP:-9}"'), SIZE="2KiB")
    assert (loaded.config.source["admin"].limits.event, loaded.config.source["admin"].limits.nesting) == (2048, 9)


@pytest.mark.parametrize(
    ("written", "key", "said"),
    [
        ('event = "1 MiB"', "event", "'1 MiB' is not a size: write a number and B, kB, MB, GB, KiB, MiB or GiB"),
        ('event = "10s"', "event", "'10s' is not a size"),
        ("event = true", "event", "write a size, as in '64KiB', or a number of bytes"),
        ("event = 0", "event", "greater than or equal to 1, not 0"),
        ('event = "3GiB"', "event", "less than or equal to 2147483648"),
        ('event = "' + "9" * 400 + 'GiB"', "event", "is not a size"),
        ("nesting = 201", "nesting", "less than or equal to 200, not 201"),
        ("headers = -1", "headers", "greater than or equal to 0, not -1"),
        ('duplicate_keys = "first"', "duplicate_keys", "'reject' or 'last'"),
        ('huge_numbers = "no"', "huge_numbers", "'reject' or 'round'"),
        ("evnt = 1", "evnt", "unknown key 'evnt'; did you mean 'event'?"),
    ],
)
def test_a_mistake_is_told_with_its_place(folder: Folder, written: str, key: str, said: str) -> None:
    (problem,) = folder.problems(with_limits(written))
    assert problem.path == f"source.admin.limits.{key}"
    assert said in problem.message
    assert fits_the_schema(written) == (written == 'event = "3GiB"'), "a schema can't reckon with units"


def test_a_size_is_told_as_it_is_written() -> None:
    assert [size_text(size) for size in (1, 1023, 1024, 1536, 2**20, 2**31, 10**6)] == [
        "1B", "1023B", "1KiB", "1536B", "1MiB", "2GiB", "1000000B",
    ]  # fmt: skip
    assert Limits().model_dump(mode="json")["event"] == "1MiB"
