"""A task of the main thread is cancelled by another thread, at any instruction of it: it ends, and no other one does."""

import socket
import sys
import threading
from collections import deque

from spoolnode.node.disk.layout import Layout
from spoolnode.node.outcome import DONE, Cancelled, Ending, Outcome
from spoolnode.node.work import messages
from spoolnode.node.work.cancelling import Cancelling, settled
from spoolnode.node.work.taskfile import Task
from spoolnode.node.work.worker import AsyncTasks, Chunk, Worker

TASKS = 20_000


def work(number: int) -> Outcome:
    """A task that takes some instructions, and may be cancelled at each. Some end only then."""
    total = 0
    while total < 30 or number % 500 == 499:
        total += 1
    return DONE


def test_only_the_task_that_was_cancelled_ends_before_its_time_wherever_the_exception_comes() -> None:
    cancelling, progress, is_over = Cancelling(), [0], threading.Event()
    wanted: set[int] = set()

    def cancel() -> None:
        while not is_over.is_set():
            number = progress[0]  # it runs now, has just ended, or is about to begin
            if number % 2 and number not in wanted:
                wanted.add(number)
                for _ in range(2):  # as two people may
                    cancelling.cancel((number, 0), "cancelled by a test")

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=cancel)
    thread.start()
    ended: dict[int, Outcome] = {}
    try:
        for number in range(TASKS):
            progress[0] = number
            task = Task(b"", b"", "x")
            outcome = cancelling.run((number, 0), task, lambda _, number=number: work(number))
            assert outcome is None or isinstance(outcome, Outcome)
            ended[number] = settled(task, outcome)
    finally:
        is_over.set()
        thread.join()
        sys.setswitchinterval(before)
    cancelled = {number for number, outcome in ended.items() if outcome.kind is Ending.CANCELLED}
    assert {outcome.kind for outcome in ended.values()} <= {Ending.DONE, Ending.CANCELLED}
    assert cancelled <= wanted
    assert all(number % 2 for number in cancelled)
    assert len(cancelled) >= TASKS // 500, "all that went on until then"


def test_a_task_that_was_cancelled_before_it_begins_does_not_begin() -> None:
    cancelling, task = Cancelling(), Task(b"", b"", "x")
    cancelling.cancel((1, 2), "cancelled by a test")
    ran: list[Task] = []
    outcome = cancelling.run((1, 2), task, lambda task: ran.append(task) or DONE)  # type: ignore[func-returns-value]  # `append` gives None
    assert (outcome, ran) == (None, [])
    assert settled(task, None) == Outcome(Ending.CANCELLED, "cancelled by a test")
    assert cancelling.wanted == {}


def test_a_cancel_that_crosses_the_end_of_its_task_is_forgotten_when_the_node_has_heard_of_the_end() -> None:
    worker = object.__new__(Worker)  # of a worker that has no task (any more)
    worker._chunks = deque()
    worker._async = AsyncTasks(Layout("/"), None, print, Cancelling(), 1, None)  # type: ignore[arg-type]  # nothing runs
    for number in (7, 8):
        worker._obey(["cancel", number, 0, "by a test"])
    worker._obey(["forget", 7, 0])
    assert worker._async.cancelling.wanted == {(8, 0): "by a test"}


def test_a_task_that_catches_the_exception_and_fails_is_cancelled_and_one_that_ends_well_is_done() -> None:
    for end, kind in ((Outcome(Ending.FAILED, "no"), Ending.CANCELLED), (DONE, Ending.DONE)):
        cancelling, task = Cancelling(), Task(b"", b"", "x")

        def handle(_: Task, end: Outcome = end, cancelling: Cancelling = cancelling) -> Outcome:
            try:
                cancelling.cancel((1, 0), "cancelled by a test")
                while True:
                    pass
            except Cancelled:
                return end

        outcome = cancelling.run((1, 0), task, handle)
        assert isinstance(outcome, Outcome)
        assert settled(task, outcome).kind is kind


def test_a_task_that_is_cancelled_before_it_begins_is_reported_as_the_node_reads_it() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        worker = object.__new__(Worker)  # of a worker that has one task to do, and no more
        worker._sock, worker._chunks = theirs, deque([Chunk(7, None, ["a"], frozenset())])
        worker._cancel(7, 0, "by a test")
        message = messages.receive(ours)
    assert message is not None
    (other,) = message[4]
    assert other == messages.unusual_end(0, Ending.CANCELLED.value, "by a test")
