"""Files that others put into the spool, on a real directory with real events."""

import asyncio
import errno
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from spoolnode.node.disk.disk import Entry, RealDisk
from spoolnode.node.disk.fakes import GuardedDisk
from spoolnode.node.disk.layout import Layout
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.spool import inbox as module
from spoolnode.node.spool.inbox import Inbox
from spoolnode.node.spool.inspect import read_file
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.reader import Location
from spoolnode.node.spool.recovery import FoundFile
from spoolnode.node.spool.retry import RetryPolicy
from spoolnode.node.spool.spool import Spool
from spoolnode.protocol.packet import encode_variables
from spoolnode.protocol.spoolfile import head

FILE = b"\x11\0\0\0"


class Counting(GuardedDisk):
    """A guarded disk that counts how often a directory was read whole."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(RealDisk(), layout)
        self.read_whole: list[str] = []
        self.fails = False
        """The next one fails."""

    def entries(self, path: str) -> list[Entry]:
        self.read_whole.append(path)
        if self.fails:
            self.fails = False
            raise OSError(errno.EIO, "Input/output error")
        return super().entries(path)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


def run(root: Path, story: Callable[[Spool, Inbox, Counting], Awaitable[None]], reported: Sequence[str] = ()) -> None:
    """A spool at `root` with an inbox that has started; `reported`: the actions of all lines of its log."""
    layout = Layout(str(root))
    root.mkdir()

    async def main() -> None:
        disk = Counting(layout)
        journal = Journal(disk, layout, "0123456789ab", sync=False, report=lambda *_, **__: None)
        storage = Storage(journal, RetryPolicy(), random.Random(1))
        spool = storage.spool
        reports: list[str] = []
        inbox = Inbox(spool.files, spool.journal, lambda action, **_: reports.append(action))
        inbox.watch()
        storage.load()
        disk.in_force = True
        disk.read_whole.clear()
        inbox.start()
        try:
            await story(spool, inbox, disk)
        finally:
            inbox.stop()
            await storage.close()
        assert not disk.violations
        assert reports == list(reported)

    asyncio.run(main())


def test_many_directories_that_come_together_are_scanned_once(tmp_path: Path) -> None:
    made = tmp_path / "made"
    for number in range(200):
        (made / str(number) / "1").mkdir(parents=True)
        (made / str(number) / "1" / "uwsgi_spoolfile_on_x").write_bytes(FILE)

    async def story(spool: Spool, inbox: Inbox, disk: Counting) -> None:
        for directory in made.iterdir():
            directory.rename(Path(spool.journal.layout.root) / directory.name)
        await until(lambda: len(spool.files.known) == 200)
        assert disk.read_whole.count(spool.journal.layout.path("")) == 1

    run(tmp_path / "spool", story)


def test_a_file_in_a_directory_in_a_new_directory_is_seen_at_once_when_it_comes_later(tmp_path: Path) -> None:
    async def story(spool: Spool, inbox: Inbox, disk: Counting) -> None:
        deep = Path(spool.journal.layout.root) / "7" / "8"
        deep.mkdir(parents=True)
        await until(lambda: "7/8/" in inbox._directories.values() and disk.read_whole.count(spool.journal.layout.path("")) == 1)
        (deep / "uwsgi_spoolfile_on_x").write_bytes(FILE)
        await until(lambda: "7/8/uwsgi_spoolfile_on_x" in spool.files.known)
        assert spool.files.known["7/8/uwsgi_spoolfile_on_x"] == 0.0, "an event says that it is whole"
        assert disk.read_whole.count(spool.journal.layout.path("")) == 1

    run(tmp_path / "spool", story)


def test_the_end_of_the_watch_while_new_directories_are_listed_leaves_nothing_behind(tmp_path: Path) -> None:
    async def story(spool: Spool, inbox: Inbox, disk: Counting) -> None:
        busy = threading.Event()
        spool.journal.moves.submit(busy.wait, lambda _result, _error: None)
        (Path(spool.journal.layout.root) / "7" / "8").mkdir(parents=True)
        await until(lambda: inbox._is_listing)
        inbox.stop()
        busy.set()
        await until(lambda: not inbox._is_listing)
        assert inbox._scan_timer is None or inbox._scan_timer.cancelled()

    run(tmp_path / "spool", story)


@pytest.mark.parametrize("odd", ["a file", "gone"])
def test_what_becomes_of_other_files_is_no_failure_of_a_move(tmp_path: Path, odd: str) -> None:
    async def story(spool: Spool, inbox: Inbox, disk: Counting) -> None:
        root = Path(spool.journal.layout.root)
        (root / "5").mkdir()
        await until(lambda: "5/" in inbox._directories.values())

        def move() -> None:
            (root / "uwsgi_spoolfile_on_moved").write_bytes(FILE)
            (root / "5" / "uwsgi_spoolfile_on_x").write_bytes(FILE)

        with spool.journal.placing():
            move()
            await until(lambda: "5/uwsgi_spoolfile_on_x" in inbox._news)
            (root / "5").rename(root / "old")
            if odd == "a file":
                (root / "5").touch()
        await until(lambda: "uwsgi_spoolfile_on_moved" in spool.files.known)

    run(tmp_path / "spool", story)


def test_only_what_has_happened_is_read_before_a_file_lands(tmp_path: Path) -> None:
    async def story(spool: Spool, inbox: Inbox, disk: Counting) -> None:
        reads = 0

        def more() -> int:
            nonlocal reads
            reads += 1
            assert reads < 100, "somebody changes files faster than we read of it"
            return 16

        (Path(spool.journal.layout.root) / "uwsgi_spoolfile_on_x").write_bytes(FILE)
        inbox._read = more  # type: ignore[method-assign] # for a moment
        spool.files.land([])
        del inbox._read

    run(tmp_path / "spool", story)


NAME = "uwsgi_spoolfile_on_x"
HOUR = 3600.0


def root_of(spool: Spool) -> Path:
    return Path(spool.journal.layout.root)


def ready(spool: Spool) -> list[str]:
    """The files that may run; takes them."""
    return [str(ref) for source, refs, _ in iter(lambda: spool.take(100), None) for ref in refs]


def test_file_is_ready_when_its_writer_closes_it_and_not_before(tmp_path: Path) -> None:
    async def story(spool: Spool, inbox: Inbox, disk: Counting) -> None:
        with (root_of(spool) / NAME).open("wb", buffering=0) as file:
            file.write(FILE)
            (root_of(spool) / "uwsgi_spoolfile_on_later").write_bytes(FILE)
            await until(lambda: spool.files.known)
            assert ready(spool) == ["uwsgi_spoolfile_on_later"]
        await until(lambda: NAME in spool.files.known)
        assert ready(spool) == [NAME]

    run(tmp_path / "spool", story)


def test_a_look_at_a_file_is_not_taken_for_the_end_of_its_writer(tmp_path: Path) -> None:
    async def story(spool: Spool, inbox: Inbox, disk: Counting) -> None:
        reader, block = spool.journal.reader, encode_variables([(b"a", b"b")])
        place = Location(reader.layout.path(NAME))
        with (root_of(spool) / NAME).open("wb", buffering=0) as file:
            file.write(head(block) + b"half of a bo")
            assert (reader.block_of(NAME), reader.has_body(place, len(block))) == (block, True)
            assert reader.progress(place).attempts == 0
            assert read_file(reader, place).body == b"half of a bo"
            (root_of(spool) / "uwsgi_spoolfile_on_later").write_bytes(FILE)
            await until(lambda: spool.files.known)
            assert ready(spool) == ["uwsgi_spoolfile_on_later"]
            file.write(b"dy")
        await until(lambda: NAME in spool.files.known)
        assert ready(spool) == [NAME]

    run(tmp_path / "spool", story)


def test_only_spool_files_and_directories_of_priorities_are_looked_at(tmp_path: Path) -> None:
    async def story(spool: Spool, inbox: Inbox, disk: Counting) -> None:
        root = root_of(spool)
        for name in ("notes", "7"):
            (root / name).mkdir()
        await until(lambda: "7/" in inbox._directories.values())
        for name in ("notes.txt", f"notes/{NAME}", f"dead/{NAME}", f"7/{NAME}"):
            (root / name).write_bytes(FILE)
        await until(lambda: spool.files.known)
        assert list(spool.files.known) == [f"7/{NAME}"]

    run(tmp_path / "spool", story)


def test_file_that_is_taken_away_does_not_run_and_one_that_is_renamed_runs_once(tmp_path: Path) -> None:
    async def story(spool: Spool, inbox: Inbox, disk: Counting) -> None:
        root = root_of(spool)
        for name in ("a", "b", "c"):
            (root / f"uwsgi_spoolfile_on_{name}").write_bytes(FILE)
        await until(lambda: len(spool.files.known) == 3)
        (root / "uwsgi_spoolfile_on_a").unlink()
        (root / "uwsgi_spoolfile_on_b").rename(tmp_path / "away")
        (root / "uwsgi_spoolfile_on_c").rename(root / "uwsgi_spoolfile_on_d")
        await until(lambda: list(spool.files.known) == ["uwsgi_spoolfile_on_d"])
        assert ready(spool) == ["uwsgi_spoolfile_on_d"]
        assert spool.total == 1

    run(tmp_path / "spool", story)


def test_file_whose_time_is_set_waits_for_it_and_runs_when_it_is_set_back(tmp_path: Path) -> None:
    async def story(spool: Spool, inbox: Inbox, disk: Counting) -> None:
        file = root_of(spool) / NAME
        file.write_bytes(FILE)
        await until(lambda: NAME in spool.files.known)
        due = int(time.time() + HOUR)
        os.utime(file, (due, due))
        await until(lambda: spool.files.known[NAME] == due)
        assert ready(spool) == []
        os.utime(file, (1, 1))
        await until(lambda: spool.files.known[NAME] == 0.0)
        assert ready(spool) == [NAME]

    run(tmp_path / "spool", story)


def test_what_a_worker_does_to_its_own_file_is_not_news(tmp_path: Path) -> None:
    async def story(spool: Spool, inbox: Inbox, disk: Counting) -> None:
        file = root_of(spool) / NAME
        file.write_bytes(FILE)
        await until(lambda: NAME in spool.files.known)
        assert ready(spool) == [NAME]
        with file.open("r+b") as own:
            own.write(FILE)
        file.unlink()
        (root_of(spool) / "uwsgi_spoolfile_on_next").write_bytes(FILE)
        await until(lambda: "uwsgi_spoolfile_on_next" in spool.files.known)
        assert NAME in spool.files.in_flight
        assert spool.counts.found == 2

    run(tmp_path / "spool", story)


def test_directory_that_is_removed_and_made_again_is_watched_again(tmp_path: Path) -> None:
    async def story(spool: Spool, inbox: Inbox, disk: Counting) -> None:
        directory = root_of(spool) / "5"
        for _ in range(3):
            directory.mkdir()
            await until(lambda: not inbox._is_listing and "5/" in inbox._directories.values())
            (directory / NAME).write_bytes(FILE)
            await until(lambda: f"5/{NAME}" in spool.files.known)
            (directory / NAME).unlink()
            directory.rmdir()
            await until(lambda: not spool.files.known and "5/" not in inbox._directories.values())

    run(tmp_path / "spool", story)


QUEUED = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())


@pytest.mark.skipif(QUEUED > 1 << 17, reason="this machine's kernel keeps so much that it would take minutes")
def test_all_is_scanned_when_more_has_happened_than_the_kernel_keeps(tmp_path: Path) -> None:
    async def story(spool: Spool, inbox: Inbox, disk: Counting) -> None:
        one, other = root_of(spool) / "one", root_of(spool) / "other"
        one.touch()
        for _ in range(QUEUED // 4 + 10):
            one.rename(other)
            other.rename(one)
        (root_of(spool) / NAME).write_bytes(FILE)
        await until(lambda: NAME in spool.files.known)
        assert disk.read_whole

    run(tmp_path / "spool", story)


def none_left(**_: object) -> None:
    """INotify, when too many others use it."""
    raise OSError(errno.EMFILE, "Too many open files")


def test_without_inotify_files_are_found_by_scanning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCAN_SECONDS", 0.0)
    monkeypatch.setattr(module, "SCAN_REST", 1)
    monkeypatch.setattr(module, "INotify", none_left)

    async def story(spool: Spool, inbox: Inbox, disk: Counting) -> None:
        file = root_of(spool) / NAME
        file.write_bytes(FILE)
        await until(lambda: NAME in spool.files.known)
        os.utime(file, (1, 1))
        await until(lambda: spool.files.known[NAME] == 0.0)
        assert ready(spool) == [NAME]

    run(tmp_path / "spool", story, reported=["no_inotify"])


def test_file_that_only_scans_have_seen_is_not_taken_while_it_may_still_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SCAN_SECONDS", 0.0)
    monkeypatch.setattr(module, "INotify", none_left)

    async def story(spool: Spool, inbox: Inbox, disk: Counting) -> None:
        file = root_of(spool) / NAME
        file.write_bytes(FILE)
        young = time.time() + HOUR  # as long as this test may take, it was just written
        monkeypatch.setattr(time, "time", lambda: young)
        os.utime(file, (young, young))
        await until(lambda: NAME in spool.files.known)
        scans = len(disk.read_whole)
        await until(lambda: len(disk.read_whole) > scans + 2)
        assert spool.files.known[NAME] > young
        os.utime(file, (1, 1))
        await until(lambda: spool.files.known[NAME] == 0.0)
        assert ready(spool) == [NAME]

    run(tmp_path / "spool", story, reported=["no_inotify"])


def test_directory_that_cannot_be_watched_is_told_and_scanned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(spool: Spool, inbox: Inbox, disk: Counting) -> None:
        assert inbox._inotify is not None

        def full(path: str, mask: int) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(inbox._inotify, "add_watch", full)
        made = tmp_path / "5"
        made.mkdir()
        (made / NAME).write_bytes(FILE)
        made.rename(root_of(spool) / "5")
        await until(lambda: f"5/{NAME}" in spool.files.known)

    run(tmp_path / "spool", story, reported=["no_inotify"])


def test_scan_that_fails_is_told_and_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCAN_SECONDS", 0.0)

    async def story(spool: Spool, inbox: Inbox, disk: Counting) -> None:
        disk.fails = True
        await until(lambda: not disk.fails)
        scans = len(disk.read_whole)
        await until(lambda: len(disk.read_whole) > scans + 1)

    run(tmp_path / "spool", story, reported=["scan_failed"])


def test_scan_believes_only_what_is_still_there(tmp_path: Path) -> None:
    async def story(spool: Spool, inbox: Inbox, disk: Counting) -> None:
        await inbox._adopt([FoundFile(NAME, 0.0, rank=0, size=4)])
        assert not spool.files.known

    run(tmp_path / "spool", story)
