"""A small mail server: it speaks SMTP, keeps the mails, and refuses what it is told to refuse."""

from __future__ import annotations

import asyncio
import base64
import email.policy
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from email.parser import BytesParser


@dataclass(frozen=True)
class Letter:
    """A mail as it came: its envelope, its bytes, and whether by TLS."""

    sender: str
    recipients: list[str]
    raw: bytes
    secure: bool

    @property
    def message(self) -> EmailMessage:
        return BytesParser(policy=email.policy.default).parsebytes(self.raw)


class MailServer:
    """What it has received.

    Attributes:
        letters: The mails, in order.
        logins: User and password of each login.
        connections: How many there were.
        open: How many there are.
        port: Where it listens.
    """

    def __init__(self, replies: Mapping[str, str], starttls: ssl.SSLContext | None, secure: bool) -> None:
        self.letters: list[Letter] = []
        self.logins: list[tuple[str, str]] = []
        self.connections = 0
        self.open = 0
        self.port = 0
        self._replies = replies
        self._starttls = starttls
        self._secure = secure

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            await self._talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        secure, sender, recipients = self._secure, "", list[str]()

        async def say(text: str) -> None:
            writer.write(text.encode() + b"\r\n")
            await writer.drain()

        await say(self._replies.get("CONNECT", "220 mail.test"))
        while line := (await reader.readline()).decode().strip():
            verb = line.split(" ")[0].split(":")[0].upper()
            reply = self._replies.get(line, self._replies.get(verb, "250 OK"))
            if reply == "drop":
                return
            if reply == "hang":
                await reader.read()
                return
            if verb == "EHLO":
                await say("250-mail.test")
                if self._starttls is not None and not secure:
                    await say("250-STARTTLS")
                await say("250 AUTH PLAIN" if secure else "250 8BITMIME")
            elif verb == "STARTTLS" and self._starttls is not None:
                await say("220 go on")
                await writer.start_tls(self._starttls)
                secure = True
            elif verb == "AUTH":
                _, user, password = base64.b64decode(line.split(" ")[2]).decode().split("\0")
                self.logins.append((user, password))
                await say(self._replies.get("AUTH", "235 welcome"))
            elif verb == "DATA" and reply == "250 OK":
                await say("354 go on")
                raw = (await reader.readuntil(b"\r\n.\r\n")).removesuffix(b".\r\n").replace(b"\r\n..", b"\r\n.")
                reply = self._replies.get("END", "250 OK")
                if reply.startswith("250"):
                    self.letters.append(Letter(sender, list(recipients), raw, secure))
                await say(reply)
            else:
                if verb == "MAIL":
                    sender, recipients = line[10:].split(">")[0].removeprefix("<"), []
                elif verb == "RCPT" and reply.startswith("250"):
                    recipients.append(line[8:].split(">")[0].removeprefix("<"))
                await say(reply)
                if verb == "QUIT":
                    return


@asynccontextmanager
async def mail_server(
    replies: Mapping[str, str] = {}, *, starttls: ssl.SSLContext | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[MailServer]:
    """The server, on a free port of this machine.

    Args:
        replies: What it answers to a verb, or to a whole line, instead of ``250 OK``; ``drop`` hangs up, ``hang`` says
            nothing. ``CONNECT`` stands for the greeting, ``END`` for the end of a mail.
        starttls: Offer STARTTLS with this context.
        tls: Speak TLS from the first byte.
    """
    made = MailServer(replies, starttls, tls is not None)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=tls)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await server.wait_closed()
