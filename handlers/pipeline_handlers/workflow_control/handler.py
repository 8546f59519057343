"""The handler: sends what events ask for, many signals at once, and has it followed up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final

from pydantic import BaseModel

from pipeline import Delivery, Handler, Reject, Setup, Throttled, Unavailable
from pipeline.config.models import Policy
from pipeline.config.policies import RateLimit
from pipeline.errors import PluginError
from pipeline.jobs.contract import INLINE, Job, Settlement, Work
from pipeline_handlers.workflow_control.asking import Asked, ask
from pipeline_handlers.workflow_control.followups import FollowUps
from pipeline_handlers.workflow_control.jobs import batch_job, verify_job
from pipeline_handlers.workflow_control.options import WorkflowControlOptions
from pipeline_handlers.workflow_control.pacing import Pacer, first_turn
from pipeline_handlers.workflow_control.sending import Sender
from pipeline_handlers.workflow_control.trail import audit_row, told

__all__ = ["WorkflowControlHandler"]

_MOST_NAMED: Final = 20
"""So many workflows are named in an error."""


class WorkflowControlHandler(Handler[WorkflowControlOptions]):
    """Sends signals, many at once, but those to one workflow one after the other, in stream order.

    Where the route's ordering key is the workflow's id, order holds whatever fails, since the events behind one that
    is tried again wait. Where it is not, a signal that is tried again may come after a later one.

    Whether signals took effect, and how batch operations ended, is seen to by jobs, so that no event waits for it.
    """

    name = "workflow-control"
    Options: ClassVar[type[BaseModel]] = WorkflowControlOptions
    resources: ClassVar[tuple[str, ...]] = ("temporal",)

    # A batch is done when its slowest signal is: as many as are sent at once wait for no other.
    max_batch = 50

    def __init__(self, options: WorkflowControlOptions) -> None:
        super().__init__(options)
        self._pacer = Pacer(())

    @classmethod
    def needs(cls, options: WorkflowControlOptions) -> tuple[str, ...]:
        """The resource that the options name."""
        return (options.resource,)

    @classmethod
    def default_policy(cls, options: WorkflowControlOptions) -> Policy:
        """Each workflow gets fewer than five signals within a second: more are too much for its history.

        What is counted are signals, whichever events ask for them; see `take_rate_limits`.
        """
        return Policy(rate_limit=(RateLimit(rate=4.0, burst=1, key=options.workflow_id.text),))

    @classmethod
    def queues(cls, options: WorkflowControlOptions) -> tuple[str, ...]:
        """The queue of what follows up, where anything does, and it is not the runner's own."""
        return (options.queue,) if options.leaves_jobs and options.queue != INLINE else ()

    def take_rate_limits(self, limits: tuple[RateLimit, ...]) -> tuple[RateLimit, ...]:
        """Keep those by the workflow's id: what they count is signals, of whichever event."""
        own = [limit for limit in limits if limit.key == self.options.workflow_id.text]
        self._pacer = Pacer(own)
        return tuple(limit for limit in limits if limit not in own)

    async def start(self, setup: Setup) -> None:
        """Take hold of the resource.

        Raises:
            PluginError: It can't do what the options ask for.
        """
        temporal: Any = setup.resource(self.options.resource)
        wanted = {"query": "verify", "signals_after": "verify", "start_batch": "batch"}
        for method, option in wanted.items():
            if getattr(self.options, option) and not hasattr(temporal, method):
                raise PluginError(
                    f"stage {setup.stage!r}: the resource {self.options.resource!r} has no {method}, which {option} "
                    "needs"
                )
        self._sender = Sender(self.options, temporal, self._pacer, setup.log)
        self._follow_ups = FollowUps(temporal, self.options, setup.log)

    async def handle_batch(self, batch: Sequence[Delivery]) -> Sequence[BaseException | None]:
        """Send every event's signals; per event None, or why not."""
        errors: list[BaseException | None] = [None] * len(batch)
        found: dict[int, Asked] = {}
        for index, (event, context) in enumerate(batch):
            try:
                found[index] = ask(self.options, event, context)
            except Reject as error:
                errors[index] = error
        await self._sender.send(list(found.values()))
        for index, asked in found.items():
            verdict = errors[index] = self._verdict(asked)
            if verdict is None:
                self._leave(asked)
            if verdict is None or isinstance(verdict, Reject):
                self._sender.forget(asked)
            elif not isinstance(verdict, Throttled | Unavailable):
                self._sender.forget_rejections(asked)
        return errors

    async def run_jobs(self, work: Work) -> None:
        """Look whether signals took effect, and how batch operations ended."""
        await self._follow_ups.run(work)

    async def jobs_failed(self, settlement: Settlement, jobs: Sequence[Job], reason: str) -> None:
        """What was to be looked at is not known."""
        self._follow_ups.failed(settlement, jobs, reason)

    def _verdict(self, asked: Asked) -> Exception | None:
        """What the errors of an event's workflows mean for the event.

        An outage comes first, then what may yet succeed; an event that is dead has no workflow whose turn never came.
        """
        if not asked.errors:
            return None
        errors = {name: asked.errors[name] for name in (*asked.workflow_ids, "") if name in asked.errors}
        passing = [error for error in errors.values() if not isinstance(error, Reject)]
        if passing:
            throttled = [error for error in passing if isinstance(error, Throttled)]
            outage = next((error for error in passing if isinstance(error, Unavailable)), None)
            return outage or (first_turn(throttled) if throttled else passing[0])
        if not asked.is_list:
            return next(iter(errors.values()))
        if self.options.partial == "accept" and len(errors) < len(asked.workflow_ids):
            return None
        kinds = {getattr(error, "kind", "") for error in errors.values()}
        kind = kinds.pop() if len(kinds) == 1 else "some_rejected"
        return Reject(
            f"{len(errors)} of {len(asked.workflow_ids)} workflows took no signal: {_named(errors)}", kind=kind
        )

    def _leave(self, asked: Asked) -> None:
        """Leave rows, and jobs that follow up, with the event."""
        context = asked.context
        for row in asked.rows:
            context.add(row)
        if asked.query:
            context.enqueue(batch_job(self.options, asked))
            return
        if asked.is_list:
            results = {name: getattr(asked.errors.get(name), "kind", "sent") for name in asked.workflow_ids}
            details = {"signal": asked.signal, "requested_at": told(asked.at), "workflows": results}
            notes = f"{len(asked.errors)} took no signal: {_named(asked.errors)}" if asked.errors else None
            context.add(
                audit_row("workflow_signals_sent", asked.cause, details, entity=("workflow", None), notes=notes)
            )
        sent = [name for name in asked.workflow_ids if name not in asked.errors]
        if job := verify_job(self.options, asked, sent):
            context.enqueue(job)


def _named(errors: dict[str, Exception]) -> str:
    """Which workflows took no signal, by kind."""
    by_kind: dict[str, list[str]] = {}
    for name, error in list(errors.items())[:_MOST_NAMED]:
        by_kind.setdefault(getattr(error, "kind", type(error).__name__), []).append(repr(name))
    words = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in by_kind.items())
    return words if len(errors) <= _MOST_NAMED else f"{words}; and {len(errors) - _MOST_NAMED} more"
