"""One measured process: `python -m benchmarks.child` reads a job from standard input and prints its result."""

from __future__ import annotations

import importlib
import sys

import uvloop

from benchmarks.job import Job, Result


async def _run(job: Job) -> Result:
    module, _, function = job.program.partition(":")
    program = getattr(importlib.import_module(f"benchmarks.variants.{module}"), function)
    result: Result = await program(job)
    return result


def main() -> None:
    """Run the job, on uvloop."""
    job = Job.from_json(sys.stdin.buffer.read())
    result = uvloop.run(_run(job))
    sys.stdout.write(f"RESULT {result.as_json().decode()}\n")


if __name__ == "__main__":
    main()
