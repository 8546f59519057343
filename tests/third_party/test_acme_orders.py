"""A stranger's plugin package, written from `docs/` alone: installed, named in the TOML, done."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docs.shell import Running, Shell, until
from tests.third_party.installing import PIPELINE, installed

pytestmark = pytest.mark.slow  # each starts processes

PACKAGE = Path(__file__).parent / "acme_orders"
FILE = """
[pipeline]
name = "acme"

[source.orders]
stream = "orders"
group = "acme"

[[route]]
match = "order.*"
key = "data.order_id"
stages = ["acme-orders"]
finally = ["audit"]

[stage.acme-orders]
minimum = 5

[resource.acme-rates]
file = "rates.json"
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new virtual environment, in which this project and the stranger's package are installed."""
    return installed(PACKAGE, tmp_path_factory.mktemp("stranger") / "venv")


@pytest.fixture
def shell(programs: Path, tmp_path: Path) -> Shell:
    """A shell in a folder with the stranger's `pipeline.toml`."""
    (tmp_path / "pipeline.toml").write_text(FILE)
    return Shell(tmp_path, path=programs)


@pytest.fixture
def runner(shell: Shell) -> Iterator[Running]:
    with shell.start(f"{PIPELINE} run") as running:
        running.prints("source orders: running")
        yield running


def write_rates(shell: Shell) -> None:
    (shell.folder / "rates.json").write_text('{"EUR": 1, "USD": 0.5}')


def publish(shell: Shell, *events: tuple[str, dict[str, Any]]) -> None:
    lines = [json.dumps({"routing_key": key, "data": data}) for key, data in events]
    (shell.folder / "events.jsonl").write_text("\n".join(lines))
    shell.type(f"{PIPELINE} publish --file events.jsonl")


def placed(order_id: str, customer: str, amount: float, currency: str = "EUR") -> tuple[str, dict[str, Any]]:
    data = {"order_id": order_id, "customer": customer, "amount": amount, "currency": currency}
    return "order.placed", data


def query(shell: Shell, statement: str) -> list[tuple[Any, ...]]:
    database = sqlite3.connect(f"file:{shell.folder}/.pipeline/pipeline.db?mode=ro", uri=True)
    try:
        return database.execute(statement).fetchall()
    finally:
        database.close()


def query_gives(shell: Shell, statement: str, expected: list[tuple[Any, ...]]) -> None:
    found: list[tuple[Any, ...]] = []

    def holds() -> bool:
        found[:] = query(shell, statement)
        return found == expected

    until(holds, lambda: f"{expected}; it is {found}")


def test_it_is_listed_with_all_that_it_brings(shell: Shell) -> None:
    listed = json.loads(shell.type(f"{PIPELINE} plugins --json"))
    assert listed["broken"] == 0
    assert {plugin["name"]: plugin for plugin in listed["plugins"]}["acme-orders"] == {
        "name": "acme-orders", "distribution": "acme-orders 1.0.0", "handlers": ["acme-orders"], "connectors": [],
        "resources": ["acme-rates"], "tables": ["acme_orders"], "commands": ["acme"], "extensions": {},
        "error": None,
    }  # fmt: skip


def test_its_command_stands_among_the_others(shell: Shell) -> None:
    write_rates(shell)
    assert "  acme  " in shell.type(f"{PIPELINE} --help")
    assert shell.type(f"{PIPELINE} acme rates rates.json") == "1 EUR = 1 EUR\n1 USD = 0.5 EUR\n"


def test_its_options_are_checked(shell: Shell) -> None:
    assert "pipeline.toml is fine: 1 route" in shell.type(f"{PIPELINE} check")
    file = shell.folder / "pipeline.toml"
    file.write_text(FILE.replace("minimum = 5", 'minimum = "few"').replace('file = "rates.json"', ""))
    said = shell.type(f"{PIPELINE} check", exit_code=1)
    assert "pipeline.toml:16: stage.acme-orders.minimum: it must be a number, not 'few'" in said
    assert "resource.acme-rates.file: the key is missing" in said
    assert "2 problems" in said


def state_of_source(shell: Shell) -> str:
    stats = json.loads(shell.type(f"{PIPELINE} stats --json", exit_code=None))
    return str(stats["instances"][0]["sources"]["orders"]["state"])


def test_its_events_leave_its_rows(shell: Shell, runner: Running) -> None:
    write_rates(shell)
    cancelled = ("order.cancelled", {"order_id": "o-1"})
    publish(shell, placed("o-1", "ada", 20, "USD"), placed("o-2", "bob", 20), cancelled, placed("o-3", "eve", 2))
    orders = "SELECT order_id, customer, amount, currency, status FROM acme_orders ORDER BY order_id"
    query_gives(shell, orders, [("o-1", "ada", 10, "EUR", "cancelled"), ("o-2", "bob", 20, "EUR", "placed")])
    audited = [("order.cancelled", "handled"), ("order.placed", "filtered"), *[("order.placed", "handled")] * 2]
    query_gives(shell, "SELECT action, outcome FROM audit_logs ORDER BY action, outcome", audited)
    assert "order o-1 of ada" in runner.output


def test_what_it_refuses_is_a_dead_letter(shell: Shell, runner: Running) -> None:
    write_rates(shell)
    no_order = ("order.packed", {"order_id": "o-1"})
    publish(shell, placed("o-1", "ada", 20), placed("o-2", "ada", -1), placed("o-3", "ada", 2, "XXX"), no_order)
    publish(shell, placed("o-1", "bob", 30))
    kinds = ["invalid_data", "unknown_currency", "unknown_event", "unwritable"]
    query_gives(shell, "SELECT kind FROM dead_letters ORDER BY kind", [(kind,) for kind in kinds])
    assert query(shell, "SELECT order_id, customer FROM acme_orders") == [("o-1", "ada")]


def test_while_what_it_needs_is_away_its_events_wait(shell: Shell, runner: Running) -> None:
    publish(shell, placed("o-1", "ada", 20))
    runner.prints("acme-rates is unavailable: rates.json")
    until(lambda: state_of_source(shell) == "paused", lambda: "a heartbeat that says so")
    shell.type(f"{PIPELINE} stats", exit_code=1)
    assert query(shell, "SELECT * FROM acme_orders") == query(shell, "SELECT * FROM dead_letters") == []
    write_rates(shell)
    query_gives(shell, "SELECT order_id FROM acme_orders", [("o-1",)])
    runner.prints("acme-rates is back")
