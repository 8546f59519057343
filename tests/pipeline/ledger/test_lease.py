"""One runner holds a source; it is fenced off when another has taken over, and others stand by."""

from __future__ import annotations

import subprocess
import sys

import pytest
from sqlalchemy import select

from pipeline.errors import Fenced
from pipeline.ledger.database import Database
from pipeline.ledger.lease import Lease, Standing, acquire
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.owner import is_gone, owner_id
from pipeline.ledger.tables import ProgressRow
from pipeline.ledger.units import Commit, Progress
from tests.pipeline.ledger.samples import KEY, Note, commit_of, count, unit


class Time:
    """A clock that moves only by sleeping; `at` runs something when its time has come."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept = 0.0
        self.hooks: dict[float, object] = {}

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds
        assert self.slept < 1_000, "stood by for ever"


async def taken_over(ledger: Ledger, lease: Lease) -> Lease:
    standing = await ledger.try_acquire(KEY, "runner-2")
    assert isinstance(standing, Standing)
    taken = await ledger.try_acquire(KEY, "runner-2", standing)
    assert isinstance(taken, Lease)
    assert taken.epoch == lease.epoch + 1
    return taken


async def test_a_source_that_is_held_is_not_given_away(ledger: Ledger, lease: Lease) -> None:
    assert await ledger.try_acquire(KEY, "runner-2") == Standing("runner-1", lease.epoch, 1)


async def test_two_groups_hold_one_stream_side_by_side(ledger: Ledger, lease: Lease) -> None:
    other = type(KEY)("other", "group-2", KEY.stream)

    assert isinstance(await ledger.try_acquire(other, "runner-2"), Lease)


async def test_a_released_source_is_free_at_once(ledger: Ledger, lease: Lease) -> None:
    await ledger.release(lease)

    assert isinstance(await ledger.try_acquire(KEY, "runner-2"), Lease)


async def test_a_holder_whose_answer_was_lost_may_acquire_again(ledger: Ledger, lease: Lease) -> None:
    again = await ledger.try_acquire(KEY, "runner-1")

    assert isinstance(again, Lease)
    assert again.epoch == lease.epoch + 1


async def test_a_fenced_runner_commits_nothing(ledger: Ledger, lease: Lease, db: Database) -> None:
    await taken_over(ledger, lease)

    with pytest.raises(Fenced, match=KEY.stream):
        await ledger.commit(lease, commit_of(unit(0, Note(text="a"))))

    assert await count(db, Note) == 0


async def test_a_fenced_runner_can_neither_renew_nor_release(ledger: Ledger, lease: Lease) -> None:
    taken = await taken_over(ledger, lease)

    with pytest.raises(Fenced):
        await ledger.renew(lease)
    with pytest.raises(Fenced):
        await ledger.new_incarnation(lease, Progress())
    await ledger.release(lease)

    await ledger.renew(taken)


async def test_a_beat_keeps_the_source(ledger: Ledger, lease: Lease) -> None:
    standing = await ledger.try_acquire(KEY, "runner-2")
    assert isinstance(standing, Standing)
    await ledger.renew(lease)

    assert isinstance(await ledger.try_acquire(KEY, "runner-2", standing), Standing)


async def test_a_commit_is_a_beat(ledger: Ledger, lease: Lease) -> None:
    standing = await ledger.try_acquire(KEY, "runner-2")
    assert isinstance(standing, Standing)
    await ledger.commit(lease, Commit(Progress(1), {}))

    assert isinstance(await ledger.try_acquire(KEY, "runner-2", standing), Standing)


async def test_the_next_owner_goes_on_where_the_last_one_committed(ledger: Ledger, lease: Lease) -> None:
    await ledger.commit(lease, Commit(Progress(41, 7, ((50, 60),), 9), {}))

    taken = await taken_over(ledger, lease)

    assert taken.progress == Progress(41, 7, ((50, 60),), 9)


async def test_a_new_incarnation_may_begin_amid_the_stream(ledger: Ledger, lease: Lease, db: Database) -> None:
    await ledger.commit(lease, Commit(Progress(41, 7, ((50, 60), (70, 80)), 9), {}))
    begins = Progress(41, 7, ((50, 55),))
    await ledger.new_incarnation(lease, begins)
    assert (lease.incarnation, lease.progress) == (1, begins)
    await ledger.release(lease)
    taken = await acquire(ledger, lease.key, "two")
    assert (taken.incarnation, taken.progress) == (1, begins)


async def test_a_new_incarnation_begins_before_the_first_message(ledger: Ledger, lease: Lease, db: Database) -> None:
    await ledger.commit(lease, Commit(Progress(41, 7, ((50, 60),)), {}))

    await ledger.new_incarnation(lease, Progress())

    assert (lease.incarnation, lease.progress, lease.started) == (1, Progress(), True)
    await ledger.commit(lease, Commit(Progress(0, 9), {}))
    (row,) = await db.fetch(ProgressRow, select(ProgressRow))
    assert (row.incarnation, row.prefix, row.ahead) == (1, 0, "[]")


async def test_an_acquired_lease_is_young_and_ages(ledger: Ledger, lease: Lease) -> None:
    lease.renewed_at -= 30
    assert lease.age() >= 30
    await ledger.renew(lease)
    assert lease.age() < 10
    lease.renewed_at -= 30
    await ledger.commit(lease, Commit(Progress(1), {}))
    assert lease.age() < 10


# --- standing by


async def test_a_standby_takes_over_when_the_beat_has_stood_still(ledger: Ledger, lease: Lease) -> None:
    time, told = Time(), list[Standing]()

    taken = await acquire(ledger, KEY, "runner-2", ttl=10, on_standby=told.append, clock=time.clock, sleep=time.sleep)

    assert taken.epoch == lease.epoch + 1
    assert time.slept == 10
    assert [standing.owner for standing in told] == ["runner-1"]


async def test_a_standby_waits_as_long_as_the_owner_beats(ledger: Ledger, lease: Lease) -> None:
    time = Time()

    async def sleep(seconds: float) -> None:
        await time.sleep(seconds)
        if time.slept <= 50:
            await ledger.renew(lease)

    await acquire(ledger, KEY, "runner-2", ttl=10, clock=time.clock, sleep=sleep)

    assert time.slept == 60


async def test_a_released_source_is_taken_at_the_next_poll(ledger: Ledger, lease: Lease) -> None:
    time = Time()

    async def sleep(seconds: float) -> None:
        await time.sleep(seconds)
        if time.slept == 3:
            await ledger.release(lease)

    await acquire(ledger, KEY, "runner-2", ttl=10, clock=time.clock, sleep=sleep)

    assert time.slept == 3


async def test_a_standby_that_was_frozen_itself_does_not_blame_the_owner(ledger: Ledger, lease: Lease) -> None:
    time = Time()

    async def sleep(seconds: float) -> None:
        await time.sleep(seconds)
        if time.slept == 3:
            time.now += 1_000  # this process lay still; the owner may have beaten all the while

    await acquire(ledger, KEY, "runner-2", ttl=10, clock=time.clock, sleep=sleep)

    assert time.slept == 9  # the frozen time counts as two polls


async def test_a_second_standby_is_told_of_the_new_owner(ledger: Ledger, lease: Lease) -> None:
    time, told = Time(), list[str]()

    async def sleep(seconds: float) -> None:
        await time.sleep(seconds)
        if time.slept == 5:
            await taken_over(ledger, lease)

    await acquire(
        ledger, KEY, "runner-3", on_standby=lambda standing: told.append(standing.owner), clock=time.clock, sleep=sleep
    )

    assert told == ["runner-1", "runner-2"]
    assert time.slept == 15


# --- owners of this machine


def test_this_process_is_not_gone() -> None:
    assert not is_gone(owner_id())


def test_two_owners_of_one_process_differ() -> None:
    assert owner_id() != owner_id()


def test_nothing_is_said_about_an_owner_elsewhere() -> None:
    host, pid, machine, start, rest = owner_id().rsplit(":", 4)
    assert not is_gone(f"another-host:{pid}:{machine}:{start}:{rest}")
    assert not is_gone(f"{host}:{pid}:000000000000:1:{rest}")
    assert not is_gone("runner-1")


def test_a_process_id_that_was_taken_anew_is_another_process() -> None:
    host, pid, machine, start, rest = owner_id().rsplit(":", 4)
    assert is_gone(f"{host}:{pid}:{machine}:{int(start) - 1}:{rest}")


async def test_an_owner_that_was_killed_on_this_machine_is_replaced_at_once(ledger: Ledger) -> None:
    code = "import sys; from pipeline.ledger.owner import owner_id; print(owner_id(), flush=True); sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout
        owner = child.stdout.readline().strip()
        assert not is_gone(owner)
        await ledger.try_acquire(KEY, owner)
        child.kill()
        assert child.stdout.read() == ""  # its end is seen here before it is reaped: a zombie is gone, too
        time = Time()

        taken = await acquire(ledger, KEY, owner_id(), clock=time.clock, sleep=time.sleep)

    assert taken.epoch == 2
    assert time.slept <= 1
