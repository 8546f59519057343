"""Dead letters that are copied to a stream: another source reads there what came, and why it is dead."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline import Pipeline
from pipeline.connectors import Connector, Outgoing
from pipeline.errors import ConfigError
from tests.pipeline.dispatch.harness import eventually

HANDLERS = """
import json
from pathlib import Path
from pipeline import Event, Reject, handler

@handler("refuse")
async def refuse(event: Event) -> None:
    raise Reject("bad data", kind="bad")

@handler("keep")
async def keep(event: Event) -> None:
    told = {"id": event.id, "key": event.routing_key, "body": event.body.decode(), "headers": dict(event.headers)}
    Path(__file__).with_name("kept.json").write_text(json.dumps(told))
"""

FILE = """
[pipeline]
handlers = ["mine.py"]
[broker]
url = "embedded://{folder}/events.db"
[database]
url = "sqlite:///{folder}/pipeline.db"
[source.orders]
stream = "orders"
group = "g"
dead_letters = {copies}
[source.failures]
stream = "orders.dead-letters"
group = "g"
[[route]]
name = "sales"
source = "orders"
match = "#"
stages = ["refuse"]
[[route]]
source = "failures"
match = "#"
stages = ["keep"]
"""


async def test_a_dead_letter_is_read_from_its_stream_with_its_bytes_and_headers(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(HANDLERS)
    path = tmp_path / "pipeline.toml"
    path.write_text(FILE.format(folder=tmp_path, copies="true"))
    kept = tmp_path / "kept.json"
    async with Pipeline.from_file(path, environ={}) as pipeline:
        connector: Connector = type(pipeline.connector)(pipeline.connector.url)
        await connector.connect()
        await connector.publish("orders", [Outgoing(b'{"n": 1.0}', "order.placed", "e1", {"tenant": "x"})])
        await connector.close()
        await eventually(kept.exists)
        await eventually(lambda: pipeline.stats().messages_processed == 2)

    told = json.loads(kept.read_text())
    assert (told["key"], told["body"]) == ("order.placed", '{"n": 1.0}')
    assert told["id"] != "e1"
    at = told["headers"].pop("x-dead-letter-at")
    assert at.endswith("+00:00")
    assert told["headers"] == {
        "tenant": "x", "x-dead-letter-reason": "bad data", "x-dead-letter-kind": "bad",
        "x-dead-letter-route": "sales",
        "x-dead-letter-stage": "refuse", "x-dead-letter-attempts": 1, "x-dead-letter-source": "orders",
        "x-dead-letter-group": "g", "x-dead-letter-stream": "orders", "x-dead-letter-offset": 0,
        "x-dead-letter-event-id": "e1", "x-dead-letter-where": "mine.py:refuse",
    }  # fmt: skip


def test_a_source_may_not_copy_its_dead_letters_to_its_own_stream(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(HANDLERS)
    path = tmp_path / "pipeline.toml"
    path.write_text(FILE.format(folder=tmp_path, copies='"orders"'))
    with pytest.raises(ConfigError, match="own stream"):
        Pipeline.from_file(path, environ={})
