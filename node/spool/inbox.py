"""Files that others put into the spool: noticed at once (inotify), and at the latest by a slow scan.

An event says more than a scan: IN_CLOSE_WRITE and IN_MOVED_TO mean that the file is whole. The scan is the safety net for
what inotify does not see (network file systems, an overflowing queue).
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import struct
import termios
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

from inotify_simple import INotify, flags

from spoolnode.node.background import spawn
from spoolnode.node.disk.layout import is_priority, is_spool_file
from spoolnode.node.log import rarely
from spoolnode.node.spool.files import SpoolFiles
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.recovery import FoundFile, shown, spool_files

SCAN_SECONDS = 30.0
"""Seconds between two scans, as in uWSGI."""
SCAN_REST = 20
"""The pause after a scan is at least this many times as long as the scan."""
REST_SECONDS = 0.01
"""The pause after events were read: a lone file is seen at once, and thousands cost a hundred reads a second."""
READ_SIZE = 64 << 10
"""Bytes of events that are read at once: about 700 events."""
LOOKED_AT_ONCE = 300
"""Files that are checked in one turn of the loop: one or two milliseconds."""
LARGEST_EVENT = 16 + 256
"""In bytes."""
# Plain numbers: each file that a worker removes is an event, and operators of enumerations would take most of the time.
_IS_WHOLE = int(flags.CLOSE_WRITE | flags.MOVED_TO)
_IS_GONE = int(flags.MOVED_FROM | flags.DELETE)
_IS_DIRECTORY, _OVERFLOW, _IGNORED = int(flags.ISDIR), int(flags.Q_OVERFLOW), int(flags.IGNORED)
_FILE_EVENTS = int(flags.ATTRIB) | _IS_WHOLE | _IS_GONE
_EVENTS = _FILE_EVENTS | int(flags.CREATE | flags.ONLYDIR | flags.EXCL_UNLINK)
"""The events to watch for; none about a file that is removed while a worker has it open."""
_HEAD = struct.Struct("iIII")
"""The part of an event before the name: watch, mask, cookie, size of the name (inotify(7))."""


class Inbox:
    """Watches the spool directory and its numeric directories."""

    def __init__(self, files: SpoolFiles, journal: Journal, report: Callable[..., None]) -> None:
        self._files = files
        self._journal = journal
        self._report = report
        self._rarely = rarely(report)
        self._loop = asyncio.get_running_loop()
        self._inotify: INotify | None = None
        self._directories: dict[int, str] = {}
        self._news: dict[str, bool] = {}
        """Refs that events named, and whether the file is certainly whole."""
        self._looks_again = False
        """Whether the next turn of the loop goes on with them."""
        self._unlisted: list[str] = []
        """New directories that are watched, but whose own directories are not yet."""
        self._is_listing = False
        self._scan_timer: asyncio.TimerHandle | None = None
        self._rest: asyncio.TimerHandle | None = None
        journal.when_placed(self._look)
        files.when_landing(self._catch_up)

    def watch(self) -> None:
        """Begins to watch, before recovery reads the directory, so that nothing is missed in between."""
        try:
            self._inotify = INotify(nonblocking=True)
            root = self._inotify.add_watch(self._journal.layout.root, _EVENTS)
        except OSError as error:
            self._report("no_inotify", reason=error.strerror, scan_every=SCAN_SECONDS)
            if self._inotify is not None:
                self._inotify.close()
            self._inotify = None
        else:
            self._directories = {root: ""}
            self._watch_below("")

    def warn_of_unscanned(self) -> None:
        """uWSGI takes any priority name and never runs one that is not a number; users who move over hear of it. Blocks."""
        layout = self._journal.layout
        ours = layout.own_names()
        for name in self._journal.reader.disk.directories(layout.root):
            if name not in ours and not is_priority(name):
                self._report("not_scanned", directory=name, reason="only directories named by digits hold priorities")

    def start(self) -> None:
        """From now on hears of files that came since `watch` or come later."""
        if self._inotify is None:
            self._later_scan(0.0)
        else:
            self._loop.add_reader(self._inotify.fd, self._readable)
            self._later_scan(SCAN_SECONDS)

    def stop(self) -> None:
        """Stops watching."""
        for timer in (self._scan_timer, self._rest):
            if timer is not None:
                timer.cancel()
        if self._inotify is not None:
            self._loop.remove_reader(self._inotify.fd)
            self._inotify.close()
            self._inotify = None
        self._news.clear()  # they are on disk, for the next start

    def _watch_below(self, directory: str) -> None:
        """Watches the numeric directories in a directory (its path ends with a slash), and those in them, as uWSGI nests them.

        Blocks: at the start.
        """
        pending = [directory]
        while pending:
            pending = [f"{name}/" for name in self._numeric_in(pending) if self._watch(name)]

    def _note_directory(self, directory: str) -> None:
        """Notes a new numeric directory, perhaps with others and with files in it."""
        if self._watch(directory):
            self._unlisted.append(f"{directory}/")
        if not self._is_listing:
            self._is_listing = True
            spawn(self._list_new())

    async def _list_new(self) -> None:
        """Watches the directories in new directories, then scans everything, once for all that came together."""
        try:
            while self._unlisted:
                above, self._unlisted = self._unlisted, []
                below = await self._journal.moves.run(partial(self._numeric_in, above))
                self._unlisted += [f"{name}/" for name in below if self._watch(name)]
        finally:
            self._is_listing = False
        if self._inotify is not None:
            self._later_scan(0.0)  # files that were put there before we watched

    def _numeric_in(self, directories: list[str]) -> list[str]:
        """The numeric directories in some directories (their paths end with a slash). Blocks."""
        found: list[str] = []
        for directory in directories:
            # Not readable, or nested too deep: recovery and the scan report it.
            with contextlib.suppress(OSError):
                below = self._journal.reader.disk.directories(self._journal.layout.path(directory))
                found += [f"{directory}{name}" for name in below if is_priority(name)]
        return found

    def _watch(self, directory: str) -> bool:
        """Watches a directory. Returns whether it is watched now."""
        if self._inotify is None:
            return False  # stopped meanwhile
        try:
            watch = self._inotify.add_watch(self._journal.layout.path(directory), _EVENTS)
        except OSError as error:
            if error.errno != errno.ENOENT:
                self._rarely("no_inotify", directory=shown(directory), reason=error.strerror, scan_every=SCAN_SECONDS)
            return False
        self._directories[watch] = f"{directory}/"
        return True

    def _readable(self) -> None:
        """Reads the events, then pauses for a while: each removal by a worker is an event, too."""
        assert self._inotify is not None  # noqa: S101  # for the type checker
        self._loop.remove_reader(self._inotify.fd)
        self._read_on()

    def _read_on(self) -> None:
        assert self._inotify is not None  # noqa: S101  # for the type checker
        if size := self._read():
            is_all = size < READ_SIZE - LARGEST_EVENT
            self._rest = self._loop.call_later(REST_SECONDS if is_all else 0.0, self._read_on)
        else:
            self._loop.add_reader(self._inotify.fd, self._readable)
        self._look()

    def _catch_up(self) -> None:
        """Reads all events, while those of workers can still be told from those of others."""
        if self._inotify is not None:
            # Only those that are there now: others may change files faster than we read the events.
            (left,) = struct.unpack("i", fcntl.ioctl(self._inotify.fd, termios.FIONREAD, bytes(4)))
            while left > 0 and (size := self._read()):
                left -= size
        if self._news:
            self._loop.call_soon(self._look)

    def _read(self) -> int:
        """Reads events. Returns the number of bytes read."""
        assert self._inotify is not None  # noqa: S101  # for the type checker
        try:
            data = os.read(self._inotify.fd, READ_SIZE)
        except BlockingIOError:
            return 0
        for watch, mask, name in _events(data):
            if mask & _OVERFLOW:
                self._later_scan(0.0)
            elif mask & _IGNORED:
                self._directories.pop(watch, None)
            elif (directory := self._directories.get(watch)) is not None:
                self._on_event(directory + name, name, mask)
        return len(data)

    def _on_event(self, ref: str, name: str, mask: int) -> None:
        if mask & _IS_DIRECTORY:
            if is_priority(name) and mask & (flags.CREATE | flags.MOVED_TO):
                self._note_directory(ref)
            return
        files = self._files
        if ref in files.in_flight or (mask & _IS_GONE and ref not in files.known and ref not in self._news):
            return  # the work of a worker
        if is_spool_file(name) and mask & _FILE_EVENTS:
            self._news[ref] = self._news.get(ref, False) or bool(mask & _IS_WHOLE)

    def _look(self) -> None:
        """Tells the spool of new files, unless it is giving names itself just now: those would seem new."""
        if not self._news or self._journal.is_placing or self._looks_again:
            return
        now = time.time()
        for ref in [*islice(self._news, LOOKED_AT_ONCE)]:
            sure = self._news.pop(ref)
            try:
                # A stat of a name from a recent event: it is in memory.
                found = os.lstat(self._journal.layout.path(ref))
            except (FileNotFoundError, NotADirectoryError):
                self._files.forget(ref)
            except OSError:
                continue  # not readable, or failing: the scan reports it, and the move that has just ended must not hear of it
            else:
                self._files.notice(ref, found.st_mtime, now, sure=sure)
        if self._news:
            self._looks_again = True
            self._loop.call_soon(self._look_again)

    def _look_again(self) -> None:
        """Goes on with the rest, in another turn of the loop."""
        self._looks_again = False
        self._look()

    def _later_scan(self, delay: float) -> None:
        if self._scan_timer is not None:
            self._scan_timer.cancel()
        self._scan_timer = self._loop.call_later(delay, lambda: spawn(self._scan()))

    async def _scan(self) -> None:
        began = self._loop.time()
        try:
            found: list[FoundFile] = await self._journal.moves.run(lambda: list(spool_files(self._journal.reader)))
        except OSError as error:
            self._report("scan_failed", reason=str(error))
        else:
            await self._adopt(found)
        # So scanning takes a small part of the time, however large the directory is.
        self._later_scan(max(SCAN_SECONDS, SCAN_REST * (self._loop.time() - began)))

    async def _news_among(self, found: list[FoundFile]) -> list[FoundFile]:
        """The files that the spool does not know yet, or not with their present due time."""
        now, news = time.time(), []
        for index, file in enumerate(found):
            if self._files.known.get(file.ref) != (file.mtime if file.mtime > now else 0.0):
                news.append(file)
            if index % LOOKED_AT_ONCE == LOOKED_AT_ONCE - 1:
                await asyncio.sleep(0)
        return news

    async def _adopt(self, found: list[FoundFile]) -> None:
        news = await self._news_among(found)
        now = time.time()
        for index, file in enumerate(sorted(news, key=lambda file: file.order)):  # a directory lists its files in no order
            # Not sure even of one that an earlier scan has seen: who writes it may not be done yet.
            if file.ref in self._files.known:
                self._files.notice(file.ref, file.mtime, now, sure=False)
            else:
                with contextlib.suppress(OSError):  # it is gone, or not readable
                    # The listing is older than tasks that ended since; only files that are there now count.
                    mtime = os.lstat(self._journal.layout.path(file.ref)).st_mtime
                    self._files.notice(file.ref, mtime, now, sure=False)
            if index % LOOKED_AT_ONCE == LOOKED_AT_ONCE - 1:
                await asyncio.sleep(0)


def _events(data: bytes) -> Iterator[tuple[int, int, str]]:
    """The events in `data`, as (watch, mask, name). Twice as fast as the library's own parser, which matters for thousands."""
    position = 0
    while position < len(data):
        watch, mask, _, size = _HEAD.unpack_from(data, position)
        position += _HEAD.size + size
        yield watch, mask, data[position - size : position].rstrip(b"\0").decode("utf-8", "surrogateescape")
