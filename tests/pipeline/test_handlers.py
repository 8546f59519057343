"""The handler contract: what the decorator makes of a function, and what a context is."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from pipeline import Context, Event, Handler, NoOptions, handler
from pipeline.config.models import Policy
from pipeline.errors import PluginError
from pipeline.handlers import marks_of


class Order(BaseModel):
    number: int


def event(**more: Any) -> Event[Any]:
    return Event("e1", "a.b", {"number": 1}, {}, **more)


def made(function: Any) -> type[Handler[Any]]:
    module = type("module", (), {})()
    module.function = function
    (found,) = marks_of(module)
    return found


async def test_the_decorated_function_stays_as_it_is() -> None:
    @handler("plain")
    async def plain(event: Event) -> str:
        return event.id

    assert await plain(event()) == "e1"


async def test_a_function_of_the_event_alone_becomes_a_handler() -> None:
    seen = []

    @handler("plain")
    async def plain(event: Event) -> None:
        """Says something."""
        seen.append(event.id)

    factory = made(plain)
    assert (factory.name, factory.__doc__, factory.models) == ("plain", "Says something.", {})
    await factory(NoOptions()).handle(event(), Context("s", "r", "g", "e1"))
    assert seen == ["e1"]


async def test_a_function_of_event_and_context_gets_both() -> None:
    @handler("both", resources=("crm",), policy=Policy(timeout=1))
    async def both(event: Event, context: Context) -> None:
        context.add(event.id)

    factory = made(both)
    context = Context("s", "r", "g", "e1")
    await factory(NoOptions()).handle(event(), context)
    assert context.rows == ["e1"]
    assert factory.resources == ("crm",)
    assert factory.policy.timeout == 1


async def takes_order(event: Event[Order]) -> None: ...


def test_the_annotation_of_the_event_declares_the_model() -> None:
    assert made(handler("typed")(takes_order)).models == {"#": Order}


def test_models_can_be_declared_per_routing_key() -> None:
    @handler("typed", models={"order.*": Order})
    async def typed(event: Event) -> None: ...

    assert made(typed).models == {"order.*": Order}


def test_the_request_id_is_the_same_whenever_the_event_comes_again() -> None:
    first = Context("s", "r", "g", "e1", attempt=1).request_id
    assert Context("s", "r", "g", "e1", attempt=4).request_id == first
    others = [
        Context("s2", "r", "g", "e1"),
        Context("s", "r2", "g", "e1"),
        Context("s", "r", "g2", "e1"),
        Context("s", "r", "g", "e2"),
    ]
    assert len({first, *(context.request_id for context in others)}) == 5


def test_an_events_time_is_aware_and_its_variables_are_what_expressions_see() -> None:
    one = event(timestamp=1_700_000_000_123)
    assert one.time.isoformat() == "2023-11-14T22:13:20.123000+00:00"
    assert one.variables() == {
        "routing_key": "a.b", "id": "e1", "data": {"number": 1}, "headers": {}, "time": one.time,
    }  # fmt: skip


def test_an_event_of_what_is_no_model_is_refused() -> None:
    with pytest.raises(PluginError, match="name a pydantic model"):

        @handler("odd")
        async def odd(event: Event[dict[str, Any]]) -> None:
            """Takes any event."""


async def names_what_is_not_there(event: Event[Missing]) -> None:  # type: ignore[name-defined]  # noqa: F821
    ...


def test_a_model_that_is_not_imported_at_run_time_is_refused() -> None:
    with pytest.raises(PluginError, match="'Missing' is not defined"):
        handler("typed")(names_what_is_not_there)
