"""`notify` by e-mail: what a mail server gets, and what its answers mean."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline import Reject, Retry, Unavailable
from pipeline_handlers.governance.actions.smtp import SmtpOptions
from pipeline_handlers.governance.contract import Step
from tests.handlers.eventually import eventually
from tests.handlers.governance.actions.books import Books
from tests.handlers.governance.actions.mail import MailServer, mail_server
from tests.handlers.governance.actions.steps import EXECUTION, NOW, action, step
from tests.services.tls import make_certificates


@pytest.fixture
def certificates(tmp_path: Path) -> tuple[Path, ssl.SSLContext]:
    """An authority's certificate, and a server's context for 127.0.0.1 and localhost."""
    ca = make_certificates(tmp_path / "tls")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca.parent / "server.pem", ca.parent / "server.key")
    return ca, context


def speaking(security: str, context: ssl.SSLContext) -> AbstractAsyncContextManager[MailServer]:
    return mail_server(starttls=context) if security == "starttls" else mail_server(tls=context)


async def notify(
    server: MailServer,
    to: str | Sequence[str] = "ann@example.org",
    *,
    smtp: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    message: str = "It is done.",
    **options: Any,
) -> Step:
    settings = {
        "host": "127.0.0.1",
        "port": server.port,
        "security": "none",
        "from": "gov@example.org",
        "timeout": "5s",
    }
    made = step(data=data, settings={"smtp": settings | dict(smtp or {})})
    notifier = action("notify", channel="email", to=to, message=message, **options)
    assert notifier.is_external()
    await notifier.run(made)
    return made


async def test_a_mail_is_sent_and_recorded(books: Books) -> None:
    async with mail_server() as server:
        made = await notify(
            server, subject="Policy {{ data.entity_id }}", message="Grüße an {{ entity.data.owner }}\n.\nEnde",
            smtp={"from_name": "Governance, Ltd."},
        )  # fmt: skip
    [letter] = server.letters
    assert (letter.sender, letter.recipients, letter.secure) == ("gov@example.org", ["ann@example.org"], False)
    message = letter.message
    assert message["from"] == '"Governance, Ltd." <gov@example.org>'
    assert (message["to"], message["subject"]) == ("ann@example.org", "Policy p-1")
    assert (message["idempotency-key"], message["auto-submitted"]) == (f"{EXECUTION}/1", "auto-generated")
    assert message["date"].datetime == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert message["message-id"].endswith("@example.org>")
    assert message.get_content().replace("\r\n", "\n") == "Grüße an bob\n.\nEnde\n"
    await books.write(made)
    [row] = await books.rows("SELECT key, channel, recipient, subject, status FROM notifications")
    assert row == {
        "key": f"{EXECUTION}/1/0", "channel": "email", "recipient": "ann@example.org", "subject": "Policy p-1",
        "status": "sent",
    }  # fmt: skip


async def test_a_mail_has_the_same_id_at_every_try_and_each_recipient_another() -> None:
    async with mail_server() as server:
        for _ in range(2):
            await notify(server, ["ann@example.org", "bob@example.org", "ann@example.org"])
    ids = [letter.message["message-id"] for letter in server.letters]
    keys = [letter.message["idempotency-key"] for letter in server.letters]
    assert [letter.recipients for letter in server.letters] == [["ann@example.org"], ["bob@example.org"]] * 2
    assert ids == ids[:2] * 2
    assert keys == [f"{EXECUTION}/1", f"{EXECUTION}/1/1"] * 2
    assert ids[0] != ids[1]
    assert server.connections == 2


async def test_no_value_adds_a_header() -> None:
    evil = "x\r\nBcc: evil@example.org\r\n\r\nbody\0\u2028y"
    async with mail_server() as server:
        await notify(server, subject="{{ data.new.evil }}", message="{{ data.new.evil }}", data={"evil": evil})
    [letter] = server.letters
    assert letter.recipients == ["ann@example.org"]
    assert letter.message["subject"] == "x Bcc: evil@example.org body y"
    assert "bcc" not in letter.message
    assert letter.message["to"] == "ann@example.org"


@pytest.mark.parametrize(
    "address",
    ["ann", "ann@", "@example.org", "Ann <ann@example.org>", "ann@example.org>", "ann@example.org\r\nRCPT TO:<x@y>",
     "ann @example.org", "a@b@c", "ann@example.org;bob@example.org", "x" * 250 + "@example.org"],
)  # fmt: skip
async def test_what_is_no_plain_address_is_refused(address: str) -> None:
    async with mail_server() as server:
        with pytest.raises(Reject) as refused:
            await notify(server, "{{ data.new.address }}", data={"address": address})
        assert refused.value.kind == "invalid_recipient"
        assert server.connections == 0


async def test_several_addresses_of_one_template_have_a_mail_each() -> None:
    async with mail_server() as server:
        await notify(server, "{{ data.new.list }}", data={"list": "ann@example.org, bob@example.org"})
    assert [letter.recipients for letter in server.letters] == [["ann@example.org"], ["bob@example.org"]]


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_mails_go_by_tls_with_a_login(security: str, certificates: tuple[Path, ssl.SSLContext]) -> None:
    ca, context = certificates
    login = {"security": security, "ca": str(ca), "username": "gov", "password": "hush"}
    async with speaking(security, context) as server:
        await notify(server, smtp=login)
    assert [letter.secure for letter in server.letters] == [True]
    assert server.logins == [("gov", "hush")]


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_a_server_that_nobody_vouches_for_gets_no_mail(
    security: str, certificates: tuple[Path, ssl.SSLContext]
) -> None:
    async with speaking(security, certificates[1]) as server:
        with pytest.raises((Unavailable, Retry), match="certificate"):
            await notify(server, smtp={"security": security, "username": "gov", "password": "hush"})
    assert (server.letters, server.logins) == ([], [])


async def test_a_server_without_starttls_gets_no_mail() -> None:
    async with mail_server() as server:
        with pytest.raises(Retry, match="STARTTLS"):
            await notify(server, smtp={"security": "starttls"})
    assert server.letters == []


async def test_a_refused_login_is_tried_again(certificates: tuple[Path, ssl.SSLContext]) -> None:
    ca, context = certificates
    async with mail_server({"AUTH": "535 no"}, tls=context) as server:
        with pytest.raises(Retry, match="535"):
            await notify(server, smtp={"security": "tls", "ca": str(ca), "username": "gov", "password": "hush"})


@pytest.mark.parametrize(
    ("replies", "kind", "words"),
    [
        ({"RCPT": "550 no such user"}, Reject, "ann@example.org was refused: 550 no such user"),
        ({"RCPT": "450 greylisted"}, Retry, "450 greylisted"),
        ({"MAIL": "553 sender unknown"}, Reject, "553 sender unknown"),
        ({"MAIL": "451 later"}, Retry, "451 later"),
        ({"DATA": "554 no"}, Reject, "554 no"),
        ({"END": "554 spam"}, Reject, "554 spam"),
        ({"END": "452 full"}, Retry, "452 full"),
        ({"RCPT": "421 going down"}, Retry, "421 going down"),
        ({"RCPT": "drop"}, Retry, "may not have been sent"),
        ({"CONNECT": "554 not you"}, Unavailable, "554 not you"),
        ({"CONNECT": "421 busy"}, Unavailable, "421 busy"),
    ],
)
async def test_what_the_servers_answers_mean(replies: dict[str, str], kind: type[Exception], words: str) -> None:
    async with mail_server(replies) as server:
        with pytest.raises(kind, match=words):
            await notify(server)
        assert server.letters == []


async def test_a_mail_that_is_refused_holds_up_no_other_and_counts_before_one_to_be_tried_again() -> None:
    replies = {"RCPT TO:<ann@example.org>": "451 later", "RCPT TO:<bob@example.org>": "550 no"}
    async with mail_server(replies) as server:
        with pytest.raises(Reject, match=r"bob@example.org was refused"):
            await notify(server, ["ann@example.org", "bob@example.org", "eve@example.org"])
    assert [letter.recipients for letter in server.letters] == [["eve@example.org"]]


async def test_a_farewell_that_fails_is_no_failure() -> None:
    async with mail_server({"QUIT": "drop"}) as server:
        await notify(server)
    assert len(server.letters) == 1


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    async with mail_server() as server:
        pass
    with pytest.raises(Unavailable) as down:
        await notify(server)
    assert down.value.dependency == "smtp"
    assert f"127.0.0.1:{server.port}" in down.value.reason


async def test_a_try_that_is_cancelled_leaves_no_connection_behind() -> None:
    async with mail_server({"RCPT": "hang"}) as server:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await notify(server)
        await eventually(lambda: server.connections == 1 and server.open == 0)


async def test_without_a_mail_server_there_is_no_mail() -> None:
    with pytest.raises(Reject, match=r"add \[stage.governance.smtp\]"):
        await action("notify", channel="email", to="a@example.org", message="x").run(step(now=NOW))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"host": "m"}, "from"),
        ({"host": "m", "from": "Gov <gov@example.org>"}, "pattern"),
        ({"host": "m", "from": "a@b", "username": "x"}, "both username and password"),
        ({"host": "m", "from": "a@b", "password": "hush"}, "both username and password"),
        ({"host": "m", "from": "a@b", "username": "x", "password": "hush", "security": "none"}, "without TLS"),
        ({"host": "m", "from": "a@b", "security": "ssl"}, "'starttls'"),
        ({"host": "m", "from": "a@b", "port": 0}, "greater than"),
    ],
)
def test_wrong_options_are_told(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words) as wrong:
        SmtpOptions.model_validate(options)
    assert "hush" not in str(wrong.value)


@pytest.mark.parametrize(("security", "port"), [("starttls", 587), ("tls", 465), ("none", 25)])
def test_the_port_follows_the_security(security: str, port: int) -> None:
    assert SmtpOptions.model_validate({"host": "m", "from": "a@b", "security": security}).server == f"m:{port}"
