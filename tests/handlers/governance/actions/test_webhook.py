"""`notify` by webhook: what is sent, what an answer means, and what is never called."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from pipeline import Reject, Retry
from pipeline_handlers.governance.actions import calls
from pipeline_handlers.governance.actions.calls import Answer, Caller
from pipeline_handlers.governance.actions.targets import Target
from pipeline_handlers.governance.actions.webhook import WebhookOptions, post, sign
from pipeline_handlers.governance.contract import Step
from tests.handlers.governance.actions.books import Books
from tests.handlers.governance.actions.steps import EXECUTION, NOW, action, step, values
from tests.handlers.governance.actions.web import Reply, serving
from tests.services.tls import make_certificates

WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
LOCAL = {"allow": ["127.0.0.0/8"], "allow_http": True, "timeout": "5s"}
Notify = Callable[..., Any]


@pytest.fixture
async def notify() -> AsyncIterator[Notify]:
    """Run the action with these webhook options; returns its step."""
    made = []

    async def run(to: str | Sequence[str], *, webhook: Mapping[str, Any] | None = None, **changes: Any) -> Step:
        notifier = action(
            "notify", channel="webhook", to=to, subject="A {{ entity.type }}", message="p is {{ data.new.x }}"
        )
        made.append(notifier)
        assert notifier.is_external()
        at = step(data={"x": "out"}, settings={"webhook": LOCAL | dict(webhook or {})}, **changes)
        await notifier.run(at)
        return at

    yield run
    for notifier in made:
        await notifier.stop()


async def test_a_webhook_is_posted_with_its_key_and_recorded(notify: Notify, books: Books) -> None:
    async with serving() as server:
        made = await notify(f"{server.url}?a=1,2")
        [request] = server.received
        assert request.line == "POST /hook?a=1,2 HTTP/1.1"
        key = f"{EXECUTION}/1"
        assert (request.headers["idempotency-key"], request.headers["webhook-id"]) == (key, key)
        assert request.headers["host"] == f"127.0.0.1:{server.port}"
        assert request.headers["content-type"] == "application/json"
        assert "webhook-signature" not in request.headers
        assert json.loads(request.body) == {
            "type": "governance.notification",
            "timestamp": "2026-01-31T12:00:00+00:00",
            "data": {
                "execution_id": EXECUTION, "workflow": "review", "position": 1, "event_id": "event-1",
                "entity_type": "policy", "entity_id": "p-1", "actor_id": "ann", "subject": "A policy",
                "message": "p is out",
            },
        }  # fmt: skip
        await books.write(made)
        await books.write(made)
        [row] = await books.rows("SELECT key, channel, recipient, subject, message, status FROM notifications")
        assert row == {
            "key": f"{key}/0", "channel": "webhook", "recipient": f"{server.url}?a=1,2", "subject": "A policy",
            "message": "p is out", "status": "sent",
        }  # fmt: skip


async def test_the_key_and_the_body_are_the_same_at_every_try(notify: Notify) -> None:
    async with serving(Reply(503), Reply()) as server:
        with pytest.raises(Retry):
            await notify(server.url)
        await notify(server.url, attempt=2, now=NOW + timedelta(minutes=1))
        first, second = server.received
        assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
        assert first.body == second.body
        assert second.headers["webhook-timestamp"] == str(int(NOW.timestamp()) + 60)


async def test_every_receiver_has_a_key_of_its_own_and_none_waits_for_another(notify: Notify) -> None:
    async with serving(Reply(500)) as broken, serving(Reply(410)) as gone, serving() as well:
        with pytest.raises(Reject, match="answered 410"):
            await notify([broken.url, gone.url, well.url, well.url])
        keys = [server.received[0].headers["idempotency-key"] for server in (broken, gone, well)]
        assert keys == [f"{EXECUTION}/1", f"{EXECUTION}/1/1", f"{EXECUTION}/1/2"]
        assert len(well.received) == 1


async def test_signatures_are_those_of_standard_webhooks(notify: Notify) -> None:
    secrets = [WHSEC, "a plain text"]
    async with serving() as server:
        await notify(server.url, webhook={"secret": secrets})
        [request] = server.received
    keys = [base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), b"a plain text"]
    signed = f"{request.headers['webhook-id']}.{int(NOW.timestamp())}.".encode() + request.body
    wanted = [base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode() for key in keys]
    assert request.headers["webhook-signature"] == f"v1,{wanted[0]} v1,{wanted[1]}"


def test_the_example_of_standard_webhooks_has_the_signature_that_it_is_to_have() -> None:
    body = b'{"event_type":"ping","data":{"success":true}}'
    made = sign([SecretStr("whsec_plJ3nmyCDGBKInavdOK15jsl")], "msg_loFOjxBNrRLzqYUf", 1731705121, body)
    assert made == "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0="


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
async def test_what_may_pass_is_tried_again(notify: Notify, status: int) -> None:
    async with serving(Reply(status)) as server:
        with pytest.raises(Retry, match=f"answered {status}") as again:
            await notify(server.url)
        assert again.value.after is None
        assert server.connections == 1


@pytest.mark.parametrize(
    ("header", "after"),
    [
        ("7", 7.0), (" 0 ", 0.0), ("86400", 3600.0), ("Sat, 31 Jan 2026 12:00:30 GMT", 30.0),
        ("Sat, 31 Jan 2026 11:00:00 GMT", 0.0), ("soon", None), ("-1", None), ("1.5", None), ("²", None),
    ],
)  # fmt: skip
async def test_a_receiver_may_say_when_to_try_again(header: str, after: float | None) -> None:
    class Told(Caller):
        async def post(self, target: Target, headers: Mapping[str, str], body: bytes) -> Answer:
            return Answer(503, header, b"")

    options = WebhookOptions()
    with pytest.raises(Retry) as again:
        await post(Told(options), options, "https://example.org/", "key", {}, NOW)
    assert again.value.after == after


@pytest.mark.parametrize("status", [400, 401, 404, 410, 422])
async def test_what_is_refused_is_not_tried_again_and_says_why(notify: Notify, status: int) -> None:
    async with serving(Reply(status, body=b"no\0such\n<b>hook</b>" + b"x" * 1_000)) as server:
        with pytest.raises(Reject) as refused:
            await notify(server.url)
    assert refused.value.kind == "webhook_refused"
    said = str(refused.value)
    assert f"answered {status}: no\\u0000such <b>hook</b>xxx" in said
    assert len(said) < 400


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(notify: Notify, status: int) -> None:
    async with serving() as inner, serving(Reply(status, {"Location": inner.url})) as server:
        with pytest.raises(Reject, match="redirects are not followed"):
            await notify(server.url)
        assert inner.received == []


async def test_a_receiver_that_hangs_up_or_is_not_there_is_tried_again(notify: Notify) -> None:
    async with serving(Reply(drop=True)) as server:
        with pytest.raises(Retry, match="can't be reached"):
            await notify(server.url)
    with pytest.raises(Retry, match="can't be reached"):
        await notify(server.url)


async def test_a_receiver_that_does_not_answer_in_time_is_tried_again(notify: Notify) -> None:
    async with serving(Reply(hang=True)) as server:
        with pytest.raises(Retry, match=r"did not answer within 0.1 s"):
            await notify(server.url, webhook={"timeout": "100ms"})


async def test_only_the_beginning_of_an_answer_is_read(notify: Notify) -> None:
    async with serving(Reply(200, {"Content-Length": str(10**12)}, b"x" * 200_000)) as server:
        await notify(server.url)


async def test_connections_are_kept_for_the_next_call() -> None:
    async with serving() as server:
        notifier = action("notify", channel="webhook", to=server.url, message="x")
        for _ in range(3):
            await notifier.run(step(settings={"webhook": LOCAL}))
        await notifier.stop()
        assert (len(server.received), server.connections) == (3, 1)


async def test_proxies_of_the_environment_are_ignored(notify: Notify, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as proxy, serving() as server:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        await notify(server.url)
        assert (len(proxy.received), len(server.received)) == (0, 1)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "127.1"])
async def test_this_machine_is_not_called_unless_that_is_allowed(notify: Notify, host: str) -> None:
    async with serving() as server:
        with pytest.raises(Reject, match="loopback") as refused:
            await notify(f"http://{host}:{server.port}/", webhook={"allow": []})
        assert refused.value.kind == "forbidden_address"
        assert server.connections == 0


async def test_plain_http_is_not_called_unless_that_is_allowed(notify: Notify) -> None:
    with pytest.raises(Reject, match="set allow_http in"):
        await notify("http://example.org/", webhook={"allow_http": False})


@asynccontextmanager
async def calling(resolve: calls.Resolve, **changes: Any) -> AsyncIterator[Callable[[str], Any]]:
    options = WebhookOptions.model_validate({"allow_http": True, "timeout": "5s", **changes})
    caller = Caller(options, resolve)
    try:
        yield lambda url: post(caller, options, url, "key", {}, NOW)
    finally:
        await caller.stop()


class Answers:
    """A resolver whose answers change."""

    def __init__(self, *answers: Sequence[str] | OSError) -> None:
        self.left = list(answers)
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        answer = self.left.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer


async def test_a_name_that_is_rebound_to_this_machine_is_not_called() -> None:
    # The answer that is checked is the one that is called: were the name looked up again, it would be the server.
    answers = Answers(["127.0.0.2"], ["127.0.0.1"])
    async with serving() as server, calling(answers, allow="127.0.0.2") as call:
        with pytest.raises(Retry, match="can't be reached"):  # nobody listens there
            await call(f"http://rebind.example:{server.port}/")
        assert answers.asked == [("rebind.example", server.port)]
        with pytest.raises(Reject, match=r"rebind.example \(127.0.0.1\) is a loopback address"):
            await call(f"http://rebind.example:{server.port}/")
        assert server.connections == 0


async def test_what_was_checked_is_what_is_called() -> None:
    answers = Answers(["127.0.0.1"])
    async with serving() as server, calling(answers, allow="127.0.0.1") as call:
        assert await call(f"http://no-such-host.invalid:{server.port}/x") == 204
        assert server.received[0].headers["host"] == f"no-such-host.invalid:{server.port}"
        assert len(answers.asked) == 1


async def test_one_private_address_among_others_is_enough_to_refuse() -> None:
    async with calling(Answers(["8.8.8.8", "10.0.0.1"])) as call:
        with pytest.raises(Reject, match=r"10\.0\.0\.1"):
            await call("https://mixed.example/")


async def test_another_address_is_tried_where_the_first_does_not_answer() -> None:
    async with serving() as server, calling(Answers(["127.0.0.2", "127.0.0.1"]), allow="127.0.0.0/8") as call:
        assert await call(f"http://two.example:{server.port}/") == 204


async def test_refused_calls_use_no_connection_up() -> None:
    answers = Answers(*[["10.0.0.1"]] * 150, ["127.0.0.1"])
    async with serving() as server, calling(answers, allow="127.0.0.1") as call:
        for _ in range(150):
            with pytest.raises(Reject):
                await call(f"http://inner.example:{server.port}/")
        assert await call(f"http://inner.example:{server.port}/") == 204


async def test_a_name_that_can_not_be_looked_up_is_tried_again() -> None:
    async with calling(Answers(OSError(-3, "Temporary failure in name resolution"))) as call:
        with pytest.raises(Retry, match=r"away.example can't be looked up"):
            await call("https://away.example/")


@pytest.fixture
def certificates(tmp_path: Path) -> tuple[Path, ssl.SSLContext]:
    """An authority's certificate, and a server's context for 127.0.0.1 and localhost."""
    ca = make_certificates(tmp_path / "tls")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca.parent / "server.pem", ca.parent / "server.key")
    return ca, context


async def test_https_is_verified_by_the_name_that_is_called(certificates: tuple[Path, ssl.SSLContext]) -> None:
    ca, context = certificates
    local = {"allow": "127.0.0.1", "ca": str(ca)}
    async with serving(tls=context) as server:
        async with calling(Answers(["127.0.0.1"]), **local) as call:
            assert await call(f"https://localhost:{server.port}/") == 204
        async with calling(Answers(["127.0.0.1"]), **local) as call:
            with pytest.raises(Retry, match="certificate"):
                await call(f"https://other.example:{server.port}/")
        async with calling(Answers(["127.0.0.1"]), allow="127.0.0.1") as call:
            with pytest.raises(Retry, match="certificate"):
                await call(f"https://localhost:{server.port}/")
        assert len(server.received) == 1


async def test_secrets_do_not_show() -> None:
    options = WebhookOptions.model_validate({"secret": ["hush-hush", WHSEC]})
    assert "hush" not in repr(options)
    assert "hush" not in options.model_dump_json()
    made = step(settings={"webhook": LOCAL})
    async with serving() as server:
        notifier = action("notify", channel="webhook", to=f"{server.url}?token=abc", message="x")
        result = await notifier.run(made)
        await notifier.stop()
    assert "abc" not in str(values(made)) + str(result)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"secret": ""}, "the secret is empty"),
        ({"secret": "whsec_"}, "the secret is empty"),
        ({"secret": "whsec_no base64"}, "is no base64"),
        ({"secret": "whsec_ü"}, "is no base64"),
        ({"timeout": 0}, "greater than 0"),
        ({"ca": "missing.pem"}, "there is no file missing.pem"),
        ({"url": "https://example.org"}, "Extra inputs"),
    ],
)
def test_wrong_options_are_told(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words) as wrong:
        WebhookOptions.model_validate(options)
    assert "whsec_no" not in str(wrong.value)


def test_an_authority_lies_beside_the_file_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    options = WebhookOptions.model_validate({"ca": "ca.pem"}, context={"base": tmp_path})
    assert options.ca == tmp_path / "ca.pem"
