"""A stage hands its handler what it needs to know, and knows where its jobs go."""

from __future__ import annotations

from typing import Any

from pipeline.config.models import Policy
from pipeline.handlers import Handler, Setup
from pipeline.ledger.database import Database
from pipeline.resources import NoOptions
from pipeline.stages import Stage


class Curious(Handler):
    name = "curious"

    async def start(self, setup: Setup) -> None:
        self.setup = setup

    async def handle(self, event: Any, context: Any) -> None: ...


async def test_a_handler_is_told_of_database_extensions_and_queue() -> None:
    handler: Any = Curious(NoOptions())
    database = Database("sqlite:///nowhere.db")
    stage = Stage("one", handler, Policy())
    await stage.start("p", {"crm": 1}, database=database, extensions={"colours": ["red"]}, use_queue=False)
    setup: Setup = handler.setup
    assert (setup.stage, setup.pipeline, setup.resource("crm")) == ("one", "p", 1)
    assert (setup.database, setup.extensions, setup.use_queue) == (database, {"colours": ["red"]}, False)
    assert setup.log.name == "pipeline.stage.one"
    await database.close()


async def test_what_a_test_leaves_out_has_a_default() -> None:
    handler: Any = Curious(NoOptions())
    await Stage("one", handler, Policy()).start("p", {})
    assert (handler.setup.database, dict(handler.setup.extensions), handler.setup.use_queue) == (None, {}, True)


def test_the_jobs_of_an_async_stage_go_to_the_queue_stages_or_the_one_that_it_names() -> None:
    plain = Stage("one", Curious(NoOptions()), Policy())
    named = Stage("one", Curious(NoOptions()), Policy(), is_async=True, queue="slow")
    assert (plain.is_async, plain.queue, named.is_async, named.queue) == (False, "stages", True, "slow")
