"""The command line: `python -m tests.services up|down|status|env|run -- COMMAND…`."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
from types import FrameType
from typing import Any

from tests.services import fleet
from tests.services.errors import ServiceUnavailable
from tests.services.state import Service

IN_CI = os.environ.get("CI", "").lower() in ("1", "true")


def main() -> int:
    arguments = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        match arguments.action:
            case "up":
                return _up()
            case "down":
                return _down()
            case "status":
                return _status()
            case "env":
                return _env()
            case _:
                return _run(arguments.command)
    except ServiceUnavailable as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.services",
        description="The real servers that the tests run on: RabbitMQ, Redis, PostgreSQL, Temporal.",
    )
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("up", help="start what is not there yet, and tell what runs where")
    actions.add_parser("down", help="end what `up` started")
    actions.add_parser("status", help="tell what runs where, and whether it answers")
    actions.add_parser("env", help='print variables for a shell: eval "$(python -m tests.services env)"')
    run = actions.add_parser("run", help="run a command with the services, and end those that it started")
    run.add_argument("command", nargs="+", help="after `--`")
    return parser


def _up() -> int:
    ready = fleet.up()
    _print_table(ready.services)
    return _report_missing(ready)


def _down() -> int:
    ended = fleet.down()
    print(f"ended: {', '.join(ended)}" if ended else "nothing to end")
    return 0


def _status() -> int:
    services = fleet.current()
    checked = [
        service if service.problem or service.healthy() else Service(service.name, service.source, problem="no answer")
        for service in services
    ]
    _print_table(checked)
    return 1 if any(service.problem for service in checked) else 0


def _env() -> int:
    for service in fleet.current():
        for name, value in service.env.items():
            print(f"export {name}={shlex.quote(value)}")
    return 0


def _run(command: list[str]) -> int:
    """Run the command with the services' variables; its exit code is ours."""
    ready = fleet.up()
    try:
        _print_table(ready.services)
        return _report_missing(ready) or _execute(command, {**os.environ, **ready.env()})
    finally:
        fleet.down(ready.started)


def _execute(command: list[str], env: dict[str, str]) -> int:
    """Run it to its end. Ctrl-C reaches it by itself; other wishes to end are passed on."""
    try:
        child = subprocess.Popen(command, env=env)
    except OSError as error:
        print(f"can't run {command[0]}: {error.strerror}", file=sys.stderr)
        return 127

    def pass_on(number: int, _: FrameType | None) -> None:
        child.send_signal(number)

    handlers: dict[signal.Signals, Any] = {
        signal.SIGINT: signal.SIG_IGN,
        signal.SIGTERM: pass_on,
        signal.SIGHUP: pass_on,
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def _report_missing(ready: fleet.Fleet) -> int:
    """A service that can't be had fails in CI; elsewhere its tests are skipped."""
    for service in ready.missing():
        print(f"{'ERROR' if IN_CI else 'WARNING'}: no {service.name}: {service.problem}", file=sys.stderr)
    if ready.missing() and not IN_CI:
        print("The tests that need them will be skipped.", file=sys.stderr)
    return 1 if ready.missing() and IN_CI else 0


def _print_table(services: list[Service]) -> None:
    for service in services:
        where = next(iter(service.env.values()), "") if not service.problem else f"missing: {service.problem}"
        print(f"{service.name:<10} {service.source or '-':<15} {where}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
