"""The fake disk behaves as the real one does. And only it can lose and tear writes."""

import errno
import os
from collections.abc import Callable

import pytest

from spoolnode.node.disk.disk import Disk, discard
from spoolnode.node.disk.fakes import FakeDisk, PowerCut

Write = Callable[[str, bytes], None]


def contents(disk: Disk, path: str) -> bytes:
    descriptor = disk.open(path)
    try:
        return disk.read(descriptor, disk.size(descriptor), 0)
    finally:
        disk.close(descriptor)


# -- both --


def test_a_file_reads_as_it_was_written_and_never_past_its_end(disk: Disk, root: str) -> None:
    descriptor = disk.create(f"{root}/a")
    disk.write(descriptor, b"hello", 0)
    disk.write(descriptor, b"J", 0)
    disk.write(descriptor, b"!", 7)
    assert disk.size(descriptor) == 8
    assert disk.read(descriptor, 100, 0) == b"Jello\0\0!"
    assert disk.read(descriptor, 3, 1) == b"ell"
    assert disk.read(descriptor, 10, 100) == b""
    disk.close(descriptor)


def test_what_is_allocated_reads_as_zeros_and_allocating_less_changes_nothing(disk: Disk, root: str) -> None:
    descriptor = disk.create(f"{root}/a")
    disk.write(descriptor, b"x", 0)
    disk.allocate(descriptor, 4096)
    disk.allocate(descriptor, 10)
    assert disk.read(descriptor, 5000, 0) == b"x" + bytes(4095)
    disk.close(descriptor)


def test_a_file_is_made_once(disk: Disk, root: str, write: Write) -> None:
    write(f"{root}/a", b"")
    with pytest.raises(FileExistsError):
        disk.create(f"{root}/a")


@pytest.mark.parametrize("call", ["open", "unlink", "stat"])
def test_what_is_not_there_is_not_found(disk: Disk, root: str, call: str) -> None:
    with pytest.raises(FileNotFoundError):
        getattr(disk, call)(f"{root}/nothing")
    with pytest.raises(FileNotFoundError):
        getattr(disk, call)(f"{root}/no/thing")


def test_renaming_what_is_not_there_is_an_error_and_leaves_the_target(disk: Disk, root: str, write: Write) -> None:
    write(f"{root}/b", b"kept")
    with pytest.raises(FileNotFoundError):
        disk.rename(f"{root}/a", f"{root}/b")
    assert contents(disk, f"{root}/b") == b"kept"


def test_a_rename_replaces_and_crosses_directories(disk: Disk, root: str, write: Write) -> None:
    disk.make_directory(f"{root}/d")
    write(f"{root}/a", b"new")
    write(f"{root}/d/a", b"old")
    disk.rename(f"{root}/a", f"{root}/d/a")
    assert contents(disk, f"{root}/d/a") == b"new"
    assert [entry.name for entry in disk.entries(root)] == ["d"]


def test_an_open_file_outlives_its_name(disk: Disk, root: str) -> None:
    descriptor = disk.create(f"{root}/a")
    disk.unlink(f"{root}/a")
    disk.write(descriptor, b"x", 0)
    assert disk.read(descriptor, 9, 0) == b"x"
    disk.close(descriptor)
    assert disk.entries(root) == []


def test_entries_tell_files_from_directories_with_size_and_time(disk: Disk, root: str, write: Write) -> None:
    disk.make_directory(f"{root}/d/e")
    disk.make_directory(f"{root}/d")
    write(f"{root}/a", b"12345")
    disk.set_mtime(f"{root}/a", 1234567890.5)
    found = {entry.name: entry for entry in disk.entries(root)}
    assert set(found) == {"d", "a"}
    assert (found["d"].is_directory, found["d"].is_file) == (True, False)
    assert (found["a"].is_directory, found["a"].is_file, found["a"].size) == (False, True, 5)
    assert found["a"].mtime == disk.stat(f"{root}/a").mtime == 1234567890.5


def test_a_directory_that_does_not_exist_has_no_entries(disk: Disk, root: str) -> None:
    assert disk.entries(f"{root}/nothing") == []


def test_directories_are_no_files(disk: Disk, root: str) -> None:
    disk.make_directory(f"{root}/d")
    for call in (disk.open, disk.unlink):
        with pytest.raises(OSError, match="Errno"):
            call(f"{root}/d")


def test_a_name_has_at_most_255_bytes(disk: Disk, root: str, write: Write) -> None:
    write(f"{root}/{'a' * 255}", b"")
    with pytest.raises(OSError, match=os.strerror(errno.ENAMETOOLONG)):
        disk.create(f"{root}/{'a' * 256}")


def test_a_closed_descriptor_is_of_no_use(disk: Disk, root: str) -> None:
    descriptor = disk.create(f"{root}/a")
    disk.close(descriptor)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        disk.write(descriptor, b"x", 0)


def test_discarding_what_is_not_there_is_no_mistake(disk: Disk, root: str) -> None:
    disk.close(disk.create(f"{root}/a"))
    discard(disk, f"{root}/a")
    discard(disk, f"{root}/a")
    assert disk.entries(root) == []


# -- the fake one: failures --


@pytest.fixture
def fake() -> FakeDisk:
    disk = FakeDisk()
    disk.make_directory("/d")
    disk.sync_directory("/")
    return disk


def saved(disk: FakeDisk, data: bytes, *, sync: bool = True, sync_directory: bool = True) -> int:
    descriptor = disk.create("/d/a")
    disk.write(descriptor, data, 0)
    if sync:
        disk.sync(descriptor)
    if sync_directory:
        disk.sync_directory("/d")
    return descriptor


def test_the_call_that_was_named_fails_once(fake: FakeDisk) -> None:
    fake.fail_at(2, errno.EIO)
    fake.entries("/d")
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        fake.create("/d/a")
    assert fake.entries("/d") == []


def test_a_write_that_fails_has_written_less_than_all_and_a_single_byte_not_at_all(fake: FakeDisk) -> None:
    descriptor = saved(fake, bytes(100))
    for size in (1, 100):
        for seed in range(50):
            fake.random.seed(seed)
            fake.fail_at(1, errno.EIO)
            with pytest.raises(OSError, match="Errno"):
                fake.write(descriptor, b"x" * size, 0)
            assert (fake.peek("/d/a") or b"").count(b"x") < size
            fake.write(descriptor, bytes(100), 0)


def test_a_full_disk_takes_nothing_more_until_something_goes(fake: FakeDisk) -> None:
    fake.space = 10
    descriptor = saved(fake, b"123456789")
    fake.write(descriptor, b"987654321", 0)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        fake.write(descriptor, b"ab", 9)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        fake.allocate(descriptor, 20)
    fake.unlink("/d/a")
    assert fake.free("/") == 10


# -- the fake one: power --


@pytest.mark.parametrize("seed", range(30))
def test_what_was_synced_survives_every_power_cut(seed: int) -> None:
    disk = FakeDisk(seed)
    disk.make_directory("/d")
    disk.sync_directory("/")
    saved(disk, b"x" * 2000)
    disk.crash()
    assert disk.peek("/d/a") == b"x" * 2000
    assert not disk.open_files


def outcomes(make: Callable[[FakeDisk], object]) -> set[bytes | None]:
    """The possible contents of the file after a power cut, from many seeds."""
    found = set()
    for seed in range(60):
        disk = FakeDisk(seed)
        disk.make_directory("/d")
        disk.sync_directory("/")
        make(disk)
        disk.crash()
        found.add(disk.peek("/d/a"))
    return found


def test_an_unsynced_write_survives_whole_in_part_or_not_at_all() -> None:
    found = outcomes(lambda disk: saved(disk, b"x" * 512 + b"y" * 512, sync=False))
    assert {b"", b"x" * 512 + b"y" * 512, b"x" * 512, bytes(512) + b"y" * 512} <= found


def test_a_name_without_a_sync_of_its_directory_may_be_lost() -> None:
    assert outcomes(lambda disk: saved(disk, b"x", sync_directory=False)) == {b"x", None}


def test_a_new_directory_may_be_lost_with_everything_in_it() -> None:
    def make(disk: FakeDisk) -> None:
        disk.make_directory("/d/e")
        descriptor = disk.create("/d/e/a")
        disk.sync(descriptor)
        disk.sync_directory("/d/e")

    lost = 0
    for seed in range(30):
        disk = FakeDisk(seed)
        disk.make_directory("/d")
        disk.sync_directory("/")
        make(disk)
        disk.crash()
        lost += disk.peek("/d/e/a") is None
    assert 0 < lost < 30


def test_an_unlink_without_a_sync_of_its_directory_may_be_undone() -> None:
    def make(disk: FakeDisk) -> None:
        saved(disk, b"x")
        disk.unlink("/d/a")

    assert outcomes(make) == {b"x", None}


@pytest.mark.parametrize("synced", ["", "/d", "/e"])
def test_a_file_under_rename_is_never_in_no_place(synced: str) -> None:
    places = set()
    for seed in range(40):
        disk = FakeDisk(seed)
        for directory in ("/d", "/e"):
            disk.make_directory(directory)
        disk.sync_directory("/")
        saved(disk, b"x")
        disk.rename("/d/a", "/e/a")
        if synced:
            disk.sync_directory(synced)
        disk.crash()
        places.add((disk.peek("/d/a") is not None, disk.peek("/e/a") is not None))
    assert (False, False) not in places
    assert synced != "/d" or places == {(False, True)}
    assert synced != "/e" or all(there for _, there in places)


def test_a_failed_sync_is_final_a_later_one_does_not_save_what_it_lost() -> None:
    def make(disk: FakeDisk) -> None:
        descriptor = saved(disk, b"x", sync=False)
        disk.fail_at(1, errno.EIO)
        with pytest.raises(OSError, match="Errno"):
            disk.sync(descriptor)
        assert disk.peek("/d/a") == b"x"
        disk.sync(descriptor)

    assert outcomes(make) == {b"x", b"\0"}


def test_a_time_is_safe_after_a_sync_that_follows_it() -> None:
    times: dict[bool, set[float]] = {True: set(), False: set()}
    for seed in range(20):
        for before, found in times.items():
            disk = FakeDisk(seed)
            disk.make_directory("/d")
            disk.sync_directory("/")
            descriptor = saved(disk, b"x")
            disk.set_mtime("/d/a", 5.0)
            if before:
                disk.sync(descriptor)
            disk.crash()
            found.add(disk.stat("/d/a").mtime)
    assert times == {True: {5.0}, False: {5.0, disk.now}}


def test_kill_9_loses_descriptors_and_nothing_else(fake: FakeDisk) -> None:
    descriptor = saved(fake, b"x", sync=False, sync_directory=False)
    fake.kill()
    assert fake.peek("/d/a") == b"x"
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        fake.read(descriptor, 1, 0)


def test_while_the_power_is_off_nothing_is_done_and_nothing_returns(fake: FakeDisk) -> None:
    saved(fake, b"x")
    fake.cut_power_at(1)
    for call in (lambda: fake.unlink("/d/a"), lambda: fake.entries("/d"), lambda: fake.make_directory("/e")):
        with pytest.raises(PowerCut):
            call()
    fake.store("/d/a", 0, b"y")
    fake.crash()
    assert fake.peek("/d/a") == b"x"
    assert [entry.name for entry in fake.entries("/")] == ["d"]


def test_a_store_through_a_mapping_needs_no_call_and_is_safe_after_a_sync(fake: FakeDisk) -> None:
    descriptor = saved(fake, b"xyz")
    before = fake.calls
    fake.store("/d/a", 1, b"-")
    assert fake.calls == before
    assert fake.read(descriptor, 9, 0) == b"x-z"
    fake.sync(descriptor)
    fake.crash()
    assert fake.peek("/d/a") == b"x-z"
