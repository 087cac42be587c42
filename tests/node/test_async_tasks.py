"""The async tasks of one worker, in their event loop."""

import asyncio
import os
import threading
from queue import SimpleQueue
from typing import Any

import pytest
from support import PATIENCE

from spoolnode.node.disk.layout import Layout
from spoolnode.node.outcome import DONE, Outcome
from spoolnode.node.work import forked, messages
from spoolnode.node.work.async_tasks import AsyncTasks
from spoolnode.node.work.cancelling import Cancelling
from spoolnode.node.work.slots import Slots, lease_clock
from spoolnode.node.work.taskfile import Task


class Plain(Task):
    """A task that lies nowhere."""

    attempt = 2  # type: ignore[assignment] # its first one says how long it waited, by its file
    was_left = False

    def finish(self) -> None:
        """Nothing is recorded."""

    def leave(self) -> None:
        self.was_left = True


def test_a_task_that_waited_for_a_place_past_its_lease_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forked, "_pid", os.getpid())  # this process is the worker
    said: SimpleQueue[list[Any]] = SimpleQueue()
    slots = Slots.create(2)
    slots.hold_leases(lease_clock() + 3600)
    tasks = AsyncTasks(Layout("/"), slots, said.put, Cancelling(), 1, None)  # type: ignore[arg-type] # nothing fails
    gate, started = threading.Event(), [threading.Event(), threading.Event()]

    async def run(number: int) -> Outcome:
        started[number].set()
        await asyncio.to_thread(gate.wait, PATIENCE)
        return DONE

    second = Plain(b"", b"", "second")
    tasks.start(run(0), Plain(b"", b"", "first"), 1, 0, 0.0, leased=True)
    assert started[0].wait(PATIENCE)
    waiting = threading.Thread(target=tasks.start, args=(run(1), second, 1, 1, 0.0), kwargs={"leased": True})
    waiting.start()
    slots.hold_leases(lease_clock() - 1)
    gate.set()
    waiting.join(PATIENCE)
    ended = [message for message in (said.get(timeout=PATIENCE) for _ in range(4)) if message[0] == "ended"]
    assert [end[:2] for message in ended for end in message[4]] == [[1, messages.LAPSED]]
    assert second.was_left
    assert not started[1].is_set()
    tasks.join()
    slots.close()
