"""What Acme's actions do: one leaves a row, one talks to another system."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from acme_tickets.tables import Ticket
from pipeline import Unavailable
from pipeline_handlers.governance.contract import Action, ActionText, Step


class TicketOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    project: str
    title: ActionText


class TicketAction(Action[TicketOptions]):
    """A row, written in the transaction that records that the action is done."""

    name = "acme-ticket"
    Options = TicketOptions

    async def run(self, step: Step) -> Mapping[str, Any]:
        title = step.text(self.options.title)
        step.add(Ticket(key=step.key, project=self.options.project, title=title))
        return {"ticket": step.key}


class CallOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    line: Path


class CallAction(Action[CallOptions]):
    """A call to another system; here a file stands for it, and where it is missing the line is dead."""

    name = "acme-call"
    Options = CallOptions

    def is_external(self) -> bool:
        return True

    async def run(self, step: Step) -> None:
        if not self.options.line.exists():
            raise Unavailable("acme", f"there is no {self.options.line}")
        with self.options.line.open("a") as line:
            line.write(f"{step.key} about {step.entity.id}\n")
