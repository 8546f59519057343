"""Bytes bound what is in flight and what one commit writes: headers count, and so do dead letters."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pipeline.config.limits import Limits
from pipeline.dispatch import committer
from pipeline.events import Event
from pipeline.handlers import Context
from pipeline.ledger.units import Commit, Unwritable
from tests.pipeline.dispatch.harness import Bench, bench, eventually, message, stage

KIBIBYTE = 2**10


async def nothing(event: Event, context: Context) -> None:
    """Leave nothing."""


def note_commits(pipe: Bench, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The sizes of the dead letters' messages of each commit from now on."""
    noted: list[list[int]] = []
    write = pipe.ledger.commit

    async def noting(lease: object, commit: Commit) -> list[Unwritable]:
        noted.append([unit.message.size for unit in commit.units if unit.dead])
        return await write(pipe.lease, commit)

    monkeypatch.setattr(pipe.ledger, "commit", noting)
    return noted


async def test_events_with_large_headers_pause_their_source(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def slow(event: Event, context: Context) -> None:
        await gate.wait()

    async with bench(tmp_path, [stage("slow", slow)], limits=Limits(in_flight=2**20)) as pipe:
        window = pipe.source.window
        offset = 0
        while not window.paused:
            headers = {"h": "x" * 60_000}
            await pipe.feed(*(message(at, {"k": at}, headers=headers) for at in range(offset, offset + 5)))
            offset += 5
            assert offset <= 20, "20 of these messages have more than 1 MiB"
        assert "bytes" in window.paused["window"]
        gate.set()
        await pipe.settle(offset)
        assert not window.paused


async def test_dead_letters_with_headers_beyond_the_limit_weigh_while_they_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()
    async with bench(tmp_path, [stage("x", nothing)], limits=Limits(in_flight=2**20)) as pipe:
        write = pipe.ledger.commit

        async def away(lease: object, commit: Commit) -> list[Unwritable]:
            await gate.wait()
            return await write(pipe.lease, commit)

        monkeypatch.setattr(pipe.ledger, "commit", away)
        await pipe.feed(*(message(at, headers={"h": "x" * 300 * KIBIBYTE}) for at in range(4)))
        assert "window" in pipe.source.window.paused
        gate.set()
        await pipe.settle(4)
        assert {letter.kind for letter in await pipe.dead()} == {"headers_too_big"}
        assert not pipe.source.window.paused


async def test_a_commit_is_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer, "_BYTES_AT_ONCE", 100 * KIBIBYTE)
    async with bench(tmp_path, [stage("x", nothing)], limits=Limits(header_bytes=KIBIBYTE)) as pipe:
        noted = note_commits(pipe, monkeypatch)
        heavy = [message(at, headers={"h": "x" * 30 * KIBIBYTE}) for at in range(10)]
        await pipe.feed(*heavy, *(message(at, {"k": at}) for at in range(10, 500)))
        await pipe.settle(500)
        assert len(await pipe.dead()) == 10
    assert sum(map(len, noted)) == 10
    assert max(map(sum, noted)) <= 100 * KIBIBYTE
    assert max(map(len, noted)) == 3, "no fewer share a commit than may"


async def test_a_dead_letter_that_is_larger_than_a_commit_is_written_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "_BYTES_AT_ONCE", 1)
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        noted = note_commits(pipe, monkeypatch)
        await pipe.feed(message(0, b"no JSON"), message(1, b"no JSON"))
        await pipe.settle(2)
    assert [len(sizes) for sizes in noted if sizes] == [1, 1]


async def test_events_that_leave_nothing_share_a_commit_however_large_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "_BYTES_AT_ONCE", 1)
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        commits = note_commits(pipe, monkeypatch)
        await pipe.feed(*(message(at, {"k": 1, "large": "x" * 1000}) for at in range(300)))
        await eventually(lambda: pipe.stats.processed == 300)
    assert len(commits) < 30
