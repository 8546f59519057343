"""Acme's plugin: an action of workflows that opens a ticket, and one that calls Acme."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from acme_tickets.actions import CallAction, TicketAction
from acme_tickets.tables import Ticket
from pipeline import hookimpl
from pipeline.ledger.migrations import Branch
from pipeline_handlers.governance.contract import Action


@hookimpl
def governance_actions() -> Sequence[type[Action[Any]]]:
    return [TicketAction, CallAction]


@hookimpl
def pipeline_tables() -> Sequence[Branch]:
    return [Branch("acme_tickets", Path(__file__).parent / "versions", [Ticket])]
