"""The action ``notify``: a message in the app, by e-mail or by webhook."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline import Reject, Retry, Row
from pipeline.config.redact import redact
from pipeline_handlers.governance.actions.records import IGNORE, about
from pipeline_handlers.governance.actions.smtp import Mail, send
from pipeline_handlers.governance.actions.ssrf import AddressRules
from pipeline_handlers.governance.actions.targets import LONGEST_URL, target_of
from pipeline_handlers.governance.actions.values import ActionText, ActionTexts, line, names, text
from pipeline_handlers.governance.actions.webhook import post
from pipeline_handlers.governance.contract import Action, Step
from pipeline_handlers.governance.tables import Notification

if TYPE_CHECKING:
    from pipeline.templates import Template
    from pipeline_handlers.governance.actions.calls import Caller
    from pipeline_handlers.governance.options import GovernanceOptions

__all__ = ["NotifyAction", "NotifyOptions"]

_LIBRARIES: Final = {"email": "aiosmtplib", "webhook": "httpcore"}
"""What a channel needs beside what the runner itself does; imported when it is used."""


class NotifyOptions(BaseModel):
    """``{ use = "notify", … }``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    channel: Literal["in_app", "email", "webhook"] = Field("in_app", description="How it gets there.")
    to: ActionTexts = Field(
        description="Whom it is for: people, addresses or URLs, as the channel wants; 'owner' for the entity's owner."
    )
    subject: ActionText | None = Field(None, description="What it is about, in a line.")
    message: ActionText = Field(description="What it says.")

    @model_validator(mode="after")
    def _library_is_installed(self) -> NotifyOptions:
        library = _LIBRARIES.get(self.channel)
        if library is not None and find_spec(library) is None:
            raise ValueError(
                f"channel = {self.channel!r} needs the package {library}: pip install 'pipeline-runner[governance]'"
            )
        return self


class NotifyAction(Action[NotifyOptions]):
    """Notifies each recipient once; of e-mails and webhooks a try that is repeated repeats them, with the same key."""

    name = "notify"
    Options: ClassVar[type[BaseModel]] = NotifyOptions
    timeout = 60.0

    def __init__(self, options: NotifyOptions) -> None:
        super().__init__(options)
        self._caller: Caller | None = None

    def is_external(self) -> bool:
        """All but notifications in the app leave this system."""
        return self.options.channel != "in_app"

    async def stop(self) -> None:
        """Close the connections that webhooks keep."""
        if self._caller is not None:
            await self._caller.stop()

    def problem(self, settings: GovernanceOptions) -> str:
        """E-mail needs a server, and a webhook a URL that may be called, as far as that can be said beforehand."""
        if self.options.channel == "email" and settings.smtp is None:
            return "there is no mail server: add [stage.governance.smtp]"
        if self.options.channel == "webhook":
            return next(filter(None, (_uncallable(template, settings) for template in self.options.to)), "")
        return ""

    async def run(self, step: Step) -> Mapping[str, Any]:
        """Notify, and leave a row for each recipient.

        Raises:
            Reject: Nobody is named, or a receiver refuses it for good.
            Retry: A receiver can't take it now.
            Unavailable: The mail server can't be reached.
        """
        recipients = self._recipients(step)
        subject = line(step, self.options.subject) if self.options.subject is not None else None
        message = text(step, self.options.message)
        if self.options.channel == "email":
            await self._mail(step, recipients, subject, message)
        elif self.options.channel == "webhook":
            await self._call(step, recipients, subject, message)
        for number, recipient in enumerate(recipients):
            values = {
                "key": f"{step.key}/{number}",
                "channel": self.options.channel,
                "recipient": redact(recipient),
                "subject": subject,
                "message": message,
                "status": "sent" if self.is_external() else "unread",
            }
            step.add(Row(Notification, about(step) | values, IGNORE))
        return {"channel": self.options.channel, "recipients": [redact(recipient) for recipient in recipients]}

    def _recipients(self, step: Step) -> Sequence[str]:
        if self.options.channel == "webhook":  # a URL may hold commas
            found = (line(step, template, 2 * LONGEST_URL) for template in self.options.to)
            if urls := tuple(dict.fromkeys(filter(None, found))):
                return urls
        return names(step, self.options.to, "the recipient")

    async def _mail(self, step: Step, recipients: Sequence[str], subject: str | None, message: str) -> None:
        options = step.settings.smtp
        if options is None:
            raise Reject("there is no mail server: add [stage.governance.smtp]", kind="no_mail_server")
        about_what = subject or f"{step.entity.type} {step.entity.id}"
        mails = [Mail(_key(step, at), one, about_what, message) for at, one in enumerate(recipients)]
        await send(options, mails, step.now)

    async def _call(self, step: Step, recipients: Sequence[str], subject: str | None, message: str) -> None:
        options = step.settings.webhook
        if self._caller is None:
            from pipeline_handlers.governance.actions.calls import Caller

            self._caller = Caller(options)
        payload = _payload(step, subject, message)
        calls = (
            post(self._caller, options, url, _key(step, at), payload, step.now) for at, url in enumerate(recipients)
        )
        answers = await asyncio.gather(*calls, return_exceptions=True)
        # One receiver's answer does not end the calls of the others; then what can't be mended counts first.
        failures = [answer for answer in answers if isinstance(answer, BaseException)]
        for failure in sorted(failures, key=lambda one: isinstance(one, Retry)):
            raise failure


def _uncallable(template: Template, settings: GovernanceOptions) -> str:
    """Why a URL that is written out may not be called; empty where it may, or where only an event can tell."""
    if "{{" in template.text:
        return ""
    try:
        target = target_of(template.text.strip(), allow_http=settings.webhook.allow_http)
        address = str(ip_address(target.host))
    except Reject as refused:
        return f"{redact(template.text)}: {refused}"
    except ValueError:  # a name, which may have any address when it is called
        return ""
    refusal = AddressRules(settings.webhook.allow).refusal(target.host, [address])
    return f"{redact(template.text)}: {refusal}" if refusal else ""


def _key(step: Step, number: int) -> str:
    """The idempotency key: the step's own, and for each recipient after the first with its number."""
    return f"{step.key}/{number}" if number else step.key


def _payload(step: Step, subject: str | None, message: str) -> dict[str, Any]:
    """What a webhook says: nothing in it changes from try to try, unless the entity did."""
    time: Any = step.variables.get("time")
    return {
        "type": "governance.notification",
        "timestamp": time.isoformat() if hasattr(time, "isoformat") else None,
        "data": {
            "execution_id": step.execution_id,
            "workflow": step.workflow,
            "position": step.position,
            "event_id": step.variables.get("id"),
            "entity_type": step.entity.type,
            "entity_id": step.entity.id,
            "actor_id": step.actor_id,
            "subject": subject,
            "message": message,
        },
    }
