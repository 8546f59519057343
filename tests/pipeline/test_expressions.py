"""Expressions are checked when they are read, and on an event give a value or a reason, never an exception."""

from __future__ import annotations

import math
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.cel import bind, run
from pipeline.events import Event, Outcome
from pipeline.expressions import (
    FINALLY,
    Condition,
    Expression,
    ExpressionError,
    Expressions,
    Text,
    compile_expression,
)
from pipeline.templates import compile_template


def seen(data: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    event = Event(
        "m-1", "admin.workflow.paused", data or {}, {"tenant": "acme", "x-try": 2}, timestamp=1_767_225_600_000
    )
    return event.variables() | more


def value_of(text: str, data: dict[str, Any] | None = None, **more: Any) -> Any:
    value, reason = compile_expression(text, extra=FINALLY).value(seen(data, **more))
    assert reason == ""
    return value


def reason_of(text: str, data: dict[str, Any] | None = None, **more: Any) -> str:
    value, reason = compile_expression(text, extra=FINALLY).value(seen(data, **more))
    assert value is None
    return reason


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("routing_key", "admin.workflow.paused"),
        ("id", "m-1"),
        ("time", "2026-01-01T00:00:00Z"),
        ("string(time)", "2026-01-01T00:00:00Z"),
        ("headers.tenant", "acme"),
        ("headers['x-try']", 2),
        ("data.admin_id", "u-1"),
        ("data.nested.deep", [1, {"a": None}]),
        ("data.nested['deep'][1]", {"a": None}),
        ("'workflow_' + data.event_type.split('.')[2]", "workflow_paused"),
        ("'bom_processing'", "bom_processing"),
        ('"bom_processing"', "bom_processing"),
        ("data.nothing", None),
        ("has(data.absent)", False),
        ("data.count + 1", 8),
        ("{'n': data.count, 'at': time, 1: true}", {"n": 7, "at": "2026-01-01T00:00:00Z", "1": True}),
        ("duration('90m')", "5400s"),
        ("b'ab'", "YWI="),
        ("data.absent == 'x' || true", True),
        ("data.event_type.matches('^admin[.]')", True),
    ],
)
def test_an_expression_gives_a_json_value(text: str, expected: object) -> None:
    data = {"admin_id": "u-1", "event_type": "admin.workflow.paused", "count": 7, "nothing": None}
    assert value_of(text, data | {"nested": {"deep": [1, {"a": None}]}}) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("data.absent", "there is no field 'absent'"),
        ("data.absent.further", "there is no field 'absent'"),
        ("data.absent + 'x'", "there is no field 'absent'"),
        ("data.count.further", "a field was asked of what is no object"),
        ("data.count.further + 1", "a field was asked of what is no object"),
        ("data.event_type.split('.')[9]", "index error: index=9 size=3"),
        ("data.count + 'x'", "'+' does not take (int64, string)"),
        ("1 / (data.count - 7)", "divide by zero"),
        ("1.0 / 0.0", "the result is inf, which JSON can't hold"),
        ("outcome", "outcome has no value here"),
        ("outcome + '!'", "outcome has no value here"),
    ],
)
def test_what_has_no_value_has_a_reason(text: str, reason: str) -> None:
    assert reason_of(text, {"event_type": "admin.workflow.paused", "count": 7}) == reason


def test_a_finally_stage_sees_outcome_and_error() -> None:
    assert (
        value_of("outcome + ': ' + error", outcome=Outcome.DEAD, error="no such workflow") == "dead: no such workflow"
    )
    assert value_of("outcome", outcome=Outcome.DEAD) == "dead"


@pytest.mark.parametrize(
    ("text", "message", "column"),
    [
        ("1+'a'", "'+' does not take (int, string)", 2),
        ("data.x ==", "the expression ends too early", 10),
        ("dta.x", "unknown name 'dta.x': did you mean 'data'?", 4),
        ("whatever", "unknown name 'whatever': there are routing_key, id, data, headers, time, and the fields", 1),
        ("outcome == 'dead'", "'outcome' is known in 'finally' stages only", 1),
        ("data.x in", "the expression ends too early", 10),
        ("data..x", "syntax error", 6),
        ("  ", "the expression is empty", None),
        ("id.nosuch()", "unknown name 'nosuch'", 10),
    ],
)
def test_a_wrong_expression_is_refused_with_its_column(text: str, message: str, column: int | None) -> None:
    with pytest.raises(ExpressionError) as caught:
        compile_expression(text)
    assert message in caught.value.message
    assert (caught.value.column, caught.value.text) == (column, text)


def test_a_condition_must_be_able_to_be_true() -> None:
    with pytest.raises(ExpressionError, match="it gives string, and true or false is wanted"):
        compile_expression("'yes'", want="bool")
    assert compile_expression("data.flag", want="bool").holds(seen({"flag": True})) == (True, "")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"new": {"risk": "high"}}, (True, "")),
        ({"new": {"risk": "low"}}, (False, "")),
        ({"new": {}}, (False, "there is no field 'risk'")),
        ({}, (False, "there is no field 'new'")),
        ({"new": None}, (False, "a field was asked of what is no object")),
    ],
)
def test_a_condition_on_a_missing_field_does_not_hold_and_says_why(
    data: dict[str, Any], expected: tuple[bool, str]
) -> None:
    condition = compile_expression("data.new.risk in ['high', 'critical']", want="bool")
    assert condition.holds(seen(data)) == expected


def test_a_condition_that_gives_no_boolean_does_not_hold() -> None:
    condition = compile_expression("data.flag", want="bool")
    assert condition.holds(seen({"flag": "yes"})) == (False, "it gives a text, not true or false")
    assert condition.holds(seen({"flag": None})) == (False, "it gives null, not true or false")
    assert condition.holds(seen({"flag": 1})) == (False, "it gives a number, not true or false")


def test_a_text_takes_numbers_and_booleans_but_no_objects() -> None:
    text = compile_expression("data.x", want="string")
    assert [text.value(seen({"x": x})) for x in (42, 1.5, True, None, "é")] == [
        ("42", ""), ("1.5", ""), ("true", ""), (None, ""), ("é", ""),
    ]  # fmt: skip
    assert text.value(seen({"x": {}})) == (None, "it gives an object, not a text")
    with pytest.raises(ExpressionError, match="a text is wanted"):
        compile_expression("[1]", want="string")


def test_odd_values_beside_those_that_are_read_do_no_harm() -> None:
    odd = {"big": 2**70, "nul": "a\0b", "set": {1}, "nan": math.nan}
    assert value_of("data.x + 1", odd | {"x": 1}) == 2
    assert value_of("data.big", odd) == 2**70  # a plain path needs no conversion


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"x": 2**70}, "data holds 1180591620717411303424, which has more than 64 bits"),
        ({"x": "a\0b"}, "data holds a NUL character, which expressions can't read"),
        ({"x": [{"a\0": 1}]}, "data holds a NUL character, which expressions can't read"),
    ],
)
def test_an_odd_value_that_is_read_is_a_reason_not_a_crash_and_never_a_wrong_value(
    data: dict[str, Any], reason: str
) -> None:
    assert reason_of("data.x == 1 ? 'a' : 'b'", data) == reason


@pytest.mark.parametrize("odd", [{1, 2}, (1,), object(), "\ud800", {1: 2}, math.inf])
def test_values_that_json_does_not_have_never_raise(odd: object) -> None:
    for text in ("data.x + 1", "data", "{'a': data.x}", "size(data.x)"):
        value, reason = compile_expression(text).value(seen({"x": odd}))
        assert value is None or reason == ""


def test_the_deepest_json_that_the_decoder_takes_is_read() -> None:
    deep: dict[str, Any] = {}
    inner = deep
    for _ in range(1023):
        inner["a"] = inner = {}
    assert value_of("size(data.deep)", {"deep": deep}) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), JSON, max_size=3))
@pytest.mark.slow
@settings(max_examples=300, deadline=None)
def test_no_event_makes_an_expression_raise(data: dict[str, Any]) -> None:
    texts = ("data.a", "data.a.b", "data.a + data.b", "data.a > 1", "data", "string(data.a)", "data.a.map(k, k)")
    values, reasons = Expressions({text: text for text in texts}).evaluate(seen(data))
    assert set(values) == set(texts)
    assert all(values[text] is None for text in reasons)
    assert [Expression(text).value(seen(data)) for text in texts] == [
        (values[text], reasons.get(text, "")) for text in texts
    ]


@given(st.text(alphabet="abdt.['\"]{}()+-<>=!&|?:,0 1rd", max_size=14))
@pytest.mark.slow
@settings(max_examples=500, deadline=None)
def test_any_text_either_compiles_or_is_refused(text: str) -> None:
    with suppress(ExpressionError):
        assert Expression(text).text == text


def test_several_expressions_are_evaluated_at_once_each_with_its_own_reason() -> None:
    row = Expressions({
        "action": "'workflow_' + data.event_type.split('.')[2]",
        "entity_type": "'bom_processing'",
        "entity_id": "data.bom_id",
        "user_id": "data.admin_id",
        "outcome": "outcome",
        "size": "size(data.absent)",
    })  # fmt: skip
    values, reasons = row.evaluate(seen({"event_type": "a.b.paused", "admin_id": "u"}, outcome="handled"))
    assert values == {
        "action": "workflow_paused", "entity_type": "bom_processing", "entity_id": None, "user_id": "u",
        "outcome": "handled", "size": None,
    }  # fmt: skip
    assert reasons == {"entity_id": "there is no field 'bom_id'", "size": "there is no field 'absent'"}


def test_one_odd_field_does_not_spoil_the_other_expressions() -> None:
    values, reasons = Expressions({"good": "data.a + 1", "odd": "data.b + 1"}).evaluate(seen({"a": 1, "b": 2**70}))
    assert values == {"good": 2, "odd": None}
    assert list(reasons) == ["odd"]


@pytest.mark.parametrize(
    ("text", "uses"),
    [
        ("data.a == data.b", (("data", ("a", "b")),)),
        ("data['a-b'] + headers.data", (("data", ("a-b",)), ("headers", ("data",)))),
        ("data.a.data.time", (("data", ("a",)),)),
        ("data.exists(k, k == id)", (("data", None), ("id", None))),
        ("data", (("data", None),)),
        ("data[id]", (("data", None), ("id", None))),
        (".data.a", (("data", ("a",)),)),
        ("'data.x' // data.y", ()),
        ("data . a", (("data", ("a",)),)),
        ("[1].exists(data, data == 1)", (("data", None),)),
        ("{data.a: 1}", (("data", ("a",)),)),
    ],
)
def test_only_the_fields_that_an_expression_reads_are_converted(text: str, uses: object) -> None:
    assert compile_expression(text).uses == uses


def test_plain_paths_and_the_library_agree() -> None:
    data = {"s": "x", "n": 1, "o": {"p": {"q": [1]}}, "null": None, "t": True}
    paths = ("data.s", "data.n", "data.o.p", "data.o.p.q", "data.o.x", "data.s.x", "data.t", "id", "headers.tenant")
    for path in paths:
        quick, checked = compile_expression(path), compile_expression(f"({path})")
        assert quick.quick is not None
        assert checked.quick is None
        assert quick.value(seen(data)) == checked.value(seen(data))


class Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    action: Text
    value: Expression | None = None
    when: Condition | None = None


def test_a_model_compiles_the_expressions_in_its_fields() -> None:
    row = Row.model_validate({"action": "data.n", "value": "data.n", "when": "outcome == 'dead'"})
    assert row.action.value(seen({"n": 1})) == ("1", "")
    assert row.value is not None
    assert row.value.value(seen({"n": 1})) == (1, "")
    assert row.when is not None
    assert row.when.holds(seen({}, outcome="dead")) == (True, "")
    assert row.model_dump(mode="json") == {"action": "data.n", "value": "data.n", "when": "outcome == 'dead'"}
    assert Row.model_json_schema()["properties"]["action"] == {"type": "string", "format": "cel", "title": "Action"}


def test_a_model_refuses_a_wrong_expression_by_name_of_its_field() -> None:
    with pytest.raises(ValidationError) as caught:
        Row.model_validate({"action": "1 +", "when": "1"})
    errors = {error["loc"][0]: error["msg"] for error in caught.value.errors()}
    assert "the expression ends too early" in errors["action"]
    assert any("true or false is wanted" in error["msg"] for error in caught.value.errors())


def test_a_template_fills_in_values() -> None:
    template = compile_template("{{ data.entity_id }} v{{data.n}} is {{ 'published' }}.")
    assert template.render(seen({"entity_id": "P-1", "n": 3})) == ("P-1 v3 is published.", "")
    assert template.render(seen({"n": 3})) == (" v3 is published.", "data.entity_id: there is no field 'entity_id'")
    assert compile_template("plain { text }").render(seen()) == ("plain { text }", "")


@pytest.mark.parametrize("text", ["{{ data.x", "data.x }}", "{{ }}", "{{ 1+'a' }}", "{{ data"])
def test_a_wrong_template_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        compile_template(text)


def test_the_library_is_loaded_only_when_an_expression_is_compiled() -> None:
    script = (
        "import sys, pipeline, pipeline.expressions, pipeline.templates, pipeline.routing, pipeline.config.load; "
        "assert 'cel_expr_python' not in sys.modules; from pipeline.expressions import Expression; "
        "Expression('1'); assert 'cel_expr_python' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_time_is_that_of_the_broker_in_utc() -> None:
    assert value_of("time.getFullYear()") == datetime.fromtimestamp(1_767_225_600, UTC).year


@pytest.mark.parametrize(
    "text",
    [
        "data.a.b == 'x'",
        'data.a.b != "x"',
        "data.a.b in ['x', 'y']",
        "data.a.b in ['']",
        "routing_key=='x'",
        "id in ['x']",
    ],
)
def test_comparisons_with_texts_are_what_the_library_makes_of_them(text: str) -> None:
    expression = compile_expression(text, want="bool")
    assert expression.quick is not None
    values: list[Any] = ["x", "y", "z", "", 1, 0, 1.5, True, False, None, ["x"], {"x": "x"}]
    events = [{"data": {"a": {"b": value}}, "routing_key": "x", "id": "z"} for value in values]
    for variables in (
        *events,
        {"data": {}, "routing_key": "", "id": "x"},
        {"data": {"a": 1}, "routing_key": "x", "id": ""},
    ):
        activation, reason = bind(expression.uses, variables, ())
        assert activation is not None, reason
        assert expression.quick(variables) == run(expression.program, activation)
