"""The wall clock may be set while tasks wait.

A file's mtime says when it is due, as in uWSGI. After the clock was set back, files that wait for nothing, or for the end of a
pause, have an mtime in the future. Their ctime, which cannot be set, lies there too; this tells them from files whose time was
set on purpose. Only a task that waits for the time that it asked for (`at`) waits longer.
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from spoolnode.protocol import names
from spoolnode.protocol.errors import BadPacket, Refused
from spoolnode.protocol.packet import decode_variables

if TYPE_CHECKING:
    from spoolnode.node.spool.recovery import FoundFile
    from spoolnode.node.spool.store import Store

STEP_SECONDS = 1.0
"""Seconds by which the wall clock must move against the monotonic one to count as set."""


class Watch:
    """Notices that the wall clock was set."""

    def __init__(self, monotonic: float, wall: float) -> None:
        self.monotonic = monotonic
        self.wall = wall

    def step(self, monotonic: float, wall: float) -> float:
        """The seconds by which it was set since the last look: negative if it was set back, 0.0 if it was not set."""
        step = (wall - self.wall) - (monotonic - self.monotonic)
        self.monotonic, self.wall = monotonic, wall
        return step if abs(step) >= STEP_SECONDS else 0.0


def was_set_back(mtime: float, changed: float, now: float) -> bool:
    """Whether a file's mtime lies in the future because the clock was set back after it was written."""
    return mtime > now and changed > now + STEP_SECONDS


def correct_times(store: "Store", files: Iterable["FoundFile"], now: float) -> dict[str, float]:
    """Gives waiting files the times that they would have if the clock had always shown the present time. Returns these by ref.

    Blocks. A file that cannot be read or changed stays as it is.
    """
    left = [file for file in files if was_set_back(file.mtime, file.changed, now)]
    # All by the same amount, which keeps their order: the file that was written last was written just now.
    step = max((file.changed for file in left), default=now) - now
    corrected = {}
    for file in left:
        with suppress(OSError, BadPacket):
            if not _waits_for_its_time(store, file):
                path = store.layout.path(file.ref)
                store.disk.set_mtime(path, file.mtime - step)
                corrected[file.ref] = store.disk.stat(path).mtime
    return corrected


def _waits_for_its_time(store: "Store", file: "FoundFile") -> bool:
    """Whether the time of a file is the one that its task asked for."""
    at = dict(decode_variables(store.block_of(file.ref))).get(b"at", b"")
    with suppress(Refused):
        return abs(names.read_at(at) - file.mtime) < STEP_SECONDS
    return False
