"""The worker process: takes chunks of tasks from the node, runs them, records their ends.

The main thread runs one task after another. A handler that returns an awaitable is handed to an event loop in a second thread,
and the main thread goes on. A third thread listens to the node, so that tasks that have not started can be taken back while one
runs for hours.

It records an end itself, before the next task starts, and in a place that survives the death of every process: in the task's
own header byte through a shared mapping of its batch, or by removing its spool file.
"""

import ctypes
import importlib
import os
import signal
import socket
import sys
import time
import traceback

# From before an application patches them (gevent): the worker must not depend on the code that runs in it.
from _thread import start_new_thread
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any

from spoolnode.node.config import BadConfig
from spoolnode.node.outcome import DONE, App, AskedCall, Ending, Outcome, Timer, read_timer
from spoolnode.node.work import current, messages, output
from spoolnode.node.work.forked import end_if_forked, expects_children, keep_children_out, reap_children
from spoolnode.node.work.output import capture_output
from spoolnode.node.work.slots import ASYNC_GRACE, TIMER, Slots
from spoolnode.node.work.surroundings import Surroundings, watch
from spoolnode.node.work.taskfile import BatchReader, NotNow, SpoolFileReader, Task, close_held, close_removed
from spoolnode.protocol import names
from spoolnode.protocol.errors import BadPacket
from spoolnode.protocol.pickles import LEGACY_FUNCTION

if TYPE_CHECKING:
    from concurrent.futures import Future

REPORT_SECONDS = 0.005
"""Seconds that results may be held back, to be reported together."""
_NOT_OF_APPLICATION = (f"{Path(__file__).parents[2]}{os.sep}", importlib.__file__, "<frozen importlib")
"""Beginnings of the names of files whose frames say nothing about the application."""
REAP_SECONDS = 0.2
"""Seconds between two checks of an idle worker whether a child that a task has just forked came back."""
_FOR_THE_NODE = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that may reach the whole group (a terminal, `systemctl`), but on which only the node acts."""


class Chunk:
    """Tasks that the node sent together."""

    def __init__(self, number: int, batch: int | None, refs: Any) -> None:
        self.number = number
        self.batch = batch
        """The batch that they are in; None if each is a spool file of its own."""
        self.refs = refs
        self.todo = deque(range(len(refs)))
        """Positions not started; taken from the left by the main thread, from the right when the node wants them back."""


class Worker:
    """One worker process, once its application is loaded."""

    def __init__(
        self, sock: socket.socket, slots: Slots, root: str, node_id: str, app: App, timeout: float, concurrency: int
    ) -> None:
        self._sock = sock
        self._slots = slots
        self._app = app
        self._timeout = timeout
        self._batches = BatchReader(root, node_id)
        self._files = SpoolFileReader(root)
        self._work: SimpleQueue[Chunk | Timer | AskedCall | None] = SimpleQueue()
        self._aside: deque[Chunk | None] = deque()
        """Messages that came while a task waited for the call of a timer."""
        self._chunks: deque[Chunk] = deque()
        self._stopping = False
        self._ended: list[int] = []
        self._others: list[list[Any]] = []
        self._since = time.monotonic()
        self._surroundings = Surroundings()
        self._async = AsyncTasks(slots, self.send, concurrency)
        app.inbox.put, app.inbox.call_next, app.inbox.wait_for = self._work.put, self._call_next, self._async.wait_for
        os.register_at_fork(after_in_child=self._async.stop_in_child)

    def __repr__(self) -> str:
        state = "stopping" if self._stopping else "working"
        to_do = sum(len(chunk.todo) for chunk in list(self._chunks))
        return f"<worker {os.getpid()}, {state}: {to_do} tasks to do>"

    def run(self) -> None:
        """Works until the node says stop or is gone."""
        self.send(["ready", os.getpid(), [list(timer) for timer in self._app.timers], self._app.warning])
        start_new_thread(self._listen, ())
        while (item := self._next()) is not None:
            if isinstance(item, Chunk):
                self._run_chunk(item)
            else:
                self._call(item)
            reap_children()
        self._async.join()

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
            kind = message[0]
            if kind == "run":
                self._enqueue(message)
            elif kind == "timer":
                self._work.put(read_timer(message[1]))
            else:
                self._give_back()
                if kind == "stop":
                    self._stopping = True
                    self._work.put(None)
        os._exit(0)  # the node is gone; the next one runs our tasks again

    def _enqueue(self, message: list[Any]) -> None:
        _, number, batch, refs = message
        chunk = Chunk(number, batch, refs if batch is None else messages.unpack_offsets(refs))
        self._chunks.append(chunk)
        self._work.put(chunk)
        if self._stopping:
            self._give_back()

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
        now = self._since = time.monotonic()
        self._restore()
        # Only now, while no task runs that may have left this process without descriptors.
        read = self._files.read if chunk.batch is None else self._batches.reader(chunk.batch)
        while True:
            try:
                position = chunk.todo.popleft()
            except IndexError:
                break
            now = self._run_task(chunk, read, position, now)
            self._restore()
            if self._others or now - self._since > REPORT_SECONDS:
                self._report(chunk, now)
        self._slots.end(0)
        self._report(chunk, now)
        self._chunks.remove(chunk)

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
        limit = self._timeout
        # Before it is read: a task with a body that is too large for this process is to blame.
        self._slots.begin(0, chunk.number, position, started, started + limit if limit else 0.0)
        try:
            task = read(chunk.refs[position])
        except NotNow as reason:
            self._others.append([position, reason.verdict, reason.detail, 0.0, ""])
            return time.monotonic()
        if names.TIMEOUT in task.block and task.timeout:
            limit = task.timeout
            self._slots.begin(0, chunk.number, position, started, started + limit)
        task.begin()
        task.deadline = started + limit if limit else 0.0
        current.running.set(task)
        try:
            outcome = self._app.handler(task)
        except BaseException as error:  # noqa: BLE001  # SystemExit and KeyboardInterrupt of a task are its failures too
            end_if_forked(error)
            outcome = failure(error)
        end_if_forked()
        output.flush_task()
        if outcome is DONE:
            task.finish()
            self._ended.append(position)
        elif isinstance(outcome, Outcome):
            self._keep(task, position, outcome)
        else:
            # Until there is a place for it, this thread waits and is stalled; the task's time has not begun.
            self._slots.begin(0, chunk.number, position, started, 0.0)
            self._report(chunk, time.monotonic())
            self._async.start(outcome, task, chunk.number, position, limit)
            self._slots.end(0)
        return time.monotonic()

    def _keep(self, task: Task, position: int, outcome: Outcome) -> None:
        """Notes a task that did not end well, and stays on disk."""
        task.leave()
        self._others.append(describe(task, position, outcome))

    def _report(self, chunk: Chunk, now: float) -> None:
        if self._ended or self._others:
            self.send(["ended", chunk.number, messages.pack_positions(self._ended), self._others, now - self._since])
            self._ended, self._others = [], []
            close_removed()
        self._since = now

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


class AsyncTasks:
    """The async tasks of a worker, in an event loop of their own. The first one starts the thread and loads asyncio."""

    def __init__(self, slots: Slots, send: Callable[[list[Any]], None], concurrency: int) -> None:
        """`send`: says something to the node, from any thread."""
        self._slots = slots
        self._send = send
        self._concurrency = concurrency
        self._free: SimpleQueue[int] = SimpleQueue()
        """The slots in which nothing runs."""
        for slot in range(1, concurrency + 1):
            self._free.put(slot)
        self._loop: Any = None

    def start(self, awaitable: Awaitable[Outcome], task: Task, chunk: int, position: int, limit: float) -> None:
        """Starts one. Returns at once if there is room for it, else when there is."""
        slot = self._free.get()
        started = time.monotonic()
        # Here, not in the loop's thread: from now on, without a gap, the task counts as running.
        self._slots.begin(slot, chunk, position, started, started + limit + ASYNC_GRACE if limit else 0.0)
        self._submit(self._run(awaitable, task, chunk, position, limit, slot)).add_done_callback(_must_not_fail)

    def wait_for(self, awaitable: Awaitable[Any]) -> None:
        """Runs something in the same loop, and returns, or raises, when it ends."""
        self._submit(_as_coroutine(awaitable)).result()

    def _submit(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        import asyncio  # noqa: PLC0415  # 7 MB that a worker without async tasks does not need

        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            start_new_thread(self._run_loop, ())
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _run_loop(self) -> None:
        while True:
            try:
                self._loop.run_forever()
            except BaseException as error:  # noqa: BLE001  # SystemExit in something that a task has started; the others go on
                end_if_forked(error)
                traceback.print_exc()
            end_if_forked()

    def stop_in_child(self) -> None:
        """In a child that one of these tasks forked: stops all others, even in this turn of the loop."""
        if self._loop is not None:
            self._loop.stop()
            self._loop.call_soon(end_if_forked)
            if (ready := getattr(self._loop, "_ready", None)) is not None:  # asyncio's own loop; uvloop's has no such queue
                ready.rotate(1)

    def join(self) -> None:
        """Returns when all have ended."""
        for _ in range(self._concurrency):
            self._free.get()

    async def _run(self, awaitable: Awaitable[Outcome], task: Task, chunk: int, position: int, limit: float, slot: int) -> None:
        import asyncio  # noqa: PLC0415  # see above

        started = time.monotonic()
        self._tell()
        task.deadline = started + limit if limit else 0.0
        current.running.set(task)
        try:
            # Not `wait_for`: before Python 3.12 it makes a task of its own, and a SystemExit in it ends the loop.
            async with asyncio.timeout(limit or None):
                outcome = await awaitable
        except TimeoutError as error:
            late = limit and time.monotonic() - started >= limit
            outcome = Outcome(Ending.FAILED, f"timed out after {limit:g} s") if late else failure(error)
        except BaseException as error:  # noqa: BLE001  # see Worker._run_task
            end_if_forked(error)
            outcome = failure(error)
        end_if_forked()
        output.flush_task()
        ended: list[int] = []
        others: list[list[Any]] = []
        if outcome.kind is Ending.DONE:
            task.finish()
            close_removed()
            ended.append(position)
        else:
            task.leave()
            others.append(describe(task, position, outcome))
        self._slots.end(slot)
        self._send(["ended", chunk, messages.pack_positions(ended), others, 0.0])
        self._free.put(slot)
        self._tell(time.monotonic() - started)

    def _tell(self, seconds: float = 0.0) -> None:
        """Reports how many run, and the time of one that has just ended."""
        self._send(["async", self._concurrency - self._free.qsize(), seconds])


def _must_not_fail(run: "Future[None]") -> None:
    """Ends the worker if the end of a task could not be recorded (its disk failed): the node then settles it."""
    problem = run.exception()
    if problem is not None:
        traceback.print_exception(problem)
        sys.stderr.flush()
        os._exit(1)


async def _as_coroutine(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def failure(error: BaseException) -> Outcome:
    """The outcome of an exception: its message, then the traceback without it. Never raises, whatever the exception is."""
    return Outcome(Ending.FAILED, _shown(error, _reason))


def _shown(error: BaseException, show: Callable[[BaseException], str]) -> str:
    """The text that `show` makes of an exception, or only its type if its own code or a lack of memory prevents that."""
    try:
        return show(error)
    except BaseException as problem:  # noqa: BLE001  # see above
        return f"{_type_name(error)} (it cannot be shown: {_type_name(problem)})"


def _type_name(error: BaseException) -> str:
    """The name of its class, past a metaclass that may raise."""
    return str(type.__dict__["__name__"].__get__(type(error)))


def _reason(error: BaseException) -> str:
    last = traceback.format_exception_only(error)
    lines = traceback.format_exception(type(error), error, _frames_of_application(error))
    if lines[-len(last) :] == last:
        del lines[-len(last) :]
    # Both may be cut: the message at its end, the traceback at its beginning.
    summary = "".join(last).strip()[: messages.MAX_TEXT // 2]
    trace = "".join(lines).rstrip()[-(messages.MAX_TEXT // 2 - 1) :]
    return f"{summary}\n{trace}" if trace else summary


def _whole(error: BaseException) -> str:
    return "".join(traceback.format_exception(type(error), error, _frames_of_application(error)))


def _frames_of_application(error: BaseException) -> TracebackType | None:
    """The traceback without leading frames of ours or of the import system."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_NOT_OF_APPLICATION):
        trace = trace.tb_next
    return trace


def describe(task: Task, position: int, outcome: Outcome) -> list[Any]:
    """An outcome in the form for the node."""
    return [position, outcome.kind.value, outcome.reason[-messages.MAX_TEXT :], outcome.delay, _function_of(task)]


def _function_of(task: Task) -> str:
    """The name of the function that a task is for; empty if it names none."""
    try:
        variables = dict(task.variables)
    except BadPacket:
        return ""
    return (variables.get(names.FUNCTION) or variables.get(LEGACY_FUNCTION) or b"").decode("utf-8", "replace")


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
    capture_output(lambda task, stream, text: messages.send_message(sock, ["print", task, stream, text]))
    keep_children_out(lambda: _let_go(sock, slots))
    watch()
    try:
        app = load(facts)
        end_if_forked()
    except BaseException as error:  # noqa: BLE001  # the node ends, or keeps the old workers, with this text
        end_if_forked(error)
        trace = _frames_of_application(error)
        is_sentence = isinstance(error, BadConfig) and trace is None
        text = _shown(error, str if is_sentence else _whole)
        messages.send_message(sock, ["broken", text[-messages.MAX_TEXT :], is_sentence])
        return
    worker = Worker(
        sock, slots, facts["root"], facts["node_id"], app, facts["timeout"], facts["concurrency"]
    )  # fmt: skip
    worker.run()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads of the application must not keep a stopped worker alive


def _leave_it_to_the_node(number: int, frame: object) -> None:
    """Does nothing. It is a handler because programs that tasks start would inherit SIG_IGN."""


def _let_go(sock: socket.socket, slots: Slots) -> None:
    """In a child that a task forked: gives up all that belongs to the worker."""
    sock.close()
    slots.detach()
    close_held()
    output.print_to_descriptors()
    for number in _FOR_THE_NODE:
        if signal.getsignal(number) is _leave_it_to_the_node:
            signal.signal(number, signal.SIG_DFL)


def _die_with_the_node(node_pid: int) -> None:
    """Asks the kernel for SIGKILL when the node dies, so that a dead node's task does not run beside the next node."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != node_pid:
        os._exit(0)  # it died before we asked
