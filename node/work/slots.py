"""The task that runs now, in a few bytes of memory that a worker and the node share.

A worker writes its slot before each task; the node reads it when a deadline passes, and after a death, so exactly the task that
ran is blamed. The memory outlives the worker: it belongs to an anonymous file that both have mapped.

Behind the slots is the time until which the node's leases hold (f64, seconds of `lease_clock`), one byte, by which the node says
whether it wants to hear of each start, and then room for the stacks of the worker's threads (see `stack`).

    slot = u32 chunk (0: nothing runs) | u32 position in the chunk | f64 started | f64 deadline (0: none), monotonic seconds
"""

import mmap
import os
import struct
import time
from collections.abc import Iterator
from typing import NamedTuple

_SLOT = struct.Struct("<IIdd")
_UNTIL = struct.Struct("<d")
TIMER = 0xFFFFFFFF
"""The chunk number of a timer's call."""


ASYNC_GRACE = 5.0
"""Seconds that the event loop gets to end a task past its time, before the whole worker is killed."""


def lease_clock() -> float:
    """The clock of leases, in seconds: it goes on while the machine sleeps, and is the same in all processes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Running(NamedTuple):
    """The contents of a slot."""

    chunk: int
    position: int
    started: float
    deadline: float


class Slots:
    """The slots of one worker: slot 0 for its main thread, the others for async tasks."""

    def __init__(self, descriptor: int, count: int) -> None:
        self.descriptor = descriptor
        self._count = count
        self._memory = mmap.mmap(descriptor, self._size)
        self._until = _SLOT.size * count
        self._watched = self._until + _UNTIL.size

    @classmethod
    def create(cls, count: int) -> "Slots":
        """New slots, all empty; the descriptor can be handed to a child."""
        descriptor = os.memfd_create("spoolnode-slots", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, _SLOT.size * count + _UNTIL.size + 1)
        return cls(descriptor, count)

    @property
    def is_watched(self) -> bool:
        """Whether the node wants to hear of each start."""
        return self._memory[self._watched] != 0

    def watch(self, wanted: bool) -> None:
        """Says whether the node wants to."""
        self._memory[self._watched] = wanted

    @property
    def leases_hold(self) -> bool:
        """Whether tasks of a common store may start. A stopped node cannot say that its leases ran out; the clock does."""
        return lease_clock() < float(_UNTIL.unpack_from(self._memory, self._until)[0])

    def hold_leases(self, until: float) -> None:
        """Says until when they may."""
        _UNTIL.pack_into(self._memory, self._until, until)

    def begin(self, slot: int, chunk: int, position: int, started: float, deadline: float) -> None:
        """Notes that this task runs now."""
        _SLOT.pack_into(self._memory, slot * _SLOT.size, chunk, position, started, deadline)

    def end(self, slot: int) -> None:
        """Empties a slot."""
        _SLOT.pack_into(self._memory, slot * _SLOT.size, 0, 0, 0.0, 0.0)

    def main(self) -> Running | None:
        """The task in the main thread."""
        running = Running._make(_SLOT.unpack_from(self._memory))
        return running if running.chunk else None

    def limits(self) -> dict[tuple[int, int], float]:
        """All running tasks, as (chunk, position), with the seconds that they may run; below zero means no limit."""
        slots = enumerate(self._all())
        return {
            (item.chunk, item.position): item.deadline - item.started - (ASYNC_GRACE if slot else 0.0)
            for slot, item in slots
            if item.chunk
        }

    def running(self) -> list[Running]:
        """All running tasks."""
        return [item for item in self._all() if item.chunk]

    def _all(self) -> Iterator[Running]:
        return map(Running._make, _SLOT.iter_unpack(self._memory[: self._until]))

    def write_behind(self) -> None:
        """Has what is written to the descriptor go behind the slots."""
        os.lseek(self.descriptor, self._size, os.SEEK_SET)

    def behind(self, most: int) -> bytes:
        """The first bytes of what was written there."""
        return os.pread(self.descriptor, most, self._size)

    @property
    def _size(self) -> int:
        return _SLOT.size * self._count + _UNTIL.size + 1

    def detach(self) -> None:
        """In a forked child: its writes no longer reach the node."""
        self._memory.close()
        self._memory = mmap.mmap(-1, self._size)
        os.close(self.descriptor)

    def close(self) -> None:
        """Frees the memory."""
        self._memory.close()
        os.close(self.descriptor)
