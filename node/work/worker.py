"""The worker process: takes chunks of tasks from the node, runs them, records their ends.

The main thread runs one task after another. A handler that returns an awaitable is handed to an event loop in a second thread,
and the main thread goes on. A third thread listens to the node, so that tasks that have not started can be taken back while one
runs for hours.

It records an end itself, before the next task starts, and in a place that survives the death of every process: in the task's
own header byte through a shared mapping of its batch, or by removing its spool file.
"""

import contextlib
import ctypes
import os
import signal
import socket
import sys
import time

# From before an application patches them (gevent): the worker must not depend on the code that runs in it.
from _thread import start_new_thread
from collections import deque
from collections.abc import Awaitable, Callable
from queue import Empty, SimpleQueue
from typing import Any

from spoolnode.node.outcome import DONE, App, AskedCall, Ending, Outcome, Timer, read_timer
from spoolnode.node.spool.retry import RetryPolicy
from spoolnode.node.story.notes import UNKNOWN_SECONDS
from spoolnode.node.work import current, messages, output, stack
from spoolnode.node.work.async_tasks import AsyncTasks
from spoolnode.node.work.cancelling import Cancelling, settled
from spoolnode.node.work.forked import end_if_forked, expects_children, keep_children_out, reap_children
from spoolnode.node.work.output import capture_output
from spoolnode.node.work.progress import ProgressTeller
from spoolnode.node.work.raised import failure, judged, why_not_loaded
from spoolnode.node.work.recording import recorded
from spoolnode.node.work.slots import TIMER, Slots
from spoolnode.node.work.surroundings import Surroundings, watch
from spoolnode.node.work.taskfile import BatchReader, HeldReader, NotNow, SpoolFileReader, Task, close_held, close_removed
from spoolnode.protocol import names

REPORT_SECONDS = 0.005
"""Seconds that results may be held back, to be reported together."""
REAP_SECONDS = 0.2
"""Seconds between two checks of an idle worker whether a child that a task has just forked came back."""
_FOR_THE_NODE = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that may reach the whole group (a terminal, `systemctl`), but on which only the node acts."""


class Chunk:
    """Tasks that the node sent together."""

    def __init__(self, number: int, batch: int | None, refs: Any, held: frozenset[bytes], *, leased: bool = False) -> None:
        self.number = number
        self.batch = batch
        """The batch that they are in; None if each is a spool file of its own, or of a common store."""
        self.refs = refs
        self.held = held
        """The functions whose tasks are to be given back."""
        self.leased = leased
        """Whether the tasks may start only while the leases of the node hold."""
        self.todo = deque(range(len(refs)))
        """Positions not started; taken from the left by the main thread, from the right when the node wants them back."""


class Ends:
    """The ends of tasks of which the node has not been told."""

    __slots__ = ("lengths", "others", "since", "waited")

    def __init__(self, since: float) -> None:
        self.lengths: dict[int, float] = {}
        """The positions of tasks that ended well, and how long each ran."""
        self.others: list[list[Any]] = []
        self.waited = UNKNOWN_SECONDS
        """How long the first of them was ready before it started."""
        self.since = since
        """When the last report was made, in monotonic seconds."""

    def message(self, chunk: int, now: float) -> list[Any]:
        """The report."""
        positions, lengths = messages.pack_positions(self.lengths), messages.pack_lengths(self.lengths.values())
        return ["ended", chunk, positions, lengths, self.others, now - self.since, self.waited]


class Worker:
    """One worker process, once its application is loaded."""

    def __init__(self, sock: socket.socket, slots: Slots, facts: dict[str, Any], app: App) -> None:
        self._sock = sock
        self._slots = slots
        self._app = app
        self._timeout: float = facts["timeout"]
        self._batches = BatchReader(facts["root"], facts["node_id"])
        policy = RetryPolicy(facts["settings"]["max_attempts"])
        self._files = SpoolFileReader(facts["root"], policy)
        self._held = HeldReader(self._batches, self._files, policy)
        self._work: SimpleQueue[Chunk | Timer | AskedCall | None] = SimpleQueue()
        self._aside: deque[Chunk | None] = deque()
        """Messages that came while a task waited for the call of a timer."""
        self._chunks: deque[Chunk] = deque()
        self._stopping = False
        self._ends = Ends(time.monotonic())
        self._surroundings = Surroundings()
        self._async = AsyncTasks(self._batches.layout, slots, self.send, Cancelling(), facts["concurrency"], app.judge)
        current.progress.say = ProgressTeller(self.send).say
        app.inbox.put, app.inbox.call_next, app.inbox.wait_for = self._work.put, self._call_next, self._async.wait_for
        os.register_at_fork(after_in_child=self._async.stop_in_child)

    def __repr__(self) -> str:
        state = "stopping" if self._stopping else "working"
        to_do = sum(len(chunk.todo) for chunk in list(self._chunks))
        return f"<worker {os.getpid()}, {state}: {to_do} tasks to do>"

    def run(self) -> None:
        """Works until the node says stop or is gone."""
        self.send(["ready", os.getpid(), [list(timer) for timer in self._app.timers], self._app.warning, self._app.limits])
        start_new_thread(self._listen, ())
        while (item := self._next()) is not None:
            if isinstance(item, Chunk):
                self._run_chunk(item)
            else:
                self._call(item)
            reap_children()
        self._async.join()
        self._app.end()

    def _next(self) -> Chunk | Timer | AskedCall | None:
        """Waits for the next thing to do."""
        if self._aside:
            return self._aside.popleft()
        while expects_children():
            try:
                return self._work.get(timeout=REAP_SECONDS)
            except Empty:
                reap_children()
        return self._work.get()

    def send(self, message: list[Any]) -> None:
        """Sends a message to the node. A packet is sent whole, so threads need no lock."""
        messages.send_message(self._sock, message)

    # -- the node's wishes, in the listening thread --

    def _listen(self) -> None:
        while (message := messages.receive(self._sock)) is not None:
            self._obey(message)
        os._exit(0)  # the node is gone; the next one runs our tasks again

    def _obey(self, message: list[Any]) -> None:
        kind = message[0]
        if kind == "run":
            self._enqueue(message)
        elif kind == "timer":
            self._work.put(read_timer(message[1]))
        elif kind == "cancel":
            self._cancel(*message[1:])
        elif kind == "forget":
            self._async.cancelling.forget((message[1], message[2]))
        else:
            self._give_back()
            if kind == "stop":
                self._stopping = True
                self._work.put(None)

    def _enqueue(self, message: list[Any]) -> None:
        _, number, batch, refs, held, leased = message
        functions = frozenset(name.encode("utf-8", "surrogateescape") for name in held)
        chunk = Chunk(number, batch, refs if batch is None else messages.unpack_offsets(refs), functions, leased=leased)
        self._chunks.append(chunk)
        self._work.put(chunk)
        if self._stopping:
            self._give_back()

    def _cancel(self, number: int, position: int, reason: str) -> None:
        """Ends a task before its time: before it starts, or while it runs. If it has just ended, it keeps its end."""
        for chunk in [chunk for chunk in list(self._chunks) if chunk.number == number]:
            with contextlib.suppress(ValueError):
                chunk.todo.remove(position)
                other = messages.unusual_end(position, Ending.CANCELLED.value, reason)
                self.send(["ended", number, b"", b"", [other], 0.0, UNKNOWN_SECONDS])
                return
        self._async.cancelling.cancel((number, position), reason)
        self._async.cancel((number, position))

    def _give_back(self) -> None:
        for chunk in list(self._chunks):
            positions = []
            while True:
                try:
                    positions.append(chunk.todo.pop())
                except IndexError:
                    break
            if positions:
                self.send(["returned", chunk.number, messages.pack_positions(reversed(positions))])

    # -- running, in the main thread --

    def _run_chunk(self, chunk: Chunk) -> None:
        now = self._ends.since = time.monotonic()
        self._restore()
        # Only now, while no task runs that may have left this process without descriptors.
        read = self._reader(chunk)
        while True:
            try:
                position = chunk.todo.popleft()
            except IndexError:
                break
            now = self._run_task(chunk, read, position, now)
            self._restore()
            if self._ends.others or now - self._ends.since > REPORT_SECONDS:
                self._report(chunk, now)
        self._slots.end(0)
        self._report(chunk, now)
        self._chunks.remove(chunk)

    def _reader(self, chunk: Chunk) -> Callable[[Any], Task]:
        """A function that reads each of these tasks; it raises NotNow."""
        if chunk.leased:
            return self._held.reader(chunk.held)
        return self._files.reader(chunk.held) if chunk.batch is None else self._batches.reader(chunk.batch, chunk.held)

    def _restore(self) -> None:
        """Undoes the changes of a task. If that is impossible, this process runs no more tasks, and the node replaces it."""
        try:
            self._surroundings.restore()
        except (OSError, ValueError) as problem:
            if not self._stopping:
                self._stopping = True
                self.send(["spoilt", str(problem)])
            self._give_back()

    def _run_task(self, chunk: Chunk, read: Callable[[Any], Task], position: int, started: float) -> float:
        """Runs one task, starting now. Returns the time when it ended."""
        if chunk.leased and not self._slots.leases_hold:
            self._ends.others.append(messages.unusual_end(position, messages.LAPSED, ""))
            return time.monotonic()
        limit = self._timeout
        # Before it is read: a task with a body that is too large for this process is to blame.
        self._slots.begin(0, chunk.number, position, started, started + limit if limit else 0.0)
        try:
            task = read(chunk.refs[position])
        except NotNow as reason:
            self._ends.others.append(messages.unusual_end(position, reason.verdict, reason.detail))
            return time.monotonic()
        if names.TIMEOUT in task.block and task.timeout:
            limit = task.timeout
            self._slots.begin(0, chunk.number, position, started, started + limit)
        task.begin()
        if not self._ends.lengths:
            self._ends.waited = task.waited
        task.deadline = started + limit if limit else 0.0
        current.running.set(task)
        if self._slots.is_watched:
            self.send(["started", chunk.number, position])
        outcome = self._async.cancelling.run((chunk.number, position), task, self._handle)
        output.flush_task()
        ended = time.monotonic()
        if outcome is DONE:
            task.finish()
            self._ends.lengths[position] = ended - started
        elif outcome is None or isinstance(outcome, Outcome):
            seconds = ended - started
            self._ends.others.append(recorded(self._batches.layout, task, position, settled(task, outcome), seconds))
        else:
            # Until there is a place for it, this thread waits and is stalled; the task's time has not begun.
            self._slots.begin(0, chunk.number, position, started, 0.0)
            self._report(chunk, time.monotonic())
            self._async.start(outcome, task, chunk.number, position, limit, leased=chunk.leased)
            self._slots.end(0)
        return time.monotonic()

    def _handle(self, task: Task) -> Outcome | Awaitable[Outcome]:
        try:
            outcome = self._app.handler(task)
        except BaseException as error:  # noqa: BLE001  # SystemExit and KeyboardInterrupt of a task are its failures too
            end_if_forked(error)
            outcome = judged(self._app.judge, task, error)
        end_if_forked()
        return outcome

    def _report(self, chunk: Chunk, now: float) -> None:
        if self._ends.lengths or self._ends.others:
            self.send(self._ends.message(chunk.number, now))
            close_removed()
        self._ends = Ends(now)

    def _call(self, what: Timer | AskedCall) -> None:
        """Makes a call of a timer, or one that the application asked for."""
        started = time.monotonic()
        self._restore()
        current.running.set(None)
        self._slots.begin(0, TIMER, 0, started, started + self._timeout if self._timeout else 0.0)
        error = self._try(what)
        self._slots.end(0)
        self._tell_of_call(what, error)

    def _call_next(self) -> None:
        """Makes the next such call on behalf of the task that runs: its slot, and so its time, stays in force."""
        while isinstance(item := self._work.get(), Chunk | None):
            self._aside.append(item)
        self._tell_of_call(item, self._try(item))

    def _try(self, what: Timer | AskedCall) -> str | None:
        """Makes a call. Returns why it failed."""
        try:
            result = self._app.call_timer(what) if isinstance(what, Timer) else what.function()
            if isinstance(result, Awaitable):
                self._async.wait_for(result)
        except BaseException as problem:  # noqa: BLE001  # reported to the node, which logs it
            end_if_forked(problem)
            return failure(problem).reason
        end_if_forked()
        return None

    def _tell_of_call(self, what: Timer | AskedCall, error: str | None) -> None:
        self.send(["timer", list(what) if isinstance(what, Timer) else what.name, error])


def run_worker(load: Callable[[dict[str, Any]], App]) -> None:
    """The life of a worker process; its settings come in the first packet on its socket.

    Args:
        load: loads the application. Its exceptions are reported to the node with their tracebacks, except for its own
        `BadConfig`, which is a sentence.
    """
    sock = socket.socket(fileno=int(sys.argv.pop()))
    settings = messages.receive(sock)
    if settings is None:
        return
    facts: dict[str, Any] = settings[0]
    for descriptor in (sock.fileno(), facts["slots"]):
        os.set_inheritable(descriptor, False)  # we had to inherit it, but programs that tasks start must not
    for number in _FOR_THE_NODE:
        signal.signal(number, _leave_it_to_the_node)
    _die_with_the_node(facts["node_pid"])
    slots = Slots(facts["slots"], facts["concurrency"] + 1)
    stack.write_at_signal(slots)
    capture_output(lambda task, stream, text: messages.send_message(sock, ["print", task, stream, text]))
    current.records.say = lambda *record: messages.send_message(sock, ["log", current.running_file(), *record])
    keep_children_out(lambda: _let_go(sock, slots))
    watch()
    try:
        app = load(facts)
        end_if_forked()
    except BaseException as error:  # noqa: BLE001  # the node ends, or keeps the old workers, with this text
        end_if_forked(error)
        messages.send_message(sock, ["broken", *why_not_loaded(error)])
        return
    Worker(sock, slots, facts, app).run()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads of the application must not keep a stopped worker alive


def _leave_it_to_the_node(number: int, frame: object) -> None:
    """Does nothing. It is a handler because programs that tasks start would inherit SIG_IGN."""


def _let_go(sock: socket.socket, slots: Slots) -> None:
    """In a child that a task forked: gives up all that belongs to the worker."""
    sock.close()
    stack.forget()
    slots.detach()
    close_held()
    output.print_to_descriptors()
    current.records.say = None
    for number in _FOR_THE_NODE:
        if signal.getsignal(number) is _leave_it_to_the_node:
            signal.signal(number, signal.SIG_DFL)


def _die_with_the_node(node_pid: int) -> None:
    """Asks the kernel for SIGKILL when the node dies, so that a dead node's task does not run beside the next node."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != node_pid:
        os._exit(0)  # it died before we asked
