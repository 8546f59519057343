"""By default workflow-control sends a workflow fewer than five signals within a second, and any number to others."""

from __future__ import annotations

from pipeline.policies.middleware import Throttled
from pipeline.policies.rate_limit import RateLimits
from pipeline_handlers.workflow_control import WorkflowControlHandler, WorkflowControlOptions
from tests.pipeline.policies.samples import Calls, Clock, delivery


async def test_no_workflow_gets_five_signals_within_a_second() -> None:
    clock, sent = Clock(), []
    options = WorkflowControlOptions.model_validate({"workflow_id": "data.of.workflow"})
    limits = WorkflowControlHandler.default_policy(options).rate_limit
    call = RateLimits(limits, clock).wrap(Calls(lambda batch: sent.extend(clock.at for _ in batch)))
    for number in range(20):
        event = delivery(f"e{number}", of={"workflow": "w"})
        while results := await call([event]):  # as in a lane: the next comes when this one is done
            assert isinstance(results[0], Throttled)
            clock.at += results[0].after
    assert max(sum(first <= at < first + 1 for at in sent) for first in sent) == 4
    assert await call([delivery(f"o{number}", of={"workflow": f"w{number}"}) for number in range(50)]) is None
