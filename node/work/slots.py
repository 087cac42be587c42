"""The task that runs now, in a few bytes of memory that a worker and the node share.

A worker writes its slot before each task; the node reads it when a deadline passes, and after a death, so exactly the task that
ran is blamed. The memory outlives the worker: it belongs to an anonymous file that both have mapped.

    slot = u32 chunk (0: nothing runs) | u32 position in the chunk | f64 started | f64 deadline (0: none), monotonic seconds
"""

import mmap
import os
import struct
from typing import NamedTuple

_SLOT = struct.Struct("<IIdd")
TIMER = 0xFFFFFFFF
"""The chunk number of a timer's call."""


ASYNC_GRACE = 5.0
"""Seconds that the event loop gets to end a task past its time, before the whole worker is killed."""


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
        self._memory = mmap.mmap(descriptor, _SLOT.size * count)

    @classmethod
    def create(cls, count: int) -> "Slots":
        """New slots, all empty; the descriptor can be handed to a child."""
        descriptor = os.memfd_create("spoolnode-slots", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, _SLOT.size * count)
        return cls(descriptor, count)

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
        slots = enumerate(map(Running._make, _SLOT.iter_unpack(self._memory)))
        return {
            (item.chunk, item.position): item.deadline - item.started - (ASYNC_GRACE if slot else 0.0)
            for slot, item in slots
            if item.chunk
        }

    def running(self) -> list[Running]:
        """All running tasks."""
        return [item for item in map(Running._make, _SLOT.iter_unpack(self._memory)) if item.chunk]

    def detach(self) -> None:
        """In a forked child: its writes no longer reach the node."""
        self._memory.close()
        self._memory = mmap.mmap(-1, _SLOT.size * self._count)
        os.close(self.descriptor)

    def close(self) -> None:
        """Frees the memory."""
        self._memory.close()
        os.close(self.descriptor)
