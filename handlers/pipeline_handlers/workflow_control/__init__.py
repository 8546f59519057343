"""The handler ``workflow-control``: an event becomes signals to the workflows that it names, and is followed up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline import Handler, hookimpl
from pipeline_handlers.workflow_control.contract import Batches, Signaller, Watcher
from pipeline_handlers.workflow_control.handler import WorkflowControlHandler
from pipeline_handlers.workflow_control.options import WorkflowControlOptions

__all__ = ["Batches", "Signaller", "Watcher", "WorkflowControlHandler", "WorkflowControlOptions", "pipeline_handlers"]


@hookimpl
def pipeline_handlers() -> Sequence[type[Handler[Any]]]:
    """The handler ``workflow-control``."""
    return [WorkflowControlHandler]
