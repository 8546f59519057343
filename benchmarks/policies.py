"""The events of the comparison with Bull, the workflow that they trigger, and what each must leave in SQL, once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from pipeline.connectors import Outgoing

__all__ = ["AUDITED", "EFFECTS", "QUEUE", "ROUTING_KEY", "WORKFLOW", "outgoing", "policy_created"]

ROUTING_KEY = "governance.policy.created"
QUEUE = "governance:policy"
WORKFLOW = """
[[stage.governance.workflow]]
name = "policy-intake"
entity = "policy"
trigger = "on_create"
when = "data.new.risk in ['high', 'critical']"
queue = "governance:policy"
actions = [
  { use = "create_task", title = "Announce {{ data.entity_id }}", assignee = "comms" },
  { use = "notify", channel = "in_app", to = "{{ data.new.owner }}", message = "{{ data.new.title }} was created" },
]
"""
EFFECTS = {
    "entities": "SELECT count(*), count(DISTINCT entity_id) FROM entities WHERE status = 'draft'",
    "executions": "SELECT count(*), count(DISTINCT entity_id) FROM workflow_executions"
    " WHERE status = 'completed' AND completed_at IS NOT NULL AND error IS NULL",
    "executions in all": "SELECT count(*), count(*) FROM workflow_executions",
    "first actions": "SELECT count(*), count(DISTINCT execution_id) FROM workflow_actions"
    " WHERE position = 0 AND action = 'create_task' AND status = 'completed' AND attempts = 1",
    "second actions": "SELECT count(*), count(DISTINCT execution_id) FROM workflow_actions"
    " WHERE position = 1 AND action = 'notify' AND status = 'completed' AND attempts = 1",
    "tasks": "SELECT count(*), count(DISTINCT execution_id) FROM tasks"
    " WHERE assignee = 'comms' AND title = 'Announce ' || entity_id",
    "notifications": "SELECT count(*), count(DISTINCT execution_id) FROM notifications"
    " WHERE channel = 'in_app' AND status = 'unread' AND recipient LIKE 'owner-%'"
    " AND message = 'Policy ' || substr(entity_id, 8) || ' was created'",
}  # fmt: skip
"""Statements by name: of each there must be as many as there are events, and as many different ones."""
AUDITED = {"execution_queued": 1, "execution_running": 1, "action_completed": 2, "execution_completed": 1}
"""Audit rows of one execution, by action."""


def policy_created(number: int) -> dict[str, Any]:
    """The data of event `number`; `bull/events.mjs` makes the same."""
    return {
        "entity_type": "policy",
        "entity_id": f"policy-{number:08}",
        "actor_id": f"user-{number % 100}",
        "old": {},
        "new": {
            "title": f"Policy {number:08}",
            "status": "draft",
            "risk": "high",
            "owner": f"owner-{number % 100}",
            "summary": "Who may read what, who decides about it, and how long it is kept.",
        },
    }


def outgoing(numbers: Iterable[int]) -> list[Outgoing]:
    """Events as they are published."""
    return [Outgoing(orjson.dumps(policy_created(number)), ROUTING_KEY, f"event-{number}") for number in numbers]
