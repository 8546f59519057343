"""The handler ``governance``: changes of governed entities trigger workflows, which run as jobs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import hookimpl

if TYPE_CHECKING:
    import typer

    from pipeline import Handler
    from pipeline.ledger.migrations import Branch
    from pipeline_handlers.governance.contract import Action

__all__ = ["governance_actions", "pipeline_commands", "pipeline_handlers", "pipeline_hookspecs", "pipeline_tables"]


@hookimpl
def pipeline_handlers() -> Sequence[type[Handler[Any]]]:
    """The handler ``governance``."""
    from pipeline_handlers.governance.handler import GovernanceHandler

    return [GovernanceHandler]


@hookimpl
def pipeline_tables() -> Sequence[Branch]:
    """The tables of entities, workflows and what workflows leave, and their migrations."""
    from pipeline.ledger.migrations import Branch
    from pipeline_handlers.governance.tables import TABLES

    return [Branch("governance", Path(__file__).parent / "versions", TABLES)]


@hookimpl
def pipeline_hookspecs() -> Sequence[Any]:
    """The hook by which packages add actions: `governance_actions`."""
    from pipeline_handlers.governance import hookspecs

    return [hookspecs]


@hookimpl
def governance_actions() -> Sequence[type[Action[Any]]]:
    """The actions that come with the handler."""
    from pipeline_handlers.governance.actions import ACTIONS

    return ACTIONS


@hookimpl
def pipeline_commands() -> Sequence[tuple[str, typer.Typer]]:
    """``pipeline executions``, ``approvals``, ``tasks`` and ``notifications``."""
    from pipeline_handlers.governance.commands.approvals import approvals
    from pipeline_handlers.governance.commands.executions import executions
    from pipeline_handlers.governance.commands.left import notifications, tasks

    return [
        ("executions", executions),
        ("approvals", approvals),
        ("tasks", tasks),
        ("notifications", notifications),
    ]
