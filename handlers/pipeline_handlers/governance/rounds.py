"""A round: one transaction in which a batch of executions goes as far as SQL alone can take it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from pipeline import Row
from pipeline.errors import ENDINGS, Reject
from pipeline_handlers.governance.audit import Trail
from pipeline_handlers.governance.cancelling import why_cancelled
from pipeline_handlers.governance.contract import EntityView, Step, Wait
from pipeline_handlers.governance.effects import Effects
from pipeline_handlers.governance.journal import Failure
from pipeline_handlers.governance.planning import EXECUTION_JOB, Running, plan_step, variables_of
from pipeline_handlers.governance.tables import Approval
from pipeline_handlers.governance.tries import Begun, Tried, at_once, begin, complete, fail, judge, suspend, words

if TYPE_CHECKING:
    from pipeline.jobs.contract import Job, Settlement, Work
    from pipeline.ledger.rows import RowWriter
    from pipeline_handlers.governance.definitions import Definition, Definitions, PlannedAction
    from pipeline_handlers.governance.options import GovernanceOptions
    from pipeline_handlers.governance.records import ExecutionRecord, Records

__all__ = ["MOST_LOST", "Round"]

MOST_LOST: Final = 10
"""So many workers may die on an execution before it is taken for their murderer, and failed."""


class Round:
    """One transaction over executions; made for it, and used once.

    Args:
        work: The jobs of the executions.
        settlement: The transaction.
        records: The statements.
        writer: Writes rows in bulk.
        definitions: Restores the versions that executions started with.
        settings: The stage's options.
        known: Definitions that were restored before, by id; added to.
        limit: How many tries an execution may conclude in this transaction; None for any number.

    Attributes:
        begun: Tries of external actions that are to be made once this is committed.
        unfinished: Jobs whose executions have reached the limit.
        changes: What this has written of changes of state, as `Effects.changes`.
        failures: Tries that failed.
    """

    def __init__(
        self,
        work: Work,
        settlement: Settlement,
        *,
        records: Records,
        writer: RowWriter,
        definitions: Definitions,
        settings: GovernanceOptions,
        known: dict[str, Definition],
        limit: int | None = None,
    ) -> None:
        self._work = work
        self._settlement = settlement
        self._now = settlement.now
        self._records = records
        self._writer = writer
        self._definitions = definitions
        self._settings = settings
        self._known = known
        self._limit = limit
        self.changes: list[Mapping[str, Any]] | None = [] if settings.log else None
        self._effects = Effects(changes=self.changes)
        self._views: dict[tuple[str, str], EntityView] = {}
        self.failures: list[Failure] = []
        self.begun: list[Begun] = []
        self.unfinished: list[Job] = []

    async def run(self, jobs: Sequence[Job], tried: Mapping[str, Tried]) -> None:
        """Conclude tries that have ended, and go on from there.

        Args:
            jobs: The jobs.
            tried: What tries came to, by their job's id.
        """
        held = [job for job in jobs if job.id in self._settlement.held]
        if not held:
            return
        runs = await self._load(held)
        for run in runs:
            if (outcome := tried.get(run.job.id)) is not None and not run.ended:
                self._conclude(run, outcome)
        wave = [run for run in runs if not run.ended]
        while wave:
            await self._look_at_entities(wave)
            changed: set[tuple[str, str]] = set()
            wave = [run for run in wave if self._advance(run, changed)]
            await self._effects.write(self._settlement.connection, self._writer)
        await self._effects.write(self._settlement.connection, self._writer)
        await self._records.update(self._settlement.connection, runs, self._now)
        self._effects.hand_to(self._settlement)

    async def _load(self, jobs: Sequence[Job]) -> list[Running]:
        """The executions that are to go on, locked; jobs of others are settled."""
        connection = self._settlement.connection
        found = await self._records.executions(connection, [job.id.removeprefix(EXECUTION_JOB) for job in jobs])
        pairs: list[tuple[Job, ExecutionRecord]] = []
        for job in jobs:
            record = found.get(job.id.removeprefix(EXECUTION_JOB))
            if record is None:
                self._settlement.failed(job.id, "its execution is not there any more")
            elif record.status != "in_progress" or record.phase == "waiting":
                self._settlement.done(job.id)
            else:
                pairs.append((job, record))
        started = [record.id for _, record in pairs if record.is_begun]
        actions = await self._records.actions(connection, started) if started else {}
        unknown = {record.definition_id for _, record in pairs} - self._known.keys()
        bodies = await self._records.bodies(connection, unknown) if unknown else {}
        runs = []
        for job, record in pairs:
            run = Running(job, record, None, record.position, actions.get(record.id))  # type: ignore[arg-type]
            runs.append(run)
            self._begin(run, bodies)
        return runs

    def _begin(self, run: Running, bodies: Mapping[str, Any]) -> None:
        """Take the execution up, with its definition; or fail it where that can't be."""
        if run.record.phase != "running":
            self._audit(run, "execution_running")
        if run.job.lost >= MOST_LOST:
            self._give_up(run, f"its worker was lost {run.job.lost} times")
            return
        definition_id = run.record.definition_id
        definition = self._known.get(definition_id)
        if definition is None:
            try:
                definition = self._definitions.restore(definition_id, bodies[definition_id])
            except KeyError:
                self._give_up(run, f"its definition {definition_id} is not stored")
                return
            except Exception as error:  # noqa: BLE001 - what a stored definition needs may be gone in many ways
                self._give_up(run, f"its definition {definition_id} can't be used any more: {error}")
                return
            self._known[definition_id] = definition
        run.definition = definition

    async def _look_at_entities(self, wave: Sequence[Running]) -> None:
        keys = {run.entity_key for run in wave}
        locked = {
            run.entity_key
            for run in wave
            if any(planned.action.locks_entity for planned in run.definition.actions[run.position :])
        }
        found = await self._records.entities(self._settlement.connection, keys, locked)
        self._views |= {key: found.get(key) or EntityView(*key) for key in keys}
        for run in wave:
            run.variables = None
            view, cancel_on = self._views[run.entity_key], run.definition.cancel_on
            if cancel_on and run.planned and (why := why_cancelled(view, run.record, cancel_on)):
                self._cancel(run, why)

    def _advance(self, run: Running, changed: set[tuple[str, str]]) -> bool:
        """Run actions while SQL alone does; true where the entity must be looked at again before it can go on.

        Args:
            run: The execution.
            changed: Entities that may have changed since all were looked at; added to.
        """
        while not run.ended and (planned := run.planned) is not None:
            if self._limit is not None and run.tries >= self._limit:
                run.ended = True
                self.unfinished.append(run.job)
                return False
            if planned.action.is_external():
                self._leave(run, planned)
                return False
            if planned.action.locks_entity and run.entity_key in changed:
                return True
            if self._run_action(run, planned):
                changed.add(run.entity_key)
                if run.planned is not None:
                    return True
        if not run.ended:
            run.status, run.phase, run.error, run.ended = "completed", None, None, True
            self._audit(run, "execution_completed")
            self._settlement.done(run.job.id)
        return False

    def _leave(self, run: Running, planned: PlannedAction) -> None:
        """Write that an external action is running; it is run after the commit."""
        run.action = begin(run.record.id, run.position, planned.use, self._now, run.action)
        self._effects.rows.append(self._records.action(run.action))
        self._audit(run, "action_running", attempt=run.action["attempts"])
        run.ended = True
        self.begun.append(Begun(run.job, planned, self._plan(run, run.action)))

    def _plan(self, run: Running, row: Mapping[str, Any]) -> Step:
        view = self._views[run.entity_key]
        if run.variables is None:
            run.variables = variables_of(run.record, view)
        return plan_step(run.record, run.position, row, view, self._settings, self._now, run.variables)

    def _run_action(self, run: Running, planned: PlannedAction) -> bool:
        """Run an action that only leaves rows; true where it may have changed the entity."""
        row = begin(run.record.id, run.position, planned.use, self._now, run.action)
        step = self._plan(run, row)
        try:
            result = at_once(planned.action.run(step))
        except ENDINGS:
            raise
        except BaseException as error:  # noqa: BLE001 - a failed try, whatever it was
            self._fail(run, row, error)
            return False
        self._succeed(run, row, step, result)
        return planned.action.locks_entity or bool(step.statements)

    def _conclude(self, run: Running, tried: Tried) -> None:
        """What a try outside this transaction came to."""
        row, step = run.action, tried.step
        if step is None:
            planned = run.planned
            if row is None or row["status"] != "running":
                row = begin(run.record.id, run.position, planned.use if planned else "", self._now, row)
        elif row is None or (run.position, row["attempts"]) != (step.position, step.attempt):
            run.ended = True  # another worker has gone on meanwhile
            return
        if tried.error is not None or step is None:
            self._fail(run, row, tried.error or Reject("it was not tried"))
        else:
            self._succeed(run, row, step, tried.result)

    def _succeed(self, run: Running, row: dict[str, Any], step: Step, result: Mapping[str, Any] | Wait | None) -> None:
        run.tries += 1
        if isinstance(result, Wait):
            row = suspend(row)
        else:
            try:
                row = complete(row, result, self._now)
            except TypeError as error:
                self._fail(run, row, error)
                return
        self._effects.rows.append(self._records.action(row))
        run.action = row
        if isinstance(result, Wait):
            for left in (left.values for left in step.rows if type(left) is Row and left.table is Approval):
                opened = {"approval_id": left["id"], "step": left["step"], "approvers": left["approvers"]}
                self._audit(run, "approval_opened", position=run.position, **opened)
            self._audit(run, "action_waiting", attempt=row["attempts"])
            run.phase, run.ended = "waiting", True
            self._audit(run, "execution_waiting")
            self._settlement.done(run.job.id)
        else:
            self._audit(run, "action_completed", attempt=row["attempts"])
            run.position, run.action = run.position + 1, None
        self._effects.take(step)

    def _fail(self, run: Running, row: dict[str, Any], error: BaseException) -> None:
        run.tries += 1
        verdict = judge(row, error, self._work.retry_after)
        run.action = fail(row, error, self._now, counts=verdict.counts)
        self._effects.rows.append(self._records.action(run.action))
        reason = words(error)
        self._audit(run, "action_failed", attempt=row["attempts"], error=reason)
        self.failures.append(Failure(run.whose, row["action"], row["attempts"], error, reason, verdict.after))
        if verdict.after is None:
            self._end(run, reason)
            return
        run.phase, run.error, run.ended = "backing_off", reason, True
        self._audit(run, "execution_backing_off", error=reason, after=verdict.after)
        self._settlement.again(run.job.id, after=verdict.after, error=reason, counts=verdict.counts)

    def _give_up(self, run: Running, reason: str) -> None:
        """Fail the execution for a reason that is no action's own; one that was under way fails with it."""
        if run.action is not None and run.action["status"] == "running":
            run.action = fail(run.action, Reject(reason), self._now, counts=False)
            self._effects.rows.append(self._records.action(run.action))
            self._audit(run, "action_failed", attempt=run.action["attempts"], error=reason)
        self._end(run, reason)

    def _end(self, run: Running, reason: str) -> None:
        run.status, run.phase, run.error, run.ended = "failed", None, reason, True
        self._audit(run, "execution_failed", error=reason)
        self._settlement.failed(run.job.id, reason)

    def _cancel(self, run: Running, reason: str) -> None:
        """End the execution before its next action; it waits for nothing, so that it has no open approval."""
        if run.action is not None:
            run.action = run.action | {"status": "cancelled", "ended_at": self._now}
            self._effects.rows.append(self._records.action(run.action))
            self._audit(run, "action_cancelled", reason=reason)
        run.status, run.phase, run.error, run.ended = "failed", "cancelled", f"cancelled: {reason}", True
        self._audit(run, "execution_cancelled", reason=reason)
        self._settlement.done(run.job.id)

    def _audit(self, run: Running, action: str, **details: Any) -> None:
        if action.startswith("action_"):
            row = run.action
            details = {"position": run.position, "action": row["action"] if row else "", **details}
        if run.trail is None:
            run.trail = Trail(run.record, self._now)
        self._effects.rows.append(run.trail.row(action, details))
