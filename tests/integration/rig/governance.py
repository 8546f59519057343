"""Governance on a site: its pipeline, events to publish, and what the books say of executions."""

from __future__ import annotations

import json
from typing import Any

from tests.integration.rig.database import Books
from tests.integration.rig.events import Sent
from tests.integration.rig.site import Site

__all__ = ["decision_event", "entity_event", "governance_pipeline", "statuses"]


def governance_pipeline(site: Site, workflows: str, *, stages: str = '"governance"', more: str = "") -> str:
    """A pipeline that governs policies; its queues are this site's alone."""
    return f"""
[pipeline]
name = "governed"
grace = "10s"

[jobs]
prefix = "{site.stream}"

[source.governance]
stream = "{site.stream}"
group = "governance"
window = 1000

[[route]]
match = "governance.#"
key = ["data.entity_id", "data.execution_id"]
stages = [{stages}]
finally = ["audit"]

{workflows}
{more}
"""


def entity_event(id_: str, change: str, entity_id: str, *, entity: str = "policy", **fields: Any) -> Sent:
    """A change of an entity; `old` and `new` are among the fields, and so is all else that its data holds."""
    data = {"entity_type": entity, "entity_id": entity_id, "actor_id": "ann", "old": {}, "new": {}, **fields}
    return Sent(id_, f"governance.{entity}.{change}", json.dumps(data).encode())


def decision_event(id_: str, execution_id: str, approver: str, verdict: str = "granted", comment: str = "") -> Sent:
    """What an approver says."""
    data = {"execution_id": execution_id, "approver": approver, "comment": comment}
    return Sent(id_, f"governance.approval.{verdict}", json.dumps(data).encode())


async def statuses(books: Books) -> dict[str, int]:
    """How many executions there are of each status."""
    rows = await books.rows("SELECT status, count(*) AS number FROM workflow_executions GROUP BY status")
    return {row["status"]: row["number"] for row in rows}
