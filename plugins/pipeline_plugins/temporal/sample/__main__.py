"""``python -m pipeline_plugins.temporal.sample``: the sample workflow on a Temporal server of your own."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys

from temporalio.client import Client

from pipeline_plugins.temporal.sample.worker import TASK_QUEUE, WORKFLOW_ID, Sample


def main() -> int:
    """Start the workflows and serve them until SIGINT or SIGTERM; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipeline_plugins.temporal.sample", description=__doc__)
    parser.add_argument("--address", default="localhost:7233", help="the server's host:port (default %(default)s)")
    parser.add_argument("--namespace", default="default", help="the namespace (default %(default)s)")
    parser.add_argument(
        "--workflow-id", action="append", help=f"a workflow's id; may be given again (default {WORKFLOW_ID})"
    )
    parser.add_argument("--task-queue", default=TASK_QUEUE, help="the task queue (default %(default)s)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(message)s")
    return asyncio.run(_serve(arguments))


async def _serve(arguments: argparse.Namespace) -> int:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    try:
        client = await Client.connect(arguments.address, namespace=arguments.namespace)
    except RuntimeError as error:
        print(f"can't connect to {arguments.address}: {error}", file=sys.stderr)  # noqa: T201 - a command's output
        return 1
    sample = Sample(client, arguments.workflow_id or [WORKFLOW_ID], arguments.task_queue)
    await sample.start()
    await stopped.wait()
    await sample.stop()
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # leaving the interpreter in the ordinary way can hang in the client's native threads
