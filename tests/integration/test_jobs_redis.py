"""Hints through a real Redis: the contract, TLS, and every way in which Redis can be away."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable

import pytest

from pipeline.errors import Unavailable, UserError
from pipeline.jobs.arq_queue import ArqHints
from pipeline.jobs.hints import HintQueue
from tests.integration.redis_servers import commands_of, start_forgetful_redis, start_tls_redis, tell
from tests.pipeline.jobs.hint_suite import Consumer, HintContract, eventually
from tests.services.redis import Redis

Own = Callable[..., Redis]


def prefix() -> str:
    return f"test-{secrets.token_hex(6)}"


class TestRedis(HintContract):
    @pytest.fixture
    async def hints(self, redis_url: str) -> AsyncIterator[HintQueue]:
        hints = ArqHints(redis_url, prefix())
        yield hints
        await hints.close()


class TestRedisWithTls(HintContract):
    @pytest.fixture
    async def hints(self, own_server: Own) -> AsyncIterator[HintQueue]:
        hints = ArqHints(own_server(start_tls_redis).url, prefix())
        yield hints
        await hints.close()


async def test_processes_side_by_side_share_the_hints_of_a_queue(redis_url: str) -> None:
    name, consumers = prefix(), [Consumer() for _ in range(3)]
    queues = [ArqHints(redis_url, name) for _ in consumers]
    for hints, consumer in zip(queues, consumers, strict=True):
        hints.serve("q", consumer, 100)
    await queues[0].put("q", [[str(number)] for number in range(300)])
    await eventually(lambda: sum(len(consumer.ids) for consumer in consumers) >= 300, "they do not come")
    ids = [job for consumer in consumers for job in consumer.ids]
    assert sorted(ids, key=int) == [str(number) for number in range(300)]
    assert sum(1 for consumer in consumers if consumer.ids) > 1
    for hints in queues:
        await hints.close()


async def test_hints_that_a_full_worker_does_not_take_go_to_another(redis_url: str) -> None:
    name, full, free = prefix(), Consumer(), Consumer()
    full.pending = 5_000
    one, other = ArqHints(redis_url, name), ArqHints(redis_url, name)
    one.serve("q", full, 10)
    await one.put("q", [[str(number)] for number in range(50)])
    other.serve("q", free, 10)
    await eventually(lambda: len(free.ids) == 50, "they do not come")
    assert full.ids == []
    await one.close()
    await other.close()


async def test_hints_that_were_not_done_at_the_end_are_handed_out_again_at_once(redis_url: str) -> None:
    name, stuck, next_one = prefix(), Consumer(slow=True), Consumer()
    hints = ArqHints(redis_url, name)
    hints.serve("q", stuck, 10)
    await hints.put("q", [["a"]])
    await eventually(lambda: stuck.running == 1, "it does not begin")
    async with asyncio.timeout(10):
        await hints.close()
    other = ArqHints(redis_url, name)
    other.serve("q", next_one, 10)
    await eventually(lambda: next_one.ids == ["a"], "it is not handed out", seconds=2)
    await other.close()


async def test_a_look_at_an_idle_queue_is_one_command(own_server: Own) -> None:
    server = own_server(start_forgetful_redis)
    hints = ArqHints(server.url, prefix())
    for number in range(10):
        hints.serve(f"q{number}", Consumer(), 100)

    async def commands(looks: int) -> dict[str, int]:
        """What clients asked for, besides what this test asks, once so many looks were taken."""
        async with asyncio.timeout(20):
            while (found := await commands_of(server.url)).get("zrangebyscore", 0) < looks:
                await asyncio.sleep(0.05)
        return found

    await commands(50)  # each queue's worker has connected, and said that it is there
    await tell(server.url, "CONFIG", "RESETSTAT")
    asked = await commands(100)
    await hints.close()
    assert set(asked) == {"zrangebyscore"}


# Outages


async def test_an_outage_is_said_once_and_over_when_redis_is_back(
    own_server: Own, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pipeline.jobs")
    server, consumer, woken = own_server(start_forgetful_redis), Consumer(), asyncio.Event()
    hints = ArqHints(server.url, prefix())
    hints.on_up = woken.set
    for number in range(5):
        hints.serve(f"q{number}", consumer, 100)
    await hints.put("q1", [["a"]])
    await eventually(lambda: consumer.ids == ["a"], "it does not come")
    server.kill()
    await eventually(lambda: not hints.is_up, "the outage is not seen")
    with pytest.raises(Unavailable):
        await hints.put("q1", [["b"]])
    with pytest.raises(Unavailable):
        await hints.backlogs(["q1"])
    server.start()
    async with asyncio.timeout(20):
        await woken.wait()
    assert hints.is_up
    await hints.put("q1", [["c"]])
    await hints.put("q4", [["d"]])
    await eventually(lambda: sorted(consumer.ids) == ["a", "c", "d"], "it does not go on")
    await hints.close()
    said = [message for message in caplog.messages if "Redis" in message]
    assert len(said) == 2, said
    assert said[0].startswith("queue is unavailable: ")
    assert said[1] == "queue: Redis is back"


async def test_jobs_that_run_while_redis_goes_come_to_their_end(
    own_server: Own, caplog: pytest.LogCaptureFixture
) -> None:
    server, consumer = own_server(start_forgetful_redis), Consumer(slow=True)
    hints = ArqHints(server.url, prefix())
    hints.serve("q", consumer, 100)
    await hints.put("q", [["a"]])
    await eventually(lambda: consumer.running == 1, "it does not begin")
    server.kill()
    await eventually(lambda: not hints.is_up, "the outage is not seen")
    assert consumer.running == 1
    consumer.finish()
    await eventually(lambda: consumer.running == 0, "it does not end")
    server.start()
    await eventually(lambda: hints.is_up, "it does not come back")
    await hints.put("q", [["b"]])
    await eventually(lambda: consumer.ids == ["a", "b"], "it does not go on")
    await hints.close()
    assert "Traceback" not in caplog.text


async def test_a_redis_that_hangs_counts_as_away(own_server: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.jobs import redis_url

    monkeypatch.setattr(redis_url, "_ANSWER_WAIT", 0.5)
    server, consumer = own_server(start_forgetful_redis), Consumer()
    hints = ArqHints(server.url, prefix())
    hints.serve("q", consumer, 100)
    await hints.put("q", [["a"]])
    await eventually(lambda: consumer.ids == ["a"], "it does not come")
    server.pause()
    await eventually(lambda: not hints.is_up, "the outage is not seen")
    server.resume()
    await eventually(lambda: hints.is_up, "it does not come back")
    await hints.put("q", [["b"]])
    await eventually(lambda: consumer.ids == ["a", "b"], "it does not go on")
    await hints.close()


async def test_flushall_ends_no_worker(own_server: Own) -> None:
    server, consumer = own_server(start_forgetful_redis), Consumer(slow=True)
    hints = ArqHints(server.url, prefix())
    hints.serve("q", consumer, 100)
    await hints.put("q", [["a"]])
    await eventually(lambda: consumer.running == 1, "it does not begin")
    await tell(server.url, "FLUSHALL")
    consumer.finish()
    await hints.put("q", [["b"]])
    await eventually(lambda: consumer.ids == ["a", "b"], "it does not go on")
    assert hints.is_up
    await hints.close()


async def test_a_password_that_is_changed_at_run_time_is_an_outage_until_it_is_right_again(own_server: Own) -> None:
    server, consumer = own_server(start_forgetful_redis), Consumer()
    hints = ArqHints(server.url, prefix())
    hints.serve("q", consumer, 100)
    await hints.put("q", [["a"]])
    await eventually(lambda: consumer.ids == ["a"], "it does not come")
    await tell(server.url, "CONFIG", "SET", "requirepass", "secret")
    await tell(server.url.replace("//", "//:secret@"), "CLIENT", "KILL", "TYPE", "normal")
    await eventually(lambda: not hints.is_up, "it is not seen")
    await tell(server.url.replace("//", "//:secret@"), "CONFIG", "SET", "requirepass", "")
    await eventually(lambda: hints.is_up, "it does not come back", seconds=15)
    await hints.put("q", [["b"]])
    await eventually(lambda: consumer.ids == ["a", "b"], "it does not go on")
    await hints.close()


# At the start


@pytest.mark.parametrize("login", ["", ":wrong@", "nobody:wrong@"])
async def test_a_refused_login_says_what_to_check(own_server: Own, login: str) -> None:
    server = own_server(start_forgetful_redis)
    await tell(server.url, "CONFIG", "SET", "requirepass", "secret")
    hints = ArqHints(server.url.replace("//", f"//{login}"))
    with pytest.raises(UserError, match=r"refuses the login.*\[jobs\].*REDIS_URL.*REDIS_PASSWORD"):
        await hints.probe()
    await hints.close()


async def test_a_database_that_is_not_there_is_refused(own_server: Own) -> None:
    server = own_server(start_forgetful_redis)
    hints = ArqHints(server.url.replace("/0", "/99"))
    with pytest.raises(UserError, match=r"no such database"):
        await hints.probe()
    await hints.close()


async def test_a_certificate_of_an_unknown_authority_is_refused(own_server: Own) -> None:
    server = own_server(start_tls_redis)
    hints = ArqHints(server.url.partition("?")[0])
    with pytest.raises(UserError, match=r"ssl_ca_certs"):
        await hints.probe()
    await hints.close()


async def test_an_unreachable_redis_is_no_mistake(own_server: Own) -> None:
    server = own_server(start_forgetful_redis)
    server.kill()
    hints = ArqHints(server.url)
    with pytest.raises(Unavailable):
        await hints.probe()
    await hints.close()
