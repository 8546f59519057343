"""A replay as it is watched: a bar on a terminal, lines elsewhere, JSON for scripts; and what is told at its end."""

from __future__ import annotations

import asyncio
import json
import logging
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, TextIO

import typer

from pipeline.cli.console import count, say, show_table
from pipeline.cli.files import DEFAULT
from pipeline.cli.leaving import FAILED, FINE, INTERRUPTED
from pipeline.cli.running import Run

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from pipeline.replay import Plan, Replay, ReplayProgress, ReplaySummary

__all__ = ["ReplayRun", "bar"]

_LOOK_SECONDS = 0.2
_RATE_SECONDS = 10.0
_SETTLE_SECONDS = 2.0
"""How long no rate is shown: the first messages that are committed would pass for a rate that nothing keeps."""
_LINE_SECONDS = 5.0
_JSON_SECONDS = 1.0


class ReplayRun(Run):
    """One run of a replay as a command.

    Args:
        replay: The replay, not started yet.
        as_json: Print progress and summary as lines of JSON on standard output.
        talk: Tell people how far it is; else only the summary.
    """

    def __init__(self, replay: Replay, *, as_json: bool, talk: bool) -> None:
        super().__init__(replay, replay.config.pipeline.grace)
        self._replay = replay
        self._as_json = as_json
        self._talk = talk
        self._bar: _Bar | None = None

    async def run(self) -> int:
        """Start, wait for the end, and return the exit code."""
        status = await super().run()
        if status != FINE:
            return status
        summary = self._replay.summary()
        return INTERRUPTED if not summary.finished else FAILED if summary.dead or summary.lost else FINE

    def in_flight(self) -> int:
        """Messages in flight."""
        return self._replay.progress().in_flight

    def tell_started(self) -> None:
        """What it runs again, and where it begins."""
        progress, plan = self._replay.progress(), self._replay.plan
        if plan is None or plan.is_over:
            return
        if self._talk and not self._as_json:
            begun = f", {plan.done:,} of them done before" if plan.done else ""
            where = f"offsets {plan.first} to {plan.last} of {plan.choice.table.stream}"
            say(f"replay {plan.choice.name}: {where}{begun}", stderr=True)
            if sys.stderr.isatty():
                self._bar = _Bar("replaying", progress.total, plan.done)

    async def tell_status(self) -> None:
        """How far it is, again and again."""
        told_at = time.monotonic()
        every = _JSON_SECONDS if self._as_json else _LINE_SECONDS
        handled, done = _Rate(0), _Rate(self._replay.progress().done)
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            progress = self._replay.progress()
            if self._bar is not None:
                self._bar.show(progress)
            elif (self._talk or self._as_json) and time.monotonic() - told_at >= every:
                told_at = time.monotonic()
                self._tell_line(progress, handled(progress.handled), done(progress.done))

    def _tell_line(self, progress: ReplayProgress, rate: float, pace: float) -> None:
        """How far it is, with the messages that are handled in a second, and the offsets that are done."""
        if self._as_json:
            _json_line("progress", done=progress.done, total=progress.total, events_per_second=round(rate, 1),
                       dead=progress.dead, state=progress.state, reason=progress.reason)  # fmt: skip
            return
        share = 100 * progress.done // max(1, progress.total)
        eta = f", {_clock((progress.total - progress.done) / pace)} to go" if pace else ""
        why = f" ({progress.reason})" if progress.reason else ""
        far = f"{progress.done:,} of {progress.total:,} offsets ({share}%)"
        say(f"{far}, {_per_second(rate)} handled{eta}{why}", stderr=True)

    def tell_end(self, seconds: float, status: int) -> None:
        """The summary; nothing where it never began."""
        if self._bar is not None:
            self._bar.stop(self._replay.progress())
        if status != FINE or self._replay.plan is None:
            return
        summary = self._replay.summary()
        if self._as_json:
            _json_line("summary", note=self._replay.plan.note, **summary.as_json())
        else:
            _tell_summary(summary, self._replay)


def _tell_summary(summary: ReplaySummary, replay: Replay) -> None:
    plan = replay.plan
    if plan is None or not plan.total:
        say(f"nothing to replay: {plan.note if plan else ''}", stderr=True)
        return
    if plan.is_over and plan.finished_at is not None:
        when = plan.finished_at.isoformat(timespec="seconds")
        say(f"replay {summary.name} was finished at {when}: to run it once more, give it another --name", stderr=True)
        return
    if summary.routes:
        outcomes = ("handled", "filtered", "dead")
        rows = [(route, *(found.get(one, 0) for one in outcomes)) for route, found in summary.routes.items()]
        say("routes in this run:")
        show_table(("route", *outcomes), rows)
    speed = f"in {summary.seconds:.1f} s, {_per_second(summary.events_per_second)} handled"
    told = f" ({_listed(summary.this_run)})" if summary.processed else ""
    say(f"this run: {count(summary.processed, 'message')}{told} {speed}")
    if summary.outcomes and summary.outcomes != summary.this_run:
        say(f"all runs of this replay: {_listed(summary.outcomes) or 'none'}")
    if summary.unreadable:
        say(_unreadable(summary))
    if summary.left_jobs:
        say("jobs were left: runners and workers run them")
    if summary.dead:
        again = " in all runs" if summary.outcomes != summary.this_run else ""
        say(f"{count(summary.dead, 'message')} dead{again}: '{_look(summary, replay)}' shows what is open of them",
            style="red", stderr=True)  # fmt: skip
    if summary.lost:
        say(f"{count(summary.lost, 'offset')} of the range removed by the stream's retention before this run read them",
            style="red", stderr=True)  # fmt: skip
    if not summary.finished:
        done = f"{summary.done:,} of {summary.last - summary.first + 1:,} offsets"
        say(f"stopped with {done} done: the same command{_times(plan)} goes on from there", style="yellow", stderr=True)


def _listed(outcomes: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in outcomes.items() if number)


def _unreadable(summary: ReplaySummary) -> str:
    """What can't be read and is no news, or reaches none of the chosen routes."""
    number, known = summary.unreadable, summary.unreadable_known
    whose = "they have dead letters already" if number > 1 else "it has a dead letter already"
    if known < number:
        whose = f"without --route and --only {'they leave dead letters' if number > 1 else 'it leaves a dead letter'}"
        whose += f"; {known:,} of them {'have' if known > 1 else 'has'} one already" if known else ""
    return f"{number:,} filtered as {'they' if number > 1 else 'it'} can't be read ({whose})"


def _look(summary: ReplaySummary, replay: Replay) -> str:
    """The command that lists its dead letters."""
    path = str(replay.loaded.path)
    config = "" if path == str(DEFAULT) else f" --config {shlex.quote(path)}"
    return f"pipeline dead-letters list --source {summary.source} --replay {summary.name}{config}"


def _times(plan: Plan) -> str:
    """The times that the same command must name, as one that counts back from now would name others."""
    choice = plan.choice
    ends = [f"--{name} {choice.asked[name]}" for name, end in (("from", choice.begin), ("to", choice.end))
            if isinstance(end, datetime)]  # fmt: skip
    return f", with {' '.join(ends)}," if ends else ""


class _Bar:
    """A progress bar on standard error."""

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._began = time.monotonic()
        self._rate = _Rate(0)
        self._what = what
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("offsets"),
            TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("{task.fields[why]}"),
        )  # fmt: skip
        self.bar: Progress = Bar(*columns, console=Console(stderr=True))
        self.task: TaskID = self.bar.add_task(what, total=total, completed=done, rate="", why="")
        self.bar.start()
        self._logged = _send_log(sys.stderr)  # which is the bar's now: it writes lines above itself
        self.bar.console.show_cursor(True)  # a second Ctrl-C leaves no time to bring it back

    def show(self, progress: ReplayProgress) -> None:
        """Show how far it is."""
        what = "stopping" if progress.state == "draining" else self._what
        rate = f"{_per_second(self._rate(progress.handled))} handled"
        if time.monotonic() - self._began < _SETTLE_SECONDS:
            rate = ""
        self.bar.update(self.task, completed=progress.done, description=what, rate=rate, why=_plain(progress.reason))

    def stop(self, progress: ReplayProgress) -> None:
        """Show it a last time, and let go of the terminal."""
        self.show(progress)
        self.bar.stop()
        for handler, stream in self._logged:
            handler.setStream(stream)


def _send_log(stream: TextIO) -> list[tuple[logging.StreamHandler[TextIO], TextIO]]:
    """Let log lines go to a stream; returns the handlers, each with the stream that it had."""
    handlers = [each for each in logging.getLogger().handlers if isinstance(each, logging.StreamHandler)]
    return [(each, before) for each in handlers if (before := each.setStream(stream)) is not None]


class _Rate:
    """How fast a count has risen over the last seconds, per second."""

    def __init__(self, done: int) -> None:
        self._points = [(time.monotonic(), done)]

    def __call__(self, done: int) -> float:
        now = time.monotonic()
        self._points.append((now, done))
        while len(self._points) > 2 and now - self._points[0][0] > _RATE_SECONDS:
            self._points.pop(0)
        began, before = self._points[0]
        return (done - before) / (now - began) if now > began else 0.0


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal; else nothing. Yields what is told how much is done."""
    if not total or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


def _json_line(event: str, **fields: Any) -> None:
    typer.echo(json.dumps({"event": event, **fields}, ensure_ascii=False, default=str))


def _per_second(rate: float) -> str:
    return f"{rate:,.0f}/s" if rate >= 10 or not rate else f"{rate:.1f}/s"


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _plain(text: str) -> str:
    """A reason as one short line without markup."""
    return text.replace("[", r"\[").replace("\n", " ")[:100]
