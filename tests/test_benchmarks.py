"""The benchmarks do what they say: each takes every event, on real servers; ratios are taken within a round."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.__main__ import main
from benchmarks.executions import Executions, WrongEffects
from benchmarks.job import Job, Result
from benchmarks.meter import Meter, percentiles
from benchmarks.npm import MissingNode, install
from benchmarks.parts import shares
from benchmarks.plan import COMPARISONS, Comparison, Target, Variant
from benchmarks.policies import policy_created
from benchmarks.report import as_json, print_report, verdicts
from benchmarks.rounds import ProgramFailed, Settings, run
from benchmarks.servers import MissingServer, Servers
from benchmarks.variants.governance import make_tables
from benchmarks.workload import BODY_BYTES, ROUTING_KEY, batches, body
from tests.conftest import RabbitMQ

pytestmark = pytest.mark.slow  # each starts processes

TINY = Settings(events=400, rounds=1, seed=1)
VARIANTS = {variant.name: variant for comparison in COMPARISONS for variant in comparison.variants}


async def measured(variant: Variant, servers: Servers) -> Result:
    comparison = Comparison("test", "a test", (variant,))
    outcome = await run([comparison], servers, TINY, lambda line: None)
    return outcome["test"][0][variant.name]


def has_all_events(variant: Variant, result: Result) -> bool:
    """One that takes a part of the stream may have counted more when it stopped; one that takes all of it may not."""
    events = variant.events(TINY.events)
    return result.counted == events if variant.share == 1 or variant.stream != "filled" else result.counted >= events


def needs_bull() -> None:
    """Node.js is nobody's duty: what needs it is left out where it can't be had."""
    try:
        install()
    except MissingNode as problem:
        pytest.skip(str(problem))


ALIKE = {
    "bull-100", "bull-200", "bull-unfed-two", "governance-400", "isolation", "isolation-latency",
    "pipeline-audit-dedupe", "pipeline-postgresql-dedupe", "pipeline-sqlite-dedupe",
}  # fmt: skip
"""Variants that differ from another one in a number only."""


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in ALIKE])
async def test_a_benchmark_counts_all_events(name: str, rabbitmq: RabbitMQ, postgres: str, redis_url: str) -> None:
    if VARIANTS[name].node:
        needs_bull()
    servers = Servers(rabbitmq.stream_url, rabbitmq.amqp_url, postgres, redis_url)
    result = await measured(VARIANTS[name], servers)
    assert has_all_events(VARIANTS[name], result), result
    assert set(result.latencies) == ({"p50", "p95", "p99", "max"} if "latency" in name else set())


async def test_a_program_that_fails_ends_the_run_with_what_it_said() -> None:
    broken = Variant("broken", "a program that is not there", "dispatch:missing", stream=None)
    with pytest.raises(ProgramFailed, match="missing"):
        await measured(broken, Servers())


def test_an_events_body_has_300_bytes_and_a_workflow() -> None:
    for number in (0, 7, 10**6):
        assert len(body(number)) == BODY_BYTES == 300
    event = json.loads(body(12_345))
    assert (event["event_type"], event["workflow_id"]) == (ROUTING_KEY, "bom-enrichment-00002345")


def test_batches_cover_every_event_once() -> None:
    assert [number for numbers in batches(2_500, 1_000) for number in numbers] == list(range(2_500))


async def test_the_clock_leaves_the_warm_up_out() -> None:
    meter = Meter(Job("", events=10, warmup=4, folder=""))
    for _ in range(10):
        assert not meter.done.is_set()
        meter.tick()
    result = await meter.result()
    assert (result.counted, result.events) == (10, 6)
    assert result.seconds > 0


def test_percentiles_are_by_the_nearest_rank() -> None:
    assert percentiles([float(number) for number in range(101)]) == {"p50": 50, "p95": 95, "p99": 99, "max": 100}


PAIR = Comparison(
    "pair",
    "two of them",
    (Variant("ours", "ours", ""), Variant("theirs", "theirs", "")),
    (Target("ours", "theirs", 2.0), Target("theirs", "ours", 1.0), Target("theirs", "ours")),
)


def rated(rate: float) -> Result:
    return Result(1_000, 1_000, 1_000 / rate, 0.5)


ROUNDS = [
    {"ours": rated(300), "theirs": rated(100)},
    {"ours": rated(30), "theirs": rated(10)},  # a round on a busy machine: both are slow, the ratio holds
    {"ours": rated(100), "theirs": rated(100)},
]


def test_a_ratio_is_taken_within_each_round_and_the_median_counts() -> None:
    met, missed, wanted_nothing = verdicts(PAIR, ROUNDS)
    assert met.ratios == pytest.approx((3, 3, 1))
    assert (met.median, met.met) == (pytest.approx(3), True)
    assert (missed.median, missed.met) == (pytest.approx(1 / 3), False)
    assert wanted_nothing.met is None


def test_the_fastest_of_several_peers_counts_in_each_round() -> None:
    pair = replace(PAIR, targets=(Target("ours", ("theirs", "other"), 1),))
    rounds = [
        {"ours": rated(300), "theirs": rated(100), "other": rated(200)},
        {"ours": rated(300), "theirs": rated(600), "other": rated(10)},
    ]
    assert verdicts(pair, rounds)[0].ratios == pytest.approx((1.5, 0.5))
    console = Console(record=True, width=120)
    print_report(console, [pair], {"pair": rounds})
    assert "ours / the best of theirs, other: 1.00 (0.50 to 1.50), wanted 1: met" in console.export_text()


def test_the_report_says_what_is_met_and_what_is_missed() -> None:
    console = Console(record=True, width=120)
    print_report(console, [PAIR], {"pair": ROUNDS})
    text = console.export_text()
    assert "ours / theirs: 3.00 (1.00 to 3.00), wanted 2: met" in text
    assert "theirs / ours: 0.33 (0.33 to 1.00), wanted 1: MISSED" in text


def test_the_json_holds_every_round() -> None:
    found = as_json([PAIR], {"pair": ROUNDS}, TINY, {"Python": "3"})
    assert json.loads(json.dumps(found))["comparisons"]["pair"]["rounds"][1]["ours"]["events"] == 1_000
    assert found["settings"]["seed"] == 1


def test_jobs_and_results_travel_as_json() -> None:
    job = Job("route:noop", 10, 1, "/folder", options={"dedupe": "24h"})
    assert Job.from_json(job.as_json()) == job
    result = replace(rated(5), latencies={"p50": 1.5})
    assert Result.from_json(result.as_json()) == result


def test_a_missing_server_is_named() -> None:
    with pytest.raises(MissingServer, match="no PostgreSQL"):
        Servers("rabbitmq-stream://h", "amqp://h").require(rabbitmq=True, postgresql=True)
    with pytest.raises(MissingServer, match="no Redis"):
        Servers().require(rabbitmq=False, postgresql=False, redis=True)


def test_a_missing_node_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingNode, match=r"no node and no npm.*install Node\.js 18"):
        install()


@pytest.mark.skipif(shutil.which("node") is None, reason="no node")
def test_both_sides_of_the_comparison_with_bull_get_the_same_events() -> None:
    script = "import('./events.mjs').then(m => console.log(JSON.stringify([...m.made(122, 3, 2)].flat())))"
    bull = Path(__file__).parents[1] / "benchmarks" / "bull"
    made = subprocess.run(["node", "-e", script], cwd=bull, capture_output=True, check=True)
    numbers = range(122, 125)
    assert [one["changed"]["data"] for one in json.loads(made.stdout)] == [policy_created(number) for number in numbers]


async def test_an_effect_that_is_missing_or_there_twice_is_found(postgres: str, tmp_path: Path) -> None:
    import asyncpg

    urls = {"stream_url": "memory://benchmark", "database_url": postgres, "redis_url": "redis://127.0.0.1:1"}
    await make_tables(Job("", 1, 0, str(tmp_path), redis_prefix="benchmark", **urls))
    async with Executions.of(postgres) as executions:
        with pytest.raises(WrongEffects, match="0 tasks, 0 different ones"):
            await executions.check(1)
        connection = await asyncpg.connect(postgres)
        for key in ("e/0", "e/1"):
            await connection.execute(
                "INSERT INTO tasks (key, execution_id, entity_type, entity_id, title, assignee, priority, status,"
                " created_at) VALUES ($1, 'e', 'policy', 'p', 'Announce p', 'comms', 'normal', 'open', now())",
                key,
            )
        await connection.close()
        with pytest.raises(WrongEffects, match="2 tasks, 1 different ones"):
            await executions.check(2)


def test_an_unknown_benchmark_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["nosuch"])
    assert "there is no benchmark 'nosuch'" in capsys.readouterr().err


def test_a_profile_is_summed_by_the_innermost_part_of_the_runner() -> None:
    main_thread = "main (benchmarks/child.py:23)"
    lines = [
        f"{main_thread};admit (pipeline/dispatch/source.py:90);decode (pipeline/dispatch/decode.py:40) 3",
        f"{main_thread};_run (pipeline/dispatch/committer.py:90);execute (sqlalchemy/engine/base.py:1) 4",
        f"{main_thread};run (asyncio/runners.py:118) 1",
        f"{main_thread};_find_and_load (<frozen importlib._bootstrap>:1) 100",
        "run (threading.py:982);_connection_worker_thread (aiosqlite/core.py:107) 100",
    ]
    assert shares(lines) == {"commit": 0.5, "JSON, and the event": 0.375, "event loop, sockets": 0.125}
