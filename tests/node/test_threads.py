"""Each thread does to the disk what it may do and nothing else: the guard that holds them to it, and that it sees."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from spoolnode.node.disk.disk import RealDisk
from spoolnode.node.disk.fakes import RIGHTS, GuardedDisk, WrongThread, acting_as
from spoolnode.node.disk.layout import Layout
from spoolnode.node.disk.threads import DiskThread
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.place import IN_FILES
from spoolnode.node.spool.retry import RetryPolicy

MOVES: dict[str, Callable[[GuardedDisk, str], object]] = {
    "create": lambda disk, path: disk.create(f"{path}.new"),
    "write": lambda disk, path: disk.write(disk.open(path), b"x", 0),
    "sync": lambda disk, path: disk.sync(disk.open(path)),
    "set_mtime": lambda disk, path: disk.set_mtime(path, 1.0),
    "rename": lambda disk, path: disk.rename(path, f"{path}.moved"),
    "unlink": lambda disk, path: disk.unlink(path),
}
PLACES = ["", "incoming/", "outbox/beta/", "tmp/", "dead/"]


@pytest.fixture
def guard(tmp_path: Path) -> GuardedDisk:
    """A disk in force, with one file in each place."""
    layout = Layout(str(tmp_path))
    disk = GuardedDisk(RealDisk(), layout)
    for path in [*layout.directories, layout.path("outbox/beta")]:
        disk.make_directory(path)
    for place in PLACES:
        disk.close(disk.create(layout.path(f"{place}file")))
    disk.in_force = True
    return disk


def can(guard: GuardedDisk, move: str, path: str) -> bool:
    try:
        MOVES[move](guard, path)
    except WrongThread:
        return False
    return True


@pytest.mark.parametrize(
    ("thread", "allowed"),
    [
        ("store", {(move, place) for move in MOVES for place in PLACES}),
        ("commit", {(move, place) for move in MOVES for place in ("incoming/", "tmp/")}),
        ("packing", {(move, place) for move in ("write", "set_mtime") for place in ("incoming/", "outbox/beta/")}),
        ("upload_3", {(move, "tmp/") for move in MOVES if move != "rename"}),
        ("asyncio_0", set()),
        ("MainThread", set()),
    ],
)
@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("place", PLACES)
def test_a_thread_changes_what_is_its_own_and_nothing_else(
    guard: GuardedDisk, tmp_path: Path, thread: str, allowed: set[tuple[str, str]], move: str, place: str
) -> None:
    with acting_as(thread):
        assert can(guard, move, f"{tmp_path}/{place}file") == ((move, place) in allowed)
        assert bool(guard.violations) == ((move, place) not in allowed)


@pytest.mark.parametrize("thread", [*RIGHTS, "asyncio_0"])
def test_every_thread_may_read(guard: GuardedDisk, tmp_path: Path, thread: str) -> None:
    with acting_as(thread):
        descriptor = guard.open(f"{tmp_path}/dead/file")
        assert (guard.read(descriptor, 10, 0), guard.size(descriptor)) == (b"", 0)
        guard.close(descriptor)
        assert [entry.name for entry in guard.entries(f"{tmp_path}/dead")] == ["file"]
    assert not guard.violations


@pytest.mark.parametrize("thread", ["commit", "upload_0"])
def test_who_finds_a_directory_of_the_spool_removed_makes_it_anew_and_no_other_one(
    guard: GuardedDisk, tmp_path: Path, thread: str
) -> None:
    (tmp_path / "corrupt").rmdir()
    with acting_as(thread):
        guard.make_directory(f"{tmp_path}/corrupt")
        guard.sync_directory(str(tmp_path))
        with pytest.raises(WrongThread):
            guard.make_directory(f"{tmp_path}/5")


def test_a_real_thread_is_known_by_its_name(guard: GuardedDisk, tmp_path: Path) -> None:
    async def main() -> None:
        threads = {name: DiskThread(name) for name in ("store", "packing")}
        await threads["store"].run(lambda: guard.unlink(f"{tmp_path}/dead/file"))
        with pytest.raises(WrongThread, match="the thread packing must not unlink"):
            await threads["packing"].run(lambda: guard.unlink(f"{tmp_path}/incoming/file"))
        for thread in threads.values():
            await thread.close()

    asyncio.run(main())
    assert len(guard.violations) == 1


def test_a_move_that_is_made_beside_the_store_thread_fails(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    disk = GuardedDisk(RealDisk(), layout)

    async def main() -> None:
        journal = Journal(disk, layout, "0123456789ab", sync=False, report=lambda _action, **_details: None)
        storage = Storage(journal, RetryPolicy(), random.Random(1))
        storage.load()
        disk.in_force = True
        (tmp_path / "uwsgi_spoolfile_on_x").write_bytes(b"\x11\0\0\0")
        with pytest.raises(WrongThread):
            await asyncio.to_thread(IN_FILES.bury, journal.store, "uwsgi_spoolfile_on_x", "it failed", 1)
        await journal.moves.run(lambda: IN_FILES.bury(journal.store, "uwsgi_spoolfile_on_x", "it failed", 1))
        await storage.close()

    asyncio.run(main())
    assert [path.name for path in (tmp_path / "dead").iterdir()] == ["uwsgi_spoolfile_on_x"]
