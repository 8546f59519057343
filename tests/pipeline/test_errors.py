"""What a handler raises is an instruction that can be carried out, or says at once why it can't be."""

from __future__ import annotations

from datetime import timedelta
from traceback import format_exception
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from pipeline.errors import Reject, Retry, Throttled, Unavailable, describe, text_of
from pipeline.where import told_from_handler


class Order(BaseModel):
    lines: list[str]


@pytest.mark.parametrize(("given", "after"), [(2, 2.0), ("30", 30.0), (-5, 0.0), (1e300, 1e9)])
def test_a_wait_is_a_number_of_seconds_that_a_timer_and_a_database_can_take(given: Any, after: float) -> None:
    assert Retry("later", after=given).after == after
    assert Throttled("later", given).after == after


@pytest.mark.parametrize("given", [float("inf"), float("nan"), "Wed, 21 Oct 2026 07:28:00 GMT", timedelta(seconds=1)])
def test_what_is_no_number_of_seconds_is_the_mistake_of_whoever_says_it(given: Any) -> None:
    for make in (lambda: Retry("later", after=given), lambda: Throttled("later", given)):
        with pytest.raises((ValueError, TypeError)):
            make()


@pytest.mark.parametrize(("given", "kind"), [("gone", "gone"), (404, "404"), (None, "rejected")])
def test_a_kind_is_a_text(given: Any, kind: str) -> None:
    assert Reject("no", kind=given).kind == kind


def test_a_class_of_its_own_that_leaves_out_the_constructor_is_an_instruction_all_the_same() -> None:
    def bare(kind: type[Exception]) -> Any:
        return type("Own", (kind,), {"__init__": lambda self: None})()

    assert (bare(Reject).kind, bare(Retry).after, bare(Unavailable).dependency) == ("rejected", None, "a dependency")
    assert (bare(Throttled).after, bare(Throttled).park) == (1.0, None)


def test_a_class_of_its_own_may_say_its_kind() -> None:
    class NotFound(Reject):
        kind = "not_found"

    assert (NotFound("no").kind, NotFound("no", kind="gone").kind) == ("not_found", "gone")


def test_of_a_handlers_own_validation_with_very_many_faults_their_number_is_told() -> None:
    for count, told in ((2_000, "the data does not fit Order: 2,000 faults"), (2, "2 validation errors for Order")):
        with pytest.raises(ValidationError) as caught:
            Order.model_validate({"lines": [0] * count})
        assert text_of(caught.value).startswith(told)
        in_log = "".join(format_exception(*told_from_handler(caught.value)))
        assert told in in_log
        assert "in test_of_a_handlers_own_validation" in in_log
        assert in_log.count("should be a valid string") in (0, 2)


def test_an_error_whose_text_fails_is_told_all_the_same() -> None:
    class Wrong(Exception):
        def __str__(self) -> str:
            return self.args[0]  # type: ignore[no-any-return]

    assert describe(Wrong(404)) == "Wrong: its text can't be told, as its own __str__ fails"


def test_of_a_text_without_end_the_beginning_is_told() -> None:
    told = text_of(ValueError("x" * 20_000_000))
    assert told.startswith("xxx")
    assert told.endswith("x… (20,000,000 characters)")
    assert len(told) < 11_000
