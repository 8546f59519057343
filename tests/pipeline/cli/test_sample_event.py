"""The first event that a runner proposes is one that the pipeline takes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.files import open_file
from pipeline.cli.sample_event import publish_command, sample_event
from tests.pipeline.cli.support import HELLO, run, write

SAMPLE = Path(__file__).parents[3] / "pipeline.toml"
MODEL = """
from typing import Literal
from pydantic import BaseModel, Field
from pipeline import Event, handler

class Order(BaseModel):
    order_id: str
    total: float
    count: int
    express: bool
    kind: Literal["a", "b"]
    colour: str = Field(examples=["red"])
    lines: list[str]
    note: str = ""

@handler("ship")
async def ship(event: Event[Order]) -> None: pass
"""


def event(text: str, known: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
    loaded = open_file(write(text)).loaded
    return sample_event(loaded, loaded.config.route[0], known or {})


def test_the_sample_pipelines_first_event_pauses_the_sample_workflow() -> None:
    loaded = open_file(SAMPLE).loaded
    program, key, data = shlex.split(publish_command(loaded, {"workflow_id": "sample-workflow"}))
    assert (program, key) == ("publish", "admin.workflow.paused")
    assert json.loads(data) == {
        "workflow_id": "sample-workflow",
        "event_type": "admin.workflow.paused",
        "bom_id": "bom-1",
        "admin_id": "admin-1",
    }


def test_wildcards_are_filled_in_where_no_option_names_a_key() -> None:
    assert event(HELLO)[0] == "hello.example"
    assert event(HELLO.replace("hello.*", "a.#.b"))[0] == "a.example.b"


def test_required_fields_of_the_handlers_model_have_values_of_their_types() -> None:
    Path("mine.py").write_text(MODEL)
    text = HELLO.replace('name = "hello"', 'handlers = "mine.py"').replace('"log"', '"ship"')
    key, data = event(text, {"count": 7})
    assert data == {
        "order_id": "order-1", "total": 1.5, "count": 7, "express": True, "kind": "a", "colour": "red", "lines": [],
    }  # fmt: skip
    assert run("publish", key, json.dumps(data)).code == 0


def test_fields_that_keys_and_expressions_read_are_there_but_not_those_of_other_keys() -> None:
    rows = (
        '[[stage.audit.row]]\nmatch = "hello.*"\naction = "data.new.risk + string(data.name.size())"\n'
        '[[stage.audit.row]]\nmatch = "other.#"\naction = "data.elsewhere"\n'
    )
    text = HELLO.replace('stages = ["log"]', 'key = "data.order.id"\nstages = ["audit"]') + rows
    assert event(text)[1] == {"order": {"id": "id-1"}, "new": {"risk": "risk-1"}, "name": "name-1"}


def test_an_apostrophe_does_not_end_the_shells_quotes() -> None:
    loaded = open_file(write(HELLO.replace("[[route]]", '[[route]]\nkey = "data.id"'))).loaded
    command = publish_command(loaded, {"id": "it's $HOME"})
    assert json.loads(shlex.split(command)[-1]) == {"id": "it's $HOME"}


@pytest.mark.parametrize("match", ["hello.*", "#", "*", "hello.you"])
def test_the_proposed_event_takes_the_route(match: str) -> None:
    key, _ = event(HELLO.replace("hello.*", match))
    assert run("routes", key).code == 0
