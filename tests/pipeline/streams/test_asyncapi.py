"""The AsyncAPI document that FastStream makes of a broker."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from faststream.specification.asyncapi import AsyncAPI
from pydantic import BaseModel

from pipeline.connectors import Message
from pipeline.streams.broker import StreamBroker
from pipeline.streams.config import Channel
from pipeline_plugins.memory import MemoryConnector

VERSIONS = pytest.mark.parametrize("version", ["2.6.0", "3.0.0"])


class Actor(BaseModel):
    name: str


class Paused(BaseModel):
    workflow_id: str
    actor: Actor


def document(broker: StreamBroker, version: Literal["2.6.0", "3.0.0"]) -> dict[str, Any]:
    made: dict[str, Any] = AsyncAPI(broker, schema_version=version).to_specification().to_jsonable()
    return made


@pytest.fixture
def broker() -> StreamBroker:
    return StreamBroker(MemoryConnector("memory://user:secret@host/x"))


@VERSIONS
def test_a_subscriber_is_one_channel(broker: StreamBroker, version: Any) -> None:
    @broker.subscriber("orders", group="g")
    async def take(batch: list[Message]) -> None:
        """Takes orders."""

    channels = document(broker, version)["channels"]

    assert list(channels) == ["orders:Take"]
    assert channels["orders:Take"]["description"] == "Takes orders."


def test_a_title_names_the_channel(broker: StreamBroker) -> None:
    @broker.subscriber("orders", group="g", title="Orders", description="All of them.")
    async def take(batch: list[Message]) -> None: ...

    channels = document(broker, "3.0.0")["channels"]

    assert list(channels) == ["Orders"]
    assert channels["Orders"]["description"] == "All of them."
    assert channels["Orders"]["address"] == "orders"


@VERSIONS
def test_each_declared_channel_is_one_with_its_payload(broker: StreamBroker, version: Any) -> None:
    channels = [
        Channel("admin.workflow.paused", "A workflow is paused.", Paused.model_json_schema()),
        Channel("admin.#", "Everything else.", {"type": "object"}, address="admin.#"),
    ]

    @broker.subscriber("stream.platform.admin", group="g", channels=channels)
    async def admit(batch: list[Message]) -> None: ...

    made = document(broker, version)

    assert set(made["channels"]) == {"admin.workflow.paused", "admin.#"}
    assert made["channels"]["admin.workflow.paused"]["description"] == "A workflow is paused."
    schemas = made["components"]["schemas"]
    assert schemas["Paused"]["properties"]["actor"] == {"$ref": "#/components/schemas/Actor"}
    assert schemas["Actor"]["properties"]["name"]["type"] == "string"
    if version == "3.0.0":
        addresses = {name: channel["address"] for name, channel in made["channels"].items()}
        assert addresses == {"admin.workflow.paused": "stream.platform.admin", "admin.#": "admin.#"}


def test_making_the_document_twice_makes_the_same(broker: StreamBroker) -> None:
    @broker.subscriber("s", group="g", channels=[Channel("a", None, Paused.model_json_schema())])
    async def admit(batch: list[Message]) -> None: ...

    assert document(broker, "3.0.0") == document(broker, "3.0.0")


@VERSIONS
def test_a_publisher_is_a_channel(broker: StreamBroker, version: Any) -> None:
    broker.publisher("out", routing_key="done", schema=Paused, description="What is done.")

    made = document(broker, version)

    assert list(made["channels"]) == ["out:done:Publisher"]
    assert made["channels"]["out:done:Publisher"]["description"] == "What is done."
    assert "Paused" in made["components"]["schemas"]


def test_what_is_not_to_be_shown_is_not(broker: StreamBroker) -> None:
    @broker.subscriber("s", group="g", include_in_schema=False)
    async def take(batch: list[Message]) -> None: ...

    assert document(broker, "3.0.0")["channels"] == {}


def test_the_server_is_shown_without_its_password(broker: StreamBroker) -> None:
    (server,) = document(broker, "3.0.0")["servers"].values()

    assert server["host"] == "host"
    assert server["protocol"] == "memory"
    assert "secret" not in str(document(broker, "3.0.0"))
