"""E-mail by SMTP: what a notification says becomes a message that no value can add a header to."""

from __future__ import annotations

import asyncio
import hashlib
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from pipeline import Reject, Retry, Unavailable
from pipeline.config.models import Seconds
from pipeline.ledger.clean import clean_text
from pipeline_handlers.governance.actions.tls import Authority, tls_context

if TYPE_CHECKING:
    from aiosmtplib import SMTP

__all__ = ["Mail", "SmtpOptions", "message_of", "send"]

_ADDRESS: Final = r"^[^@\s<>\"\\(),:;\[\]\x00-\x1f\x7f]+@[^@\s<>\"\\(),:;\[\]\x00-\x1f\x7f]+$"
_PORTS: Final = {"starttls": 587, "tls": 465, "none": 25}


class SmtpOptions(BaseModel):
    """``[stage.governance.smtp]``: the mail server of ``notify`` with ``channel = "email"``."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, hide_input_in_errors=True)

    host: str = Field(min_length=1, description="The mail server.")
    port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        None, description="Its port; by default 587 with starttls, 465 with tls, 25 with none."
    )
    security: Literal["starttls", "tls", "none"] = Field(
        "starttls", description="starttls (required, not merely tried), tls from the first byte, or none."
    )
    ca: Authority | None = Field(None, description="A PEM file with authorities to trust besides the system's.")
    username: str | None = Field(None, min_length=1, description="Who logs in; without it, nobody does.")
    password: SecretStr | None = Field(None, description="The login's password: write ${SMTP_PASSWORD}.")
    from_: str = Field(alias="from", max_length=254, pattern=_ADDRESS, description="The sender's address.")
    from_name: str = Field("", max_length=200, description="The sender's name, shown beside the address.")
    timeout: Seconds = Field(20.0, gt=0, description="How long the server may take to connect, and for each answer.")

    @model_validator(mode="after")
    def _login_is_whole_and_hidden(self) -> SmtpOptions:
        if (self.username is None) != (self.password is None):
            raise ValueError("a login needs both username and password")
        if self.username is not None and self.security == "none":
            raise ValueError("a login without TLS shows its password to everybody: use security = 'starttls' or 'tls'")
        return self

    @property
    def server(self) -> str:
        """Host and port."""
        return f"{self.host}:{self.port or _PORTS[self.security]}"


@dataclass(frozen=True, slots=True)
class Mail:
    """One message to one address.

    Attributes:
        key: The idempotency key; the message's id is made of it, so that it is the same at every try.
        recipient: The address.
        subject: A line.
        text: The body.
    """

    key: str
    recipient: str
    subject: str
    text: str


def message_of(mail: Mail, options: SmtpOptions, now: datetime) -> EmailMessage:
    """The message. Raises `Reject` (kind ``invalid_recipient``) where the recipient is no plain address."""
    if len(mail.recipient) > 254 or not re.fullmatch(_ADDRESS, mail.recipient):
        raise Reject(f"{mail.recipient!r} is no e-mail address", kind="invalid_recipient")
    digest = hashlib.sha256(mail.key.encode()).hexdigest()[:40]
    message = EmailMessage()
    message["From"] = _sender(options)
    message["To"] = mail.recipient
    message["Subject"] = " ".join(mail.subject.split())
    message["Date"] = now
    message["Message-ID"] = f"<{digest}@{options.from_.rpartition('@')[2]}>"
    message["Idempotency-Key"] = mail.key
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers, please
    message.set_content(mail.text)
    return message


async def send(options: SmtpOptions, mails: Sequence[Mail], now: datetime) -> None:
    """Send each mail, over one connection; one that is refused does not hold up those behind it.

    Raises:
        Reject: The server refuses one for good (5xx).
        Retry: The server wants another try (4xx), refuses the login, or the connection broke.
        Unavailable: The server can't be reached.
    """
    messages = [(mail.recipient, message_of(mail, options, now)) for mail in mails]
    failures: list[Reject | Retry] = []
    client = await _connected(options)
    try:
        for recipient, message in messages:
            if (failure := await _sent(client, recipient, message)) is not None:
                failures.append(failure)
    except BaseException:  # cancelled, most likely: there is no time for a farewell
        client.close()
        raise
    await _left(client)
    for failure in sorted(failures, key=lambda one: isinstance(one, Retry)):
        raise failure


async def _connected(options: SmtpOptions) -> SMTP:
    import aiosmtplib

    client = aiosmtplib.SMTP(
        hostname=options.host,
        port=options.port or _PORTS[options.security],
        username=options.username,
        password=options.password.get_secret_value() if options.password is not None else None,
        local_hostname=socket.gethostname(),  # else it asks the DNS for it, and waits
        timeout=options.timeout,
        use_tls=options.security == "tls",
        start_tls=options.security == "starttls",
        tls_context=None if options.security == "none" else await asyncio.to_thread(tls_context, options.ca),
    )
    try:
        await client.connect()
    except (aiosmtplib.SMTPConnectError, aiosmtplib.SMTPServerDisconnected, aiosmtplib.SMTPTimeoutError) as error:
        raise Unavailable("smtp", f"{options.server}: {_words(error)}") from None
    except (aiosmtplib.SMTPException, OSError) as error:
        raise Retry(f"{options.server}: {_words(error)}") from None
    return client


async def _sent(client: SMTP, recipient: str, message: EmailMessage) -> Reject | Retry | None:
    """Why the message was not sent, or None."""
    import aiosmtplib

    try:
        await client.send_message(message, recipients=[recipient])
    except aiosmtplib.SMTPRecipientsRefused as error:
        return _refused(recipient, error.recipients[0])
    except aiosmtplib.SMTPResponseException as error:
        return _refused(recipient, error)
    except aiosmtplib.SMTPNotSupported as error:
        return Reject(f"the mail to {recipient} can't be sent: {_words(error)}", kind="mail_refused")
    except (aiosmtplib.SMTPException, OSError) as error:
        return Retry(f"the mail to {recipient} may not have been sent: {_words(error)}")
    return None


def _refused(recipient: str, error: object) -> Reject | Retry:
    code, said = getattr(error, "code", 0), clean_text(str(getattr(error, "message", "")))[:300]
    reason = f"the mail to {recipient} was refused: {code} {said}".rstrip()
    return Reject(reason, kind="mail_refused") if code >= 500 else Retry(reason)


async def _left(client: SMTP) -> None:
    """Say goodbye; the mails are delivered whether that is heard or not."""
    import aiosmtplib

    try:
        if client.is_connected:
            await client.quit()
    except (aiosmtplib.SMTPException, OSError):
        pass
    finally:
        client.close()


def _sender(options: SmtpOptions) -> Address:
    user, _, domain = options.from_.rpartition("@")
    return Address(" ".join(options.from_name.split()), user, domain)


def _words(error: BaseException) -> str:
    return clean_text(" ".join(str(part) for part in error.args) or type(error).__name__)[:300]
