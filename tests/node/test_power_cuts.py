"""A task that has ended stays ended, even if the power fails a second later: stories from the simulation, step by step."""

import asyncio
import errno
import time
from collections.abc import Coroutine
from typing import Any

import pytest
from linked import Station, task

from spoolnode.node.outcome import Ending, Outcome
from spoolnode.node.spool.place import IN_FILES
from spoolnode.protocol.names import SPOOL_PREFIX

FIRST = 7 << 32
SEEDS = range(20)
"""Each seed keeps a different part of the unsafe writes."""


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


async def closed(station: Station) -> None:
    """The open batch takes no more."""
    await station.rest()
    station.spool.group_commit.close_batch()
    await station.rest()


def test_what_ended_a_second_before_a_power_cut_does_not_run_again_though_a_full_disk_kept_its_batch() -> None:
    async def story() -> None:
        station = Station()
        for n in range(5):
            station.admit(task(n, FIRST + n))
        await closed(station)
        station.disk.space = 0  # so the numbers taken cannot be saved, and the batch that proves them cannot go
        assert station.run_all() == [0, 1, 2, 3, 4]
        await station.rest()
        await station.tidy()
        for seed in SEEDS:
            assert station.after_power_cut(seed).run_all() == []

    run(story())


def test_a_batch_that_the_disk_does_not_let_go_is_removed_when_it_does() -> None:
    async def story() -> None:
        station = Station()
        station.admit(task(1), link=None)
        await closed(station)
        real = station.disk.unlink

        def failing(path: str) -> None:
            raise OSError(errno.EROFS, "Read-only file system", path)

        station.disk.unlink = failing  # type: ignore[method-assign] # for a while
        assert station.run_all() == [1]
        await station.rest()
        station.disk.unlink = real  # type: ignore[method-assign] # as before
        assert [action for action, _ in station.reports] == ["move_failed"]
        for seed in SEEDS:
            await station.tidy()
            assert station.after_power_cut(seed).run_all() == []
        for batch in station.journal.batches.values():
            batch.closed_at = float("-inf")  # a minute later
        await station.during(station.storage.settle())
        await station.rest()
        assert station.files("incoming") == []

    run(story())


@pytest.mark.parametrize("settled", [False, True], ids=["in a batch", "in a file"])
def test_what_was_given_up_just_before_a_power_cut_is_dead_and_does_not_wait_as_well(settled: bool) -> None:
    async def story() -> None:
        station = Station()
        station.admit(task(1), link=None)
        await station.rest()
        if settled:
            await station.settled()
            await station.tidy()
        taken = station.spool.take(1)
        assert taken is not None
        source, (ref,), rank = taken
        source.place.set_attempts(station.by_hand, ref, 3)
        station.storage.verdicts.failed(source, ref, rank, Outcome(Ending.FAILED, "it failed"))
        await station.rest()
        assert len(station.files("dead")) == 1
        for seed in SEEDS:
            again = station.after_power_cut(seed)
            assert len(again.files("dead")) == 1
            assert again.run_all() == []
            assert again.spool.total == 0

    run(story())


def test_what_was_undeliverable_just_before_a_power_cut_is_dead_and_is_not_sent_as_well() -> None:
    async def story() -> None:
        station = Station()
        station.admit(task(1, spool_node="beta"), link=None)
        await station.settled()
        await station.tidy()
        ((to, owner, taken),) = station.outbox.take_old(time.time() + 1e6, 10)
        station.storage.shipping.give_up(to, owner, taken, "it waited too long")
        await station.rest()
        for seed in SEEDS:
            again = station.after_power_cut(seed)
            assert (len(again.files("dead")), again.outbox.total) == (1, 0)

    run(story())


def test_a_copy_out_of_dead_made_by_hand_runs_and_the_dead_one_stays() -> None:
    async def story() -> None:
        station = Station()
        station.admit(task(1), link=None)
        await station.settled()
        (name,) = [name for name in station.files("") if name.startswith(SPOOL_PREFIX)]
        IN_FILES.bury(station.by_hand, name, "it failed", 3)
        data = station.disk.peek(station.journal.layout.path(f"dead/{name}"))
        assert data is not None
        station.by_hand.put(name, [data], None)
        again = station.killed()
        assert again.run_all() == [1]
        assert again.files("dead") == [name]

    run(story())


def test_two_files_of_one_name_are_both_kept_when_both_are_given_up() -> None:
    async def story() -> None:
        station = Station()
        store = station.by_hand
        for directory in ("", "5/"):
            store.disk.make_directory(store.layout.path("5"))
            store.put(f"{directory}{SPOOL_PREFIX}x", [b"\x11\x00\x00\x00" + directory.encode()], None)
            IN_FILES.bury(store, f"{directory}{SPOOL_PREFIX}x", "it failed", 3)
        assert len(station.files("dead")) == 2
        assert len({store.revive(f"dead/{name}") for name in station.files("dead")}) == 2
        assert sum(name.startswith(SPOOL_PREFIX) for name in station.files("")) == 2

    run(story())


def test_a_large_task_from_a_peer_is_counted_from_its_acknowledgement_on() -> None:
    async def story() -> None:
        station = Station()
        real = station.journal.store.replace

        def full(path: str, data: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", path)

        station.journal.store.replace = full  # type: ignore[method-assign] # its number cannot be saved, so it does not run yet
        assert (await station.upload(task(1, FIRST))).stored_as
        assert station.spool.total == 1
        assert station.storage.is_busy
        for again in (station.killed(), station.after_power_cut()):
            assert again.spool.total == 1
            await again.during(again.storage.settle())
            assert again.run_all() == [1]
        station.journal.store.replace = real  # type: ignore[method-assign] # there is room again
        await station.during(station.storage.settle())
        assert station.spool.total == 1
        assert station.run_all() == [1]
        assert station.spool.total == 0

    run(story())


@pytest.mark.parametrize("kept", ["/var/spool", "/var/spool/arriving", "/var/spool/1"])
def test_what_ended_after_a_kill_in_the_middle_of_a_move_stays_ended(kept: str) -> None:
    async def story() -> None:
        station = Station()
        real = station.disk.sync_directory

        def dying(path: str) -> None:
            if path != kept or station.disk.names("/var/spool/arriving"):
                return real(path)
            raise OSError(errno.EIO, "the process dies here", path)

        station.disk.sync_directory = dying  # type: ignore[method-assign] # the file has moved, and not all of that is safe
        assert (await station.upload(task(1, FIRST, priority="1"))).stored_as
        station.disk.sync_directory = real  # type: ignore[method-assign] # the next process
        again = station.killed()
        assert again.files("1")
        assert again.run_all() == [1]
        await again.tidy()
        for seed in SEEDS:
            last = again.after_power_cut(seed)
            await last.during(last.storage.settle())
            assert last.run_all() == []

    run(story())


def test_a_task_that_cannot_be_published_keeps_no_other_one_waiting() -> None:
    async def story() -> None:
        station = Station()
        publish, stuck = station.journal.store.publish, [""]

        def failing(ref: str) -> str:
            stuck[0] = stuck[0] or ref
            if ref == stuck[0]:
                raise OSError(errno.EIO, "Input/output error", ref)
            return publish(ref)

        station.journal.store.publish = failing  # type: ignore[method-assign] # for the first one
        for n in (1, 2):
            assert (await station.upload(task(n, FIRST + n))).stored_as
        for _ in range(2):
            await station.during(station.storage.settle())
        assert station.run_all() == [2]
        assert station.spool.total == 1

    run(story())
