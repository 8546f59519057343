"""The keys of [resource.temporal]: what is understood, and what is refused with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.errors import UserError
from pipeline_plugins.temporal import TemporalResource, pipeline_resources
from pipeline_plugins.temporal.options import TemporalOptions


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("temporal.example:7000", "temporal.example:7000"),
        ("temporal.example", "temporal.example:7233"),
        (" localhost:7233 ", "localhost:7233"),
        ("[::1]:7000", "[::1]:7000"),
        ("[::1]", "[::1]:7233"),
        ("::1", "[::1]:7233"),
        ("", None),
        (None, None),
    ],
)
def test_an_address_may_leave_the_port_out(written: str | None, meant: str | None) -> None:
    assert TemporalOptions(address=written).address == meant


@pytest.mark.parametrize(
    "options",
    [
        {"address": "http://localhost:7233"},
        {"address": "localhost:port"},
        {"address": "localhost:0"},
        {"address": "localhost:70000"},
        {"address": ":7233"},
        {"namespace": ""},
        {"timeout": 0},
        {"port": 0},
        {"tls": {"cert": "client.pem"}},
        {"tls": {"certificate": "client.pem"}},
        {"host": "localhost"},
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TemporalOptions.model_validate(options)


def test_an_api_key_is_never_shown() -> None:
    options = TemporalOptions.model_validate({"address": "a:1", "api_key": "secret-key"})
    assert "secret-key" not in repr(options) + options.model_dump_json() + TemporalResource(options).describe()


def test_the_variables_of_the_reference_supply_the_address() -> None:
    [kind] = pipeline_resources()
    assert kind.name == "temporal"
    assert kind.environment["address"] == "TEMPORAL_HOST"
    assert set(kind.environment) <= set(kind.Options.model_fields)


async def test_a_tls_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "ca.pem"
    resource = TemporalResource(TemporalOptions.model_validate({"address": "a:1", "tls": {"ca": str(missing)}}))
    with pytest.raises(UserError, match=r"tls\.ca: can't read .*ca\.pem: No such file"):
        await resource.start()
    await resource.stop()


async def test_a_given_address_starts_no_server_and_waits_for_none() -> None:
    resource = TemporalResource(TemporalOptions(address="127.0.0.1:1"))
    await resource.start()
    assert resource.describe() == "Temporal at 127.0.0.1:1, namespace default"
    await resource.stop()
