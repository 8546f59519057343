"""The pipeline that the chaos rig runs: signals with an audit trail, and governed entities with SQL effects."""

from __future__ import annotations

__all__ = ["chaos_pipeline"]


def chaos_pipeline(name: str, *, lines: str = "") -> str:
    """The ``pipeline.toml``.

    Args:
        name: Begins the names of its streams, and of its queues in Redis.
        lines: More of it.
    """
    return f"""
[pipeline]
name = "{name}"
grace = "10s"

[jobs]
prefix = "{name}"

[source.admin]
stream = "{name}.admin"
group = "chaos"
journal = true
window = 1000

[source.governance]
stream = "{name}.governance"
group = "chaos"
journal = true
window = 1000

[[route]]
source = "admin"
match = "admin.workflow.*"
key = "data.workflow_id"
stages = ["workflow-control"]
finally = ["audit"]

[[route]]
source = "admin"
match = "admin.audit.*"
stages = ["audit"]

[[route]]
source = "governance"
match = "governance.#"
key = ["data.entity_id", "data.execution_id"]
stages = ["governance"]
finally = ["audit"]

[stage.workflow-control]
signal_args = ["id"]

[[stage.audit.row]]
match = ["admin.workflow.*", "admin.audit.*", "governance.#"]
action = "'chaos_event'"
entity_type = "'chaos'"

[[stage.governance.workflow]]
name = "chaotic"
entity = "policy"
trigger = "on_create"
actions = [
  {{ use = "create_task", title = "Look at {{{{ data.entity_id }}}}", assignee = "ann" }},
  {{ use = "notify", channel = "in_app", to = "bob", message = "{{{{ data.entity_id }}}} is there" }},
]
{lines}
"""
