"""Data that does not fit is told of in a few words, however many faults it has."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from pipeline.misfits import misfit


class Order(BaseModel):
    lines: list[str]


def told(data: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        Order.model_validate(data)
    return misfit(caught.value)


def test_each_fault_is_told_with_its_place() -> None:
    said = told({"lines": ["a", 1, 2]})
    assert said == (
        "the data does not fit Order: lines.1: Input should be a valid string; lines.2: Input should be a valid string"
    )


def test_data_that_is_wrong_as_a_whole_is_called_data() -> None:
    assert told([]).startswith("the data does not fit Order: data: Input should be a valid dictionary")


def test_of_many_faults_some_are_told_and_the_others_counted() -> None:
    said = told({"lines": [1] * 25})
    assert said.count("valid string") == 20
    assert said.endswith("; and 5 more")


def test_a_body_of_nothing_but_faults_takes_no_memory_for_each() -> None:
    assert told({"lines": [1] * 500_000}) == (
        "the data does not fit Order: 500,000 faults, which are too many to be told"
    )
