"""The actions that come with governance, all together."""

from __future__ import annotations

from typing import Any, Final

from pipeline_handlers.governance.actions.approval import ApprovalAction
from pipeline_handlers.governance.actions.assign import AssignAction
from pipeline_handlers.governance.actions.change_status import ChangeStatusAction
from pipeline_handlers.governance.actions.create_task import CreateTaskAction
from pipeline_handlers.governance.actions.notify import NotifyAction
from pipeline_handlers.governance.contract import Action

__all__ = ["ACTIONS"]

ACTIONS: Final[tuple[type[Action[Any]], ...]] = (
    ApprovalAction, ChangeStatusAction, NotifyAction, CreateTaskAction, AssignAction,
)  # fmt: skip
"""All of them, for the hook."""
