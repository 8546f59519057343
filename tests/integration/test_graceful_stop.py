"""SIGTERM under load: what is in flight is finished and committed, and the next start repeats nothing."""

from __future__ import annotations

from collections import Counter

from tests.integration.rig.events import keyed_event
from tests.integration.rig.runner import until
from tests.integration.rig.site import Site, effect_pipeline

EVENTS = 3_000
GRACE = 10
STOPS = 3
TWICE = """
from pipeline import handler

@handler("twice")
async def twice(event, context):
    if context.attempt == 1:
        raise RuntimeError("not yet")
"""


async def test_a_stop_under_load_finishes_what_is_in_flight_and_the_next_start_repeats_nothing(site: Site) -> None:
    file = site.folder / "effects"
    events = [keyed_event(f"event-{number}", f"key-{number % 100}") for number in range(EVENTS)]
    text = effect_pipeline(site.stream, file, grace=f"{GRACE}s", source="window = 300", options="seconds = 0.02")
    await site.lay_out(text)
    async with site.by_amqp() as amqp, site.books() as books:
        await amqp.publish(events)
        for _ in range(STOPS):
            runner = site.run()
            await site.until_processed(books, await books.processed() + 100, 30, runner)
            assert await runner.stop() < GRACE
            assert await books.processed() == len(file.read_text().split()) < EVENTS  # all that was begun, no more
            assert await books.states("jobs") == {}
            assert await books.owner() is None
            assert "ERROR" not in runner.last_words()
        runner = site.run()
        await site.until_processed(books, EVENTS, 30, runner)
        await runner.stop()

        assert Counter(file.read_text().split()) == Counter(event.id for event in events)
        assert await books.audited() == Counter(event.id for event in events)
        assert await books.outcomes() == {"handled": EVENTS}


async def test_a_stop_while_nothing_happens_is_immediate(site: Site) -> None:
    await site.lay_out(effect_pipeline(site.stream, site.folder / "effects"))
    async with site.by_amqp(), site.books() as books:
        runner = site.run()

        async def reads() -> bool:
            return await books.states("jobs") == {runner.pid: "running"}

        await until(reads, 15, "the source to run", runner)
        assert await runner.stop() < 3


async def test_a_stop_with_a_full_window_and_a_slow_handler_takes_as_long_as_one_event(site: Site) -> None:
    file = site.folder / "effects"
    events = [keyed_event(f"event-{number}", f"key-{number % 20}") for number in range(2_000)]
    text = effect_pipeline(site.stream, file, grace=f"{GRACE}s", source="window = 1000", options="seconds = 0.3")
    await site.lay_out(text)
    async with site.by_amqp() as amqp, site.books() as books:
        await amqp.publish(events)
        runner = site.run()
        await site.until_processed(books, 20, 30, runner)
        seconds = await runner.stop()  # to work the window off would take 15 s
        done = file.read_text().split()
        assert seconds < GRACE / 2
        assert "were still in flight" not in runner.last_words()
        assert len(done) == len(set(done)) == await books.processed() < 1_000

        runner = site.run()
        await site.until_processed(books, len(done) + 40, 30, runner)
        await runner.stop()
        again = file.read_text().split()
        assert len(again) == len(set(again)) == await books.processed()


async def test_a_stop_lets_what_has_had_an_effect_come_to_its_end_also_where_it_waits(site: Site) -> None:
    file = site.folder / "effects"
    (site.folder / "twice.py").write_text(TWICE)
    text = effect_pipeline(site.stream, file, grace=f"{GRACE}s", options="seconds = 0.4")
    text = text.replace('timeout = "10m"', "concurrency = 20")
    text = text.replace('["effect"]', '["effect", "twice"]').replace("handlers = [", 'handlers = ["twice.py", ')
    retry = '\n[stage.twice]\npolicy = { retry = { backoff = "500ms", jitter = 0 } }\n'
    await site.lay_out(text + retry)
    events = [keyed_event(f"event-{number}", f"key-{number}") for number in range(100)]
    async with site.by_amqp() as amqp, site.books() as books:
        await amqp.publish(events)
        runner = site.run()
        await until(lambda: file.exists() and len(file.read_text().split()) > 15, 15, "effects", runner)
        assert await runner.stop() < GRACE
        assert "have begun" not in runner.last_words()
        assert await books.processed() == len(file.read_text().split()) < len(events)
        runner = site.run()
        await site.until_processed(books, len(events), 30, runner)
        await runner.stop()
        assert Counter(file.read_text().split()) == Counter(event.id for event in events)
