"""Hints within one process keep the contract, with arq and without."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from pipeline.errors import UserError
from pipeline.jobs.arq_queue import ArqHints
from pipeline.jobs.arq_worker import ArqWorker
from pipeline.jobs.hints import HintQueue, InlineHints
from tests.pipeline.jobs.hint_suite import PATIENCE, Consumer, HintContract, eventually


class TestInline(HintContract):
    @pytest.fixture
    async def hints(self) -> AsyncIterator[HintQueue]:
        hints = InlineHints()
        yield hints
        await hints.close()

    async def test_closing_ends_what_still_runs(self) -> None:
        hints, consumer = InlineHints(), Consumer(slow=True)
        hints.serve("q", consumer, 1)
        await hints.put("q", [["a"]])
        await eventually(lambda: consumer.running == 1, "it does not begin")
        await hints.close()
        assert consumer.running == 0


class TestEmbedded(HintContract):
    @pytest.fixture
    async def hints(self) -> AsyncIterator[HintQueue]:
        hints = ArqHints(None)
        yield hints
        await hints.close()

    async def test_an_idle_queue_is_looked_at_more_often_than_ten_times_a_second(self, hints: ArqHints) -> None:
        worker = ArqWorker(hints._redis, "key", "q", Consumer(), 10)
        assert 0.05 <= worker.poll_delay_s < 0.1

    async def test_no_more_hints_are_taken_than_there_is_room_for(self, hints: HintQueue) -> None:
        consumer = Consumer(slow=True)
        consumer.pending = 150  # 50 more may wait
        hints.serve("q", consumer, 10)
        await hints.put("q", [[f"{hint}-{job}" for job in range(30)] for hint in range(10)])
        await eventually(lambda: len(consumer.ran) >= 2, "they do not come")
        consumer.pending = 200
        await asyncio.sleep(0.3)  # four looks
        assert len(consumer.ran) == 2
        consumer.pending = 0
        await eventually(lambda: len(consumer.ran) == 10, "the others do not come")

    async def test_no_more_wait_here_than_twenty_for_each_that_may_run(self, hints: HintQueue) -> None:
        consumer = Consumer(slow=True)
        hints.serve("q", consumer, 1)
        consumer.pending = 20
        await hints.put("q", [["a"]])
        await asyncio.sleep(0.3)  # four looks
        assert consumer.ran == []
        consumer.pending = 19
        await eventually(lambda: consumer.ids == ["a"], "it does not come")

    async def test_a_hint_whose_jobs_wait_for_others_is_held_until_they_run(
        self, hints: HintQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pipeline.jobs.arq_worker._HELD", 0.1)
        monkeypatch.setattr("pipeline.jobs.arq_worker._SILENT", 1)
        consumer = Consumer(slow=True)
        consumer.waiting_ids = {"a"}
        hints.serve("q", consumer, 10)
        await hints.put("q", [["a"], ["b"]])

        async def backlog(count: int) -> None:
            async with asyncio.timeout(PATIENCE):
                while (await hints.backlogs(["q"]))["q"].hints != count:
                    await asyncio.sleep(0.01)

        await backlog(1)  # b runs, and needs its hint no more
        await asyncio.sleep(1.5)
        await backlog(1)
        assert sorted(consumer.ids) == ["a", "b"]  # nor was it offered anew
        consumer.waiting_ids = set()
        await backlog(0)


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost", "redis://localhost/0?no_such_option=1", "redis://localhost:port/0",
        "rediss://localhost/0?ssl_ca_certs=/no/such/file.pem", "rediss://localhost/0?ssl_cert_reqs=perhaps",
        "redis://localhost/0?socket_timeout=soon",
    ],
)  # fmt: skip
def test_a_wrong_url_is_refused_before_anything_is_asked(url: str) -> None:
    with pytest.raises(UserError, match=r"REDIS_URL"):
        ArqHints(url)


def test_tls_checks_the_hosts_name_unless_it_is_told_not_to() -> None:
    from pipeline.jobs.redis_url import connection_pool

    def checks(url: str) -> bool:
        return bool(connection_pool(url).connection_kwargs["ssl_check_hostname"])

    assert checks("rediss://localhost/0")
    assert not checks("rediss://localhost/0?ssl_check_hostname=false")
    assert not checks("rediss://localhost/0?ssl_cert_reqs=none")
