"""The spool's own promises, one story each: the races that were found, and its life on the real disk with real threads."""

import asyncio
import errno
import math
import random
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from life import NODE, Fate, Inline, Life

from spoolnode.node.disk.disk import RealDisk
from spoolnode.node.disk.fakes import FakeDisk, GuardedDisk
from spoolnode.node.disk.layout import Layout
from spoolnode.node.ingress.upload import Upload
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.outcome import Ending, Outcome
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.retry import RetryPolicy
from spoolnode.node.spool.tasks import Batch, Source
from spoolnode.node.spool.timings import CANCELLED
from spoolnode.protocol.packet import encode_variables
from spoolnode.protocol.request import PLAIN_TERMS, Terms

BLOCK = encode_variables([(b"a", b"b")])
FAILED = Outcome(Ending.FAILED, "it failed")


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


def started(seed: int = 0) -> Life:
    life = Life(seed)
    life.boot()
    return life


async def accepted(life: Life, count: int = 1, terms: Terms = PLAIN_TERMS) -> list[Fate]:
    """Tasks that are acknowledged, in the open batch."""
    fates = []
    for _ in range(count):
        fate = Fate(len(life.fates), life.disk, b"")
        life.fates[fate.n] = fate
        life.spool.group_commit.add(encode_variables([(b"n", str(fate.n).encode())]), b"", terms, fate)
        fates.append(fate)
    await life.rest()
    assert all(fate.acknowledged for fate in fates)
    return fates


async def settled(life: Life) -> None:
    """Gives waiting tasks files of their own."""
    life.close_batch()
    await life.rest()
    life.settle()
    await life.rest()


def all_taken(life: Life) -> list[tuple[Source, int | str, int]]:
    found = []
    while (taken := life.spool.take(10)) is not None:
        found += [(taken[0], ref, taken[2]) for ref in taken[1]]
    return found


# -- the group commit --


def test_a_batch_is_not_given_up_while_its_last_group_is_on_its_way() -> None:
    async def story() -> None:
        life = started()
        (first,) = await accepted(life)
        ((source, ref, _),) = all_taken(life)
        second = life.add_one()
        life.close_batch()
        while life.commits.todo and not life.commits.results:
            life.commits.work()
        life.spool.done(source, [ref])  # the first ends after the commit of the second and before that is heard
        first.ended = "done"
        await life.rest()
        assert second.acknowledged
        life._poke(source, ref, 0, 0xFD)
        assert await life.waiting() == {second.n: 1}

    run(story())


def test_two_batches_never_have_the_same_number() -> None:
    async def story() -> None:
        life = started()
        numbers = set()
        for _ in range(50):
            life.add_one()
            numbers.add(life.journal.number())
            life.close_batch()
            while life.commits.todo:
                life.commits.work()
                numbers.add(life.journal.number())
        await life.rest()
        batches = {int(fate.identity.split("_")[1]) for fate in life.fates.values()}
        assert len(batches) == 50
        assert not numbers & batches

    run(story())


def test_whoever_waits_hears_of_an_error_that_is_none_of_the_disks() -> None:
    class Broken(FakeDisk):
        broken = False

        def write(self, descriptor: int, data: bytes, offset: int) -> None:
            if self.broken:
                raise MemoryError
            super().write(descriptor, data, offset)

    async def story() -> None:
        disk = Broken()
        life = Life(0, disk=disk)
        disk.make_directory("/var")
        life.boot()
        disk.broken = True
        fate = life.add_one()
        life.close_batch()
        await life.rest()
        assert fate.refusal is not None
        assert "MemoryError" in str(fate.refusal)
        disk.broken = False
        await accepted(life)

    run(story())


def test_a_refusal_says_whether_the_disk_is_full_or_broken() -> None:
    async def story() -> None:
        for code, reason, word in ((errno.ENOSPC, "FULL", "is full"), (errno.EIO, "BUSY", "failed")):
            life = started()
            life.disk.fail_at(1, code)
            fate = life.add_one()
            await life.rest()
            assert fate.refusal is not None
            assert (fate.refusal.reason.name, fate.answers) == (reason, 1)
            assert word in str(fate.refusal)

    run(story())


def test_a_failed_sync_is_final_for_its_file_and_those_who_gathered_meanwhile_are_refused_with_it() -> None:
    async def story() -> None:
        life = started()
        (before,) = await accepted(life)
        life.disk.fail_at(2, errno.EIO)
        first = life.add_one()
        second = life.add_one()
        await life.rest()
        assert first.refusal is not None
        assert second.refusal is not None
        (after,) = await accepted(life)
        assert after.identity.split("_")[1] != before.identity.split("_")[1]
        assert await life.waiting() == {before.n: 1, after.n: 1}

    run(story())


def test_refused_records_that_could_not_be_marked_are_not_run_and_not_moved() -> None:
    async def story() -> None:
        life = started()
        (kept,) = await accepted(life)
        life.disk.fail_at(2, errno.EIO)  # the fsync
        life.disk.fail_at(3, errno.EIO)  # and the mark
        refused = life.add_one()
        await life.rest()
        assert refused.refusal is not None
        await settled(life)
        assert await life.waiting() == {kept.n: 1}
        life.disk.kill()
        life.boot()
        assert await life.waiting() == {kept.n: 1}, "the settlement has marked it"

    run(story())


def test_a_clock_that_is_set_back_does_not_keep_a_batch_open() -> None:
    async def story() -> None:
        life = started()
        await accepted(life)
        group = life.spool.group_commit._open
        assert group is not None
        group.batch.accepted = time.time() + 3600
        life.spool.group_commit.close_old()
        assert life.spool.group_commit.open_since is None

    run(story())


# -- settling --


def test_a_settled_task_keeps_its_turn_and_the_batch_is_gone() -> None:
    async def story() -> None:
        life = started()
        fates = await accepted(life, 3)
        await settled(life)
        (late,) = await accepted(life)
        assert life.disk.names("/var/spool/incoming") != []
        order = [life._check(found) for source, ref, _ in all_taken(life) if (found := life._read(source, ref))]
        assert order == [fate.n for fate in [*fates, late]]
        assert life.spool.total == 4

    run(story())


@pytest.mark.parametrize("is_interrupted", [True, False], ids=["put back", "failed"])
def test_what_a_worker_gave_back_just_before_all_is_settled_gets_a_file_too(is_interrupted: bool) -> None:
    async def story() -> None:
        life = started()
        await accepted(life, 2)
        life.close_batch()
        await life.rest()
        source, (ref,), rank = life.spool.take(1) or (None, [0], 0)
        assert isinstance(source, Batch)
        life._poke(source, ref, 3, 1)
        if is_interrupted:
            life.storage.verdicts.interrupted(source, ref, rank)
        else:
            life.storage.verdicts.failed(source, ref, rank, Outcome(Ending.FAILED, "no"))
        life._begin(life.storage.settle_all())
        await life.rest()
        assert life.journal.in_batches == 0
        assert len(source.moved) == 2

    run(story())


def test_a_batch_whose_last_task_lands_while_the_others_are_settled_is_settled_again() -> None:
    async def story() -> None:
        life = started()
        await accepted(life, 2)
        source, (ref,), rank = life.spool.take(1) or (None, [0], 0)
        assert isinstance(source, Batch)
        life.close_batch()
        await life.rest()
        life.settle()
        await life._turn()
        assert source.frozen
        life.storage.verdicts.interrupted(source, ref, rank)
        life._begin(life.storage.settle_all())
        await life.rest()
        assert len(source.moved) == 2

    run(story())


def test_what_is_hurried_while_it_is_settled_is_ready_afterwards() -> None:
    async def story() -> None:
        life = started()
        (fate,) = await accepted(life, terms=Terms(due=time.time() + 1e6))
        life.close_batch()
        await life.rest()
        life.settle()
        await life._turn()
        found = life.spool.find(fate.identity)
        assert found is not None
        assert life.spool.hurry(*found)
        await life.rest()
        ((source, ref, _),) = all_taken(life)
        assert life.disk.stat(life.journal.layout.path(str(ref))).mtime <= time.time()
        assert not isinstance(source, Batch)

    run(story())


def test_a_settled_task_that_ended_does_not_come_back_after_a_power_cut() -> None:
    async def story(seed: int) -> None:
        life = started(seed)
        stays, goes = await accepted(life, 2)
        taken = life.spool.take(1)
        assert taken is not None
        await settled(life)  # of the other one only
        ((source, ref, _),) = all_taken(life)
        life.disk.unlink(life.journal.layout.path(str(ref)))
        life.spool.done(source, [ref])
        life.sync_marks()
        await life.rest()
        life.disk.crash()
        life.boot()
        assert await life.waiting() == {stays.n: 1}
        assert goes.acknowledged

    for seed in range(20):
        run(story(seed))


# -- by hand --


def test_only_what_waits_can_be_removed_and_only_once() -> None:
    async def story() -> None:
        life = started()
        first, second, third = await accepted(life, 3)
        taken = life.spool.take(1)
        assert taken is not None
        source, (ref,), _ = taken
        assert isinstance(source, Batch)
        spool = life.spool

        async def remove(fate: Fate) -> bool:
            found = spool.find(fate.identity)
            job = asyncio.ensure_future(spool.remove(*found)) if found is not None else None
            await life._turn()
            await life.rest()
            return job is not None and await job

        assert not await remove(first), "it is with a worker"
        assert await remove(second)
        assert not await remove(second)
        assert spool.total == 2
        life._poke(source, ref, 0, 0xFD)
        spool.done(source, [ref])
        assert not await remove(first), "it is done"
        assert spool.total == 1
        life.close_batch()
        await life.rest()
        assert await life.waiting() == {third.n: 1}

    run(story())


def test_a_file_that_is_being_removed_does_not_start_and_one_that_could_not_be_removed_does() -> None:
    async def story() -> None:
        life = started()
        (fate,) = await accepted(life)
        await settled(life)
        found = life.spool.find(fate.identity)
        assert found is not None
        job = asyncio.ensure_future(life.storage.remove(*found))
        await life._turn()
        life.spool.files.notice(str(found[1]), 0.0, time.time(), sure=True)
        assert life.spool.take(1) is None
        life.disk.fail_at(1, errno.EIO)
        await life.rest()
        with pytest.raises(OSError, match="Errno"):
            await job
        assert await life.waiting() == {fate.n: 1}

    run(story())


def test_a_file_with_several_places_in_the_queue_is_taken_once() -> None:
    async def story() -> None:
        life = started()
        (fate,) = await accepted(life)
        await settled(life)
        found = life.spool.find(fate.identity)
        assert found is not None
        now = time.time()
        for mtime in (now + 100, now - 100, now + 100, now - 100):
            life.spool.files.notice(str(found[1]), mtime, now, sure=True)
        assert await life.waiting() == {fate.n: 1}

    run(story())


# -- ends --


def test_a_task_is_given_up_after_its_last_attempt_and_not_before() -> None:
    async def story() -> None:
        life = started()
        (fate,) = await accepted(life)
        for attempt in (1, 2, 3):
            life.spool.waiting.wake_due(math.inf)
            ((source, ref, rank),) = all_taken(life)
            life._poke(source, ref, 3, attempt)
            life.storage.verdicts.failed(source, ref, rank, FAILED)
            await life.rest()
            assert life.dead() == (set() if attempt < 3 else {fate.n})
        assert life.spool.total == 0
        assert (life.journal.counts.failed, life.journal.counts.died) == (3, 1)
        life.close_batch()
        await life.rest()
        assert await life.waiting() == {}

    run(story())


def test_a_task_that_is_cancelled_while_it_runs_is_dead_and_has_neither_failed_nor_died() -> None:
    async def story() -> None:
        life = started()
        (fate,) = await accepted(life)
        ((source, ref, rank),) = all_taken(life)
        life._poke(source, ref, 3, 1)
        life.storage.verdicts.failed(source, ref, rank, Outcome(Ending.CANCELLED, "cancelled by ada", function="f", seconds=1.0))
        await life.rest()
        assert life.dead() == {fate.n}
        counts = life.journal.counts
        assert (counts.failed, counts.died, counts.cancelled) == (0, 0, 1)
        assert [*life.spool.timings.told()["f"].ran] == [CANCELLED]

    run(story())


def test_an_interrupted_task_runs_next_and_its_attempt_does_not_count() -> None:
    async def story() -> None:
        life = started()
        first, _ = await accepted(life, 2)
        source, (ref,), rank = life.spool.take(1) or (None, [0], 0)
        assert isinstance(source, Batch)
        life._poke(source, ref, 3, 1)
        life.storage.verdicts.interrupted(source, ref, rank)
        assert ref in source.in_flight, "it must not start before its attempt is taken back"
        await life.rest()
        ((again, same, _), _) = all_taken(life)
        found = life._read(again, same)
        assert found is not None
        assert (life._check(found), found.attempts) == (first.n, 0)

    run(story())


def test_a_batch_whose_file_somebody_removed_is_forgotten() -> None:
    async def story() -> None:
        life = started()
        await accepted(life, 3)
        life.close_batch()
        await life.rest()
        (number,) = life.journal.batches
        life.disk.unlink(life.journal.layout.batch(number))
        taken = all_taken(life)
        source, ref, rank = taken[0]
        life.storage.verdicts.failed(source, ref, rank, FAILED)
        for source, ref, _ in taken[1:]:
            life.spool.gone(source, ref)
        await life.rest()
        assert (life.spool.total, life.journal.batches) == (0, {})

    run(story())


def test_a_disk_that_cannot_tell_what_a_dead_worker_ended_leaves_it_to_the_next_worker() -> None:
    async def story() -> None:
        life = started()
        await accepted(life)
        ((source, ref, _),) = all_taken(life)
        life.disk.fail_at(1, errno.EMFILE)
        assert life.journal.is_finished(source, [ref]) == set()

    run(story())


def test_a_young_file_of_which_only_a_scan_knows_waits_until_it_is_surely_whole() -> None:
    async def story() -> None:
        life = started()
        now = time.time()
        life.spool.files.notice("uwsgi_spoolfile_on_x", now - 0.5, now, sure=False)
        life.spool.files.notice("uwsgi_spoolfile_on_y", now - 0.5, now, sure=True)
        assert [ref for _, ref, _ in all_taken(life)] == ["uwsgi_spoolfile_on_y"]
        life.spool.files.forget("uwsgi_spoolfile_on_x")
        life.spool.waiting.wake_due(math.inf)
        assert all_taken(life) == []

    run(story())


# -- the real thing --


class Heard:
    """A client that waits for one task."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def stored(self, task_id: str, copies: int = 1) -> None:
        self.answer.set_result(task_id)

    def refused(self, refusal: Exception) -> None:
        self.answer.set_exception(refusal)


@pytest.mark.parametrize("sync", [True, False])
def test_on_the_real_disk_tasks_are_accepted_settled_found_again_and_nothing_stays_open(tmp_path: Path, sync: bool) -> None:
    disk = GuardedDisk(RealDisk(), Layout(str(tmp_path)))

    def open_storage() -> Storage:
        disk.in_force = False
        journal = Journal(disk, Layout(str(tmp_path)), NODE, sync=sync, report=lambda _action, **_details: None)
        storage = Storage(journal, RetryPolicy(), random.Random(1))
        storage.load()
        disk.in_force = True
        return storage

    async def first() -> set[str]:
        storage = open_storage()
        spool, journal = storage.spool, storage.journal
        heard = [Heard() for _ in range(300)]
        for index, waiter in enumerate(heard):
            spool.group_commit.add(BLOCK, b"x" * (index * 40), PLAIN_TERMS, waiter)
        large = Heard()
        upload = Upload(storage, Inline(), 1, BLOCK, Terms(rank=7), [""])  # type: ignore[arg-type] # any executor will do
        await upload.write(b"y" * 300_000)
        await upload.finish(large)
        identities = {await waiter.answer for waiter in [*heard, large]}
        spool.group_commit.close_batch()
        await journal.commits.run(lambda: None)
        for batch in journal.batches.values():
            batch.closed_at = -math.inf
        await storage.settle()
        await journal.sync_marks()
        await storage.close()
        return identities

    async def second() -> set[str]:
        storage = open_storage()
        spool = storage.spool
        spool.waiting.wake_due(math.inf)
        found = []
        while (taken := spool.take(100)) is not None:
            found += [spool.id_of(taken[0], ref) for ref in taken[1]]
        await storage.close()
        assert len(found) == len(set(found)) == spool.total
        return set(found)

    before = len(list(Path("/proc/self/fd").iterdir()))
    assert asyncio.run(first()) == asyncio.run(second())
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not disk.violations
