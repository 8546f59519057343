"""A stage hands its handler what it needs to know, and knows where its jobs go."""

from __future__ import annotations

from typing import Any

from pipeline.config.models import Policy
from pipeline.config.policies import RateLimit
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


async def test_a_handler_may_keep_rate_limits_itself_and_the_engine_keeps_the_others() -> None:
    class Keeps(Curious):
        kept: tuple[RateLimit, ...] = ()

        def take_rate_limits(self, limits: tuple[RateLimit, ...]) -> tuple[RateLimit, ...]:
            self.kept = tuple(limit for limit in limits if limit.key)
            return tuple(limit for limit in limits if not limit.key)

    policy = Policy.model_validate({"rate_limit": ["9/s", {"rate": "1/s", "key": "data.k"}], "timeout": 7})
    handler = Keeps(NoOptions())
    stage = Stage("one", handler, policy)
    assert [str(limit) for limit in handler.kept] == ["1/s for each data.k"]
    assert ([str(limit) for limit in stage.policy.rate_limit], stage.policy.timeout) == (["9/s"], 7)
    assert Stage("two", Curious(NoOptions()), policy).policy is policy
