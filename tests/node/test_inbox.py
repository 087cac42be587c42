"""Files that others put into the spool, on a real directory with real events."""

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from spoolnode.node.disk.disk import Entry, RealDisk
from spoolnode.node.disk.fakes import GuardedDisk
from spoolnode.node.disk.layout import Layout
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.spool.inbox import Inbox
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.retry import RetryPolicy
from spoolnode.node.spool.spool import Spool

FILE = b"\x11\0\0\0"


class Counting(GuardedDisk):
    """A guarded disk that counts how often a directory was read whole."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(RealDisk(), layout)
        self.read_whole: list[str] = []

    def entries(self, path: str) -> list[Entry]:
        self.read_whole.append(path)
        return super().entries(path)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


def run(root: Path, story: Callable[[Spool, Inbox, Counting], Awaitable[None]]) -> None:
    """A spool at `root` with an inbox that has started."""
    layout = Layout(str(root))
    root.mkdir()

    async def main() -> None:
        disk = Counting(layout)
        journal = Journal(disk, layout, "0123456789ab", sync=False, report=lambda *_, **__: None)
        storage = Storage(journal, RetryPolicy(), random.Random(1))
        spool = storage.spool
        reports: list[str] = []
        inbox = Inbox(spool, lambda action, **_: reports.append(action))
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
        assert not reports + disk.violations

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
        spool.landing()
        del inbox._read

    run(tmp_path / "spool", story)
