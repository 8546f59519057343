"""Templates as options: compiled and checked where they stand, and they see what their plugin lets them see."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pytest

from pipeline.expressions import Expressions, compile_expression
from pipeline.handlers import Handler
from pipeline.templates import Template, TemplateText, compile_template, template_type
from tests.pipeline.config.fakes import CATALOG, SOUND, Folder, Options

ActionText = Annotated[Template, template_type(extra=("entity", "execution"))]


class LetterOptions(Options):
    to: TemplateText
    text: ActionText = Template("")


class Letter(Handler[LetterOptions]):
    name = "letter"
    Options = LetterOptions


VARIABLES: dict[str, Any] = {
    "data": {"name": "Ada"},
    "headers": {},
    "entity": {"type": "policy", "id": "p-1", "status": None, "data": {"pages": 3, "tags": ["a", "b"]}},
    "execution": {"id": "e-1", "workflow": "publish"},
}


def test_a_template_sees_the_events_names_and_those_that_its_plugin_adds() -> None:
    text = "{{ entity.type }}/{{ entity['id'] + '/' + execution.id }}: {{ entity.data.pages * 2 }} for {{ data.name }}"
    options = LetterOptions(to="x", text=text)  # type: ignore[arg-type]
    assert options.text.render(VARIABLES) == ("policy/p-1/e-1: 6 for Ada", "")


def test_a_value_that_is_not_there_leaves_its_place_empty_with_the_reason() -> None:
    template = compile_template("<{{ entity.status }}{{ entity.owner }}>", extra=("entity",))
    assert template.render(VARIABLES) == ("<>", "entity.owner: there is no field 'owner'")
    assert compile_template("<{{ entity.id }}>", extra=("entity",)).render({"data": {}}) == (
        "<>", "entity.id: a field was asked of what is no object",
    )  # fmt: skip


def test_only_the_fields_that_are_asked_for_need_to_be_readable() -> None:
    template = compile_template("{{ entity.id + '!' }}", extra=("entity",))
    assert template.render({"entity": {"id": "p-1", "other": 2**70}}) == ("p-1!", "")
    whole = compile_template("{{ size(entity) }}", extra=("entity",))
    assert whole.render({"entity": {"id": "p-1", "other": 2**70}})[1].endswith("which has more than 64 bits")


def test_expressions_of_different_names_are_worked_out_together() -> None:
    both = Expressions(
        {
            "a": compile_expression("entity.id + execution.id", extra=("entity", "execution")),
            "b": compile_expression("outcome + data.name", extra=("outcome",)),
            "c": "size(data) + 1",
        }
    )
    values, reasons = both.evaluate({**VARIABLES, "outcome": "dead"})
    assert (values, reasons) == ({"a": "p-1e-1", "b": "deadAda", "c": 2}, {})


def test_a_constant_of_the_standard_is_no_field_of_a_map() -> None:
    expression = compile_expression("google.protobuf.NullValue.NULL_VALUE")
    assert expression.value({}) == (0, "") or expression.value({}) == (None, "")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


CATALOG_WITH_LETTER = replace(CATALOG, handlers={"letter": Letter})
LETTER = SOUND.replace('"log"', '"letter"') + "[stage.letter]\n"


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("to", "{{ dta.x }}", "unknown name 'dta.x': did you mean 'data'? (column 4 of 'dta.x')"),
        ("to", "{{ entity.x }}", "unknown name 'entity.x'"),
        ("to", "{{ data.x", "'{{' and '}}' do not pair"),
        ("to", "{{ [1] }}", "it gives list<int>, and a text is wanted"),
        ("text", "{{ entit.id }}", "unknown name 'entit.id': did you mean 'entity'?"),
        ("text", "{{ entity }}", "it gives map<string, dyn>, and a text is wanted"),
        ("text", "{{ outcome }}", "'outcome' is known in 'finally' stages only"),
    ],
)
def test_a_mistake_in_a_template_is_told_at_its_key(folder: Folder, key: str, text: str, said: str) -> None:
    needed = "" if key == "to" else "to = 'x'\n"
    line, path, message = folder.only_problem(LETTER + f"{needed}{key} = '''{text}'''\n", CATALOG_WITH_LETTER)
    assert (line, path) == (9 + bool(needed), f"stage.letter.{key}")
    assert message.startswith(said)


def test_a_template_is_a_text_in_the_schema_and_when_it_is_written(folder: Folder) -> None:
    options = LetterOptions(to="{{ outcome }}")  # type: ignore[arg-type]
    assert options.model_dump(mode="json") == {"to": "{{ outcome }}", "text": ""}
    schema = LetterOptions.model_json_schema()["properties"]
    assert schema["text"] == {"default": "", "format": "template", "title": "Text", "type": "string"}
    assert schema["to"]["format"] == "template"
    assert options == LetterOptions(to=compile_template("{{ outcome }}", extra=("outcome", "error")))
    assert str(options.to) == "{{ outcome }}"
