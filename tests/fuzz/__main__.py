"""``python -m tests.fuzz``: runs a target on so many inputs, with atheris (libFuzzer), in several processes.

Ends with 0 where nothing was found. An input that made a target fail, hang or fill the memory is left in
``tests/fuzz/findings/<target>/``, where `test_findings` replays it from then on.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.seeds import plant
from tests.fuzz.targets import TARGETS

FINDINGS = Path(__file__).with_name("findings")
HANG_SECONDS = 5
"""How long one input may take: thousands of times as long as the slowest that is known."""
MEMORY_MB = 1024
LONGEST = 1024


def main() -> int:
    """Fuzz, and say how it went."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--target", choices=[*TARGETS], default="amqp")
    parser.add_argument("--runs", type=int, default=10_000_000, help="how many inputs are tried")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="in how many processes")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**31, help="repeats an earlier run's choices")
    parser.add_argument("--worker", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options.target, options.runs, options.seed, options.worker)
    return lead(options.target, options.runs, options.jobs, options.seed)


def lead(target: str, runs: int, jobs: int, seed: int) -> int:
    """Share the runs out to processes, each with its own seed, and add up what they did."""
    (FINDINGS / target).mkdir(parents=True, exist_ok=True)
    before = set((FINDINGS / target).iterdir())
    began = time.monotonic()
    print(f"fuzzing {target}: {runs:,} inputs in {jobs} processes, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        logs, workers = [], []
        for number in range(jobs):
            place = Path(folder) / str(number)
            place.mkdir()
            logs.append(place.with_suffix(".log"))
            share = runs // jobs + (number < runs % jobs)
            with logs[-1].open("wb") as log:
                workers.append(_worker(target, share, seed + number, place, log.fileno()))
        codes = [worker.wait() for worker in workers]
        texts = [log.read_text(errors="replace") for log in logs]
    took = time.monotonic() - began
    done = sum(_executions(text) for text in texts)
    found = sorted(set((FINDINGS / target).iterdir()) - before)
    for code, text in zip(codes, texts, strict=True):
        if code:
            print(text[-4000:], file=sys.stderr)
    print(f"{done:,} executions in {took:.0f} s, {done / took:,.0f} a second; {len(found)} findings", flush=True)
    for path in found:
        print(f"  {path}")
    return 1 if any(codes) or found or done < runs else 0


def _worker(target: str, runs: int, seed: int, corpus: Path, log: int) -> subprocess.Popen[bytes]:
    arguments = ["--target", target, "--runs", str(runs), "--seed", str(seed), "--worker", str(corpus)]
    return subprocess.Popen([sys.executable, "-m", "tests.fuzz", *arguments], stdout=log, stderr=log)


def _executions(text: str) -> int:
    """What libFuzzer says at its end, else the last number that it told on its way."""
    told = re.findall(r"stat::number_of_executed_units:\s*(\d+)", text) or re.findall(r"^#(\d+)\t", text, re.MULTILINE)
    return int(told[-1]) if told else 0


def work(target: str, runs: int, seed: int, corpus: str) -> int:
    """Fuzz in this process; libFuzzer ends it, with its own exit codes."""
    import atheris

    with atheris.instrument_imports(include=["pipeline_plugins.rabbitmq_streams", "pipeline.dispatch"]):
        # They have been imported already, without the counters that guide the fuzzer.
        for name in [name for name in sys.modules if name.startswith(("pipeline", "tests.fuzz.targets"))]:
            del sys.modules[name]
        from tests.fuzz.targets import TARGETS as INSTRUMENTED

    plant(target, Path(corpus))
    flags = [
        f"-runs={runs}", f"-seed={seed % 2**31 or 1}", f"-timeout={HANG_SECONDS}", f"-rss_limit_mb={MEMORY_MB}",
        f"-max_len={LONGEST}", f"-artifact_prefix={FINDINGS / target}/", "-print_final_stats=1", corpus,
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *flags], INSTRUMENTED[target])
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
