"""How long a paced event is under way through the whole runner, from its publisher to its handler."""

from __future__ import annotations

from dataclasses import replace

import orjson

from benchmarks.job import Job, Result
from benchmarks.meter import percentiles, settle
from benchmarks.variants.pacer import paced
from benchmarks.variants.route import measure, write_file
from pipeline import Pipeline
from pipeline.ledger.migrations import migrate

__all__ = ["run"]


async def run(job: Job) -> Result:
    """Measure it; the warm-up's events are left out."""
    delays = job.path("delays.json")
    pipeline = Pipeline.from_file(write_file(job, "delay", f'[stage.delay]\nfile = "{delays}"\n'), environ={})
    await migrate(pipeline.database, pipeline.plugins.branches())
    async with paced(job), pipeline:
        settle()
        result = await measure(pipeline, job)
    return replace(result, latencies=percentiles(orjson.loads(delays.read_bytes())[job.warmup :]))
