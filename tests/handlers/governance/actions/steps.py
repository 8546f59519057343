"""A step as the engine makes one, and a look at what an action leaves in it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pipeline import Row
from pipeline_handlers.governance.actions import ACTIONS
from pipeline_handlers.governance.contract import Action, EntityView, Step
from pipeline_handlers.governance.options import GovernanceOptions

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
EXECUTION = "11111111-2222-3333-4444-555555555555"
CAUSE = {"workflow": "review", "entity": "policy/p-1", "execution_id": EXECUTION}


def action(use: str, **options: Any) -> Action[Any]:
    """The action as `pipeline.toml` would configure it."""
    kind = next(kind for kind in ACTIONS if kind.name == use)
    return kind(kind.Options.model_validate(options))


def step(
    *,
    data: Mapping[str, Any] | None = None,
    entity: EntityView | None = None,
    settings: Mapping[str, Any] | None = None,
    position: int = 1,
    round: int = 0,  # noqa: A002
    attempt: int = 1,
    now: datetime = NOW,
    execution_id: str = EXECUTION,
) -> Step:
    """A step about policy p-1, whose event says `data` about what is new."""
    view = entity or EntityView("policy", "p-1", "draft", 3, {"status": "draft", "owner": "bob", "risk": "high"})
    event = {"entity_type": view.type, "entity_id": view.id, "actor_id": "ann", "old": {}, "new": dict(data or {})}
    return Step(
        execution_id=execution_id,
        workflow="review",
        stage="governance",
        queue="governance:policy",
        position=position,
        attempt=attempt,
        round=round,
        entity=view,
        actor_id="ann",
        stream="stream.governance",
        causation=[CAUSE],
        variables={
            "routing_key": "governance.policy.updated",
            "id": "event-1",
            "data": event,
            "headers": {},
            "time": NOW,
            "entity": {
                "type": view.type, "id": view.id, "status": view.status, "version": view.version,
                "data": dict(view.data),
            },
            "execution": {"id": execution_id, "workflow": "review"},
        },
        settings=GovernanceOptions.model_validate(settings or {}),
        now=now,
    )  # fmt: skip


def values(made: Step) -> list[dict[str, Any]]:
    """The values of the rows that the step has left."""
    assert all(type(row) is Row for row in made.rows)
    return [dict(row.values) for row in made.rows]
