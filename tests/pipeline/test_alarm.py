"""``on_unhealthy``: once per episode, after the hold-off, until it is delivered, and in nobody's way."""

from __future__ import annotations

import asyncio
import base64
import hmac
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from pipeline.alarm import Alarm
from pipeline.config.alarm import AlarmTable
from pipeline.config.models import PipelineTable
from pipeline.errors import Unavailable
from pipeline.stats import ConnectionStats, InstanceStats, SourceStats
from pipeline.webhook import Webhook, WebhookRefused
from tests.pipeline.dispatch.harness import eventually

URL = "https://hooks.example.com/x"


class Patient:
    """A pipeline whose health is set by hand, an alarm that looks when it is told to, and what it posted."""

    def __init__(self, **table: Any) -> None:
        self.now = 1000.0
        self.source = SourceStats("s", state="running")
        self.posted: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.failures: list[BaseException] = []
        self.alarm = Alarm(
            AlarmTable(webhook=URL, **table), "p", self.stats, post=self.post, clock=lambda: self.now, look=3600,
            first_wait=0.001,
        )  # fmt: skip

    def stats(self) -> InstanceStats:
        return InstanceStats.of({"s": self.source}, running=True)

    async def post(self, id_: str, payload: dict[str, Any]) -> None:
        self.ids.append(id_)
        if self.failures:
            raise self.failures.pop(0)
        self.posted.append(payload)

    def is_now(self, state: str, *, after: float = 0.0) -> None:
        self.now += after
        self.source.state = state
        self.source.reason = "temporal is unavailable" if state == "paused" else ""
        self.alarm.look()

    @property
    def told(self) -> list[str]:
        return [payload["status"] for payload in self.posted]


@asynccontextmanager
async def watched(patient: Patient) -> AsyncIterator[Patient]:
    tasks = patient.alarm.start()
    try:
        yield patient
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_an_episode_is_told_once_after_the_hold_off_and_so_is_its_end() -> None:
    async with watched(Patient(hold_off=30)) as patient:
        patient.is_now("paused")
        patient.is_now("paused", after=29)
        await asyncio.sleep(0)
        assert patient.told == []
        patient.is_now("paused", after=1)
        patient.is_now("paused", after=500)
        await eventually(lambda: patient.told == ["unhealthy"])
        patient.is_now("running", after=10)
        patient.is_now("running", after=29)
        patient.is_now("running", after=1)
        patient.is_now("running", after=500)
        await eventually(lambda: patient.told == ["unhealthy", "healthy"])
    first = patient.posted[0]
    assert (first["type"], first["pipeline"], first["kind"]) == ("pipeline.unhealthy", "p", "runner")
    assert first["reason"] == "source s is paused: temporal is unavailable"
    assert first["sources"]["s"]["state"] == "paused"
    assert len(set(patient.ids)) == 2


async def test_what_changes_faster_than_the_hold_off_is_one_episode() -> None:
    async with watched(Patient(hold_off=30)) as patient:
        patient.is_now("paused")
        patient.is_now("running", after=20)
        patient.is_now("paused", after=20)
        patient.is_now("paused", after=20)
        assert not patient.ids
        patient.is_now("paused", after=10)
        await eventually(lambda: patient.told == ["unhealthy"])
        patient.is_now("running", after=5)
        patient.is_now("paused", after=5)
        patient.is_now("paused", after=60)
        patient.is_now("running", after=5)
        patient.is_now("running", after=30)
        await eventually(lambda: patient.told == ["unhealthy", "healthy"])


async def test_what_comes_and_goes_is_told_once_and_so_is_its_end() -> None:
    async with watched(Patient(hold_off=30)) as patient:
        for _ in range(120):  # an hour, of which it is well for 5 s in each 30 s
            patient.is_now("paused")
            patient.is_now("running", after=25)
            patient.is_now("running", after=4)
            patient.now += 1
        await eventually(lambda: patient.told == ["unhealthy"])
        patient.is_now("running", after=29)
        await eventually(lambda: patient.told == ["unhealthy", "healthy"])
    assert patient.posted[0]["reason"] == "source s is paused: temporal is unavailable"
    assert patient.posted[0]["unhealthy_since"] == patient.posted[1]["unhealthy_since"]


async def test_a_moment_now_and_then_is_no_episode() -> None:
    async with watched(Patient(hold_off=30)) as patient:
        for _ in range(100):
            patient.is_now("paused")
            patient.is_now("running", after=1)
            patient.is_now("paused", after=29)
            assert not patient.alarm.alerts
            patient.is_now("running", after=1)
            patient.is_now("running", after=30)


async def test_the_messages_of_an_episode_name_the_same_alert_and_those_of_two_do_not() -> None:
    async with watched(Patient(hold_off=0, repeat=10)) as patient:
        expected: list[str] = []
        for _ in range(2):
            patient.is_now("paused", after=1)
            expected.append("unhealthy")
            await eventually(lambda: patient.told == expected)  # else the repeat would replace it
            patient.is_now("paused", after=10)
            patient.is_now("running", after=1)
            expected.extend(("unhealthy", "healthy"))
            await eventually(lambda: patient.told == expected)
    alerts = [payload["alert"] for payload in patient.posted]
    assert (len({*alerts[:3]}), len({*alerts})) == (1, 2)


async def test_what_was_taken_over_is_not_told_again_and_ends_when_this_process_is_well() -> None:
    async with watched(Patient(hold_off=30)) as patient:
        patient.is_now("paused")
        patient.alarm._take_over({"alert_1": "2026-01-31T12:00:00Z"})
        patient.is_now("paused", after=500)
        patient.is_now("running", after=1)
        patient.is_now("running", after=29)
        assert not patient.ids
        patient.is_now("running", after=1)
        await eventually(lambda: patient.told == ["healthy"])
    assert (patient.posted[0]["alert"], patient.posted[0]["unhealthy_since"]) == ("alert_1", "2026-01-31T12:00:00Z")


async def test_what_a_process_that_is_well_for_long_takes_over_ends_after_a_hold_off_from_then() -> None:
    async with watched(Patient(hold_off=30)) as patient:
        patient.is_now("running", after=500)
        patient.alarm._take_over({"alert_1": "2026-01-31T12:00:00Z"})
        patient.is_now("running")
        patient.alarm._take_over({})
        patient.is_now("running", after=29)
        assert list(patient.alarm.alerts) == ["alert_1"]
        assert not patient.alarm._waiting
        patient.is_now("running", after=1)
        await eventually(lambda: patient.told == ["healthy"])


async def test_however_many_alerts_are_taken_over_each_is_ended() -> None:
    left = {f"alert_{number}": "2026-01-31T12:00:00Z" for number in range(100)}
    async with watched(Patient(hold_off=0)) as patient:
        patient.alarm._take_over(left)
        patient.is_now("running")
        for _ in range(50):  # nor do episodes that begin before the ends are delivered push one out
            patient.is_now("paused", after=1)
            patient.is_now("running", after=1)
        assert left.keys() <= patient.alarm.alerts.keys()
        await eventually(lambda: not patient.alarm.alerts)
    ended = [payload["alert"] for payload in patient.posted if payload["status"] == "healthy"]
    assert ended[:100] == list(left)


async def test_a_database_that_was_away_leaves_the_others_time_to_give_a_sign_of_life(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.alarm._AROUND_SECONDS", 0.001)
    patient = Patient()
    asked: list[float] = []

    async def left(kind: str, silent: float) -> dict[str, str]:
        asked.append(silent)
        if len(asked) == 3:
            raise Unavailable("database", "no route")
        return {}

    patient.alarm._left = left
    patient.now += 7
    async with watched(patient):
        await eventually(lambda: len(asked) >= 5)
    assert asked[:5] == [math.inf, 7, 7, math.inf, 7]


async def test_it_is_repeated_only_where_that_is_asked_for() -> None:
    async with watched(Patient(hold_off=1, repeat="1h")) as patient:
        patient.is_now("paused")
        patient.is_now("paused", after=1800)
        await eventually(lambda: patient.told == ["unhealthy"])
        patient.is_now("paused", after=1800)
        patient.is_now("paused", after=1800)
        await eventually(lambda: patient.told == ["unhealthy", "unhealthy"])


async def test_a_message_is_posted_until_it_arrives_with_the_same_id() -> None:
    async with watched(Patient(hold_off=0)) as patient:
        patient.failures = [OSError("refused"), TimeoutError(), RuntimeError("a bug")]
        patient.is_now("paused")
        await eventually(lambda: patient.told == ["unhealthy"])
        assert len(patient.ids) == 4
        assert len(set(patient.ids)) == 1


async def test_a_receiver_that_says_no_is_not_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    async with watched(Patient(hold_off=0)) as patient:
        patient.failures = [WebhookRefused("it answered 404")]
        patient.is_now("paused")
        await eventually(lambda: len(patient.ids) == 1)
        patient.is_now("running")
        await eventually(lambda: patient.told == ["healthy"])
    assert "it answered 404" in caplog.text


async def test_a_receiver_that_hangs_keeps_only_the_last_messages_waiting() -> None:
    patient = Patient(hold_off=0)

    async def hang(id_: str, payload: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    patient.alarm._post = hang
    async with watched(patient):
        for _ in range(100):
            patient.is_now("paused", after=1)
            patient.is_now("running", after=1)
        assert len(patient.alarm._waiting) == 20
        assert len(patient.alarm.alerts) == 10


async def test_the_end_of_what_a_receiver_may_have_heard_of_outlives_any_number_of_episodes() -> None:
    patient = Patient(hold_off=0)
    tried = asyncio.Event()

    async def hang(id_: str, payload: dict[str, Any]) -> None:
        tried.set()
        await asyncio.Event().wait()

    patient.alarm._post = hang
    async with watched(patient):
        patient.is_now("paused", after=1)
        await tried.wait()
        (first,) = patient.alarm.alerts
        for _ in range(100):
            patient.is_now("running", after=1)
            patient.is_now("paused", after=1)
        assert (first, "healthy") in patient.alarm._waiting
        assert len(patient.alarm.alerts) == 11


async def test_repeats_that_wait_are_replaced_by_the_latest() -> None:
    async with watched(Patient(hold_off=0, repeat=10)) as patient:
        patient.is_now("paused")
        for _ in range(100):
            patient.is_now("failed", after=10)
        await eventually(lambda: patient.told == ["unhealthy"])
    assert patient.posted[0]["reason"] == "source s is failed"


def test_a_connection_that_is_down_makes_a_process_unhealthy_and_says_why() -> None:
    from datetime import UTC, datetime

    down = ConnectionStats("down", datetime(2026, 1, 31, tzinfo=UTC), "no answer")
    stats = InstanceStats.of({}, running=True, kind="worker", connections={"database": down})
    assert not stats.is_healthy
    assert stats.reason == "database is down: no answer"
    assert stats.as_json()["connections"]["database"] == {
        "state": "down", "since": "2026-01-31T00:00:00Z", "reason": "no answer",
    }  # fmt: skip


def test_a_source_that_has_come_to_its_ordered_end_is_no_reason_to_worry() -> None:
    sources = {"a": SourceStats(state="draining"), "b": SourceStats(state="stopped")}
    assert InstanceStats.of(sources, running=True).is_healthy
    sources["b"].state = "failed"
    assert InstanceStats.of(sources, running=True).reason == "source b is failed"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"webhook": "ftp://x"}, "begins with https://"),
        ({"webhook": URL, "secret": ""}, "the secret is empty"),
        ({"webhook": URL, "secret": "whsec_?"}, "no base64"),
        ({"webhook": URL, "repeat": True}, "after how long"),
        ({"webhook": URL, "tiemout": 3}, "tiemout"),
    ],
)
def test_a_wrong_table_is_refused_and_no_secret_is_shown(table: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        PipelineTable.model_validate({"on_unhealthy": table})
    assert said in str(refused.value)
    assert "hooks.example.com" not in str(refused.value)


def test_a_missing_package_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.webhook.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValidationError, match=r"pipeline-runner\[webhook\]"):
        AlarmTable(webhook=URL)  # type: ignore[arg-type]


class Receiver:
    """An HTTP server that answers with one status, or never."""

    def __init__(self, status: int | None) -> None:
        self._status = status
        self.headers: dict[str, str] = {}
        self.body = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()[1:]
        pairs = (line.split(": ", 1) for line in head if line)
        self.headers = {name.lower(): value for name, value in pairs}
        self.body = await reader.readexactly(int(self.headers["content-length"]))
        if self._status is not None:
            writer.write(f"HTTP/1.1 {self._status} X\r\nContent-Length: 0\r\n\r\n".encode())
            await writer.drain()
        else:
            await reader.read()
        writer.close()


@asynccontextmanager
async def receiver(status: int | None) -> AsyncIterator[tuple[Receiver, str]]:
    made = Receiver(status)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield made, f"http://127.0.0.1:{port}/hook?token=1"


async def test_a_post_is_signed_json() -> None:
    async with receiver(204) as (made, url):
        await Webhook(url, "whsec_" + base64.b64encode(b"key").decode(), 5).post("msg_1", {"a": "ü"})
    assert orjson.loads(made.body) == {"a": "ü"}
    assert made.headers["webhook-id"] == "msg_1"
    signed = b".".join((b"msg_1", made.headers["webhook-timestamp"].encode(), made.body))
    expected = base64.b64encode(hmac.digest(b"key", signed, "sha256")).decode()
    assert made.headers["webhook-signature"] == f"v1,{expected}"


@pytest.mark.parametrize(
    ("status", "error"), [(500, OSError), (429, OSError), (404, WebhookRefused), (302, WebhookRefused)]
)
async def test_an_answer_says_whether_to_try_again(status: int, error: type[Exception]) -> None:
    async with receiver(status) as (_, url):
        with pytest.raises(error, match=str(status)):
            await Webhook(url, None, 5).post("msg_1", {})


async def test_no_answer_is_a_time_out_and_no_server_an_error() -> None:
    async with receiver(None) as (_, url):
        with pytest.raises(TimeoutError):
            await Webhook(url, None, 0.05).post("msg_1", {})
    with pytest.raises(OSError, match="onnect"):
        await Webhook(url, None, 1).post("msg_1", {})
