"""One worker process as the node sees it: starts it, talks to it, watches it, kills it."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterator, MutableSequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgpack

from spoolnode.node.background import spawn
from spoolnode.node.outcome import Timer
from spoolnode.node.work import messages, stack, strays
from spoolnode.node.work.balance import Pace
from spoolnode.node.work.slots import Running, Slots

PRINTED_AT_ONCE = 100
"""Lines printed past Python that are logged in one turn of the loop; no more are read until the rest is logged."""
LAST_READS = 16
"""Pieces of 64 KiB that are read of a dead worker's output; more than a pipe holds, unless a task has made it larger."""
LAST_MOMENT = 1.0
"""Seconds that a worker gets to write where its threads are."""


@dataclass(eq=False, slots=True)
class InFlight:
    """Tasks that were sent to a worker together."""

    source: Any
    refs: MutableSequence[Any]
    rank: int
    open: set[int]
    """Positions of those that have not ended."""


@dataclass(eq=False, slots=True)
class Cancel:
    """The wish that a task ends before its time."""

    reason: str
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when no worker holds it any more."""
    is_forced: bool = False
    """Whether its worker is killed for it."""


@dataclass(eq=False)
class WorkerProcess:
    """A worker, from its start to its end. `on_message` and `on_death` are called on the loop."""

    index: int
    command: list[str]
    facts: dict[str, Any]
    mark: str
    """Marks the processes that its tasks start (see `strays`)."""
    concurrency: int
    on_message: Callable[["WorkerProcess", list[Any]], None]
    on_print: Callable[["WorkerProcess", str, str], None]
    on_death: Callable[["WorkerProcess"], None]
    chunks: dict[int, InFlight] = field(default_factory=dict)
    pace: Pace = field(default_factory=Pace)
    held: int = 0
    asynchronous: int = 0
    done: int = 0
    """Tasks that it has ended."""
    timers: set[Timer] = field(default_factory=set)
    """Timers that it was told to call and has not ended."""
    ready: bool = False
    stopping: bool = False
    broken: str = ""
    """Why its application did not load."""
    overdue: set[tuple[int, int]] = field(default_factory=set)
    """The late tasks for which we killed it."""
    cancelled: dict[tuple[int, int], "Cancel"] = field(default_factory=dict)
    """Its tasks that were told to end, as (chunk, position)."""
    recalled: set[str] = field(default_factory=set)
    """Its tasks of a common store that it is to give back unstarted: while it has any of them, it starts no task of the store."""
    excused: dict[Running, float] = field(default_factory=dict)
    """Extra seconds for running tasks, because node and worker were stopped meanwhile."""
    left: list[int] = field(default_factory=list)
    """Processes of its tasks that could not be ended."""
    interrupted: bool = False
    """Whether we killed it in order to stop; then no task is blamed."""

    _last_moment: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Starts the process. Raises OSError, and leaves nothing, if the machine has no room for it."""
        self._loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as undo:
            self.slots = Slots.create(self.concurrency + 1)
            undo.callback(self.slots.close)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(ours.close)
            with theirs:
                self._execute(theirs)
            undo.callback(self._undo)
            self._pidfd = os.pidfd_open(self.pid)
            undo.pop_all()
        ours.setblocking(False)
        self._sock = ours
        self._unsent: deque[bytes] = deque()
        self._partial = {"stdout": b"", "stderr": b""}
        self._lines: dict[str, deque[bytes]] = {"stdout": deque(), "stderr": deque()}
        self._loop.add_reader(self._pidfd, self._died)
        self._loop.add_reader(ours, self._readable)
        for stream in ("stdout", "stderr"):
            pipe = getattr(self._process, stream)
            os.set_blocking(pipe.fileno(), False)
            self._loop.add_reader(pipe, self._printed, stream, pipe)
        own = {"slots": self.slots.descriptor, "concurrency": self.concurrency, "worker": self.index}
        self.send([{**self.facts, **own}])

    def _execute(self, sock: socket.socket) -> None:
        # A session of its own: Ctrl-C in the terminal does not reach it, and a late task is killed with its children.
        self._process = subprocess.Popen(  # the command is our own module
            [*self.command, str(sock.fileno())], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            pass_fds=(sock.fileno(), self.slots.descriptor), start_new_session=True,
            env={**os.environ, **_variables(self.facts["settings"]["env"]), strays.MARK: self.mark},
        )  # fmt: skip
        self.pid = self._process.pid

    def _undo(self) -> None:
        """Ends a process that runs but could not be set up."""
        with self._process:  # closes the pipes and waits
            self.kill()

    def __repr__(self) -> str:
        state = "stopping" if self.stopping else "ready" if self.ready else "starting"
        return f"<worker {self.index} pid {self.pid} {state}, {self.held} tasks>"

    def send(self, message: list[Any]) -> None:
        """Sends a message; never blocks."""
        self._unsent.append(msgpack.packb(message, unicode_errors="surrogatepass"))
        if len(self._unsent) == 1:
            self._send_some()

    def excuse(self, seconds: float) -> None:
        """Gives running tasks this many more seconds."""
        self.excused = {item: self.excused.get(item, 0.0) + seconds for item in self.slots.running()}

    def position_of(self, source: Any, ref: Any) -> tuple[int, int] | None:
        """Where it has a task, as (chunk, position); None if it does not have it."""
        for number, chunk in self.chunks.items():
            if chunk.source is source:
                for position in chunk.open:
                    if chunk.refs[position] == ref:
                        return number, position
        return None

    def hold_leases(self, until: float) -> None:
        """Says until when it may start tasks of a common store."""
        self.recalled &= self._not_started() if self.recalled else set()
        self.slots.hold_leases(0.0 if self.recalled else until)

    def call_back(self, refs: Collection[str]) -> None:
        """Has it give back these tasks, if it has any of them and has not started them."""
        if mine := self._not_started().intersection(refs):
            self.recalled |= mine
            self.slots.hold_leases(0.0)
            self.send(["return"])

    def _not_started(self) -> set[str]:
        """Its tasks of a common store, but for those that run: they go on, and a lease that is lost no longer matters to them."""
        running = {(item.chunk, item.position) for item in self.slots.running()}
        chunks = [(number, chunk) for number, chunk in self.chunks.items() if chunk.source.is_leased]
        return {chunk.refs[at] for number, chunk in chunks for at in chunk.open if (number, at) not in running}

    def late(self, now: float) -> set[tuple[int, int]]:
        """The tasks past their time, as (chunk, position)."""
        running = self.slots.running()
        return {(item.chunk, item.position) for item in running if 0 < item.deadline < now - self.excused.get(item, 0.0)}

    def stop(self) -> None:
        """Asks it to end its tasks and exit."""
        if not self.stopping:
            self.stopping = True
            self.send(["stop"])

    def kill(self) -> None:
        """Kills it, and all that its tasks have started."""
        with contextlib.suppress(ProcessLookupError):  # it ended by itself, and its death is about to be noticed
            os.killpg(self.pid, signal.SIGKILL)

    def kill_late(self) -> None:
        """Kills it, but first it gets a moment to write where its threads are."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, stack.SIGNAL)
        self._last_moment = self._loop.call_later(LAST_MOMENT, self.kill)

    def stack(self, *, in_loop: bool) -> str:
        """Where its task was when `kill_late` was called; empty if it could not say."""
        dump = self.slots.behind(stack.MAX_STACK).decode("utf-8", "replace")
        return stack.stack_of(dump, in_loop=in_loop)

    @property
    def death(self) -> str:
        """How it ended, for people."""
        code = self._process.returncode
        if self.overdue:
            return "was killed: a task ran longer than its timeout"
        if any(cancel.is_forced for cancel in self.cancelled.values()):
            return "was killed: a cancelled task went on"
        if code is not None and code < 0:
            return f"was killed by signal {-code} ({signal.Signals(-code).name})"
        return f"exited with status {code}"

    def _send_some(self) -> None:
        while self._unsent:
            try:
                self._sock.send(self._unsent[0])
            except BlockingIOError:
                self._loop.add_writer(self._sock, self._send_some)
                return
            except OSError:
                self._unsent.clear()  # it died; its tasks are settled when its death is noticed
                break
            self._unsent.popleft()
        self._loop.remove_writer(self._sock)

    def _readable(self) -> None:
        for _ in range(16):
            try:
                message = messages.receive(self._sock)
            except BlockingIOError:
                return
            except (OSError, ValueError, msgpack.UnpackException):
                message = None
            if message is None:
                # Either it died, or a task closed its socket or wrote into it: then it is of no further use.
                self._loop.remove_reader(self._sock)
                self.kill()
                return
            self.on_message(self, message)

    def _printed(self, stream: str, pipe: Any) -> None:
        try:
            data = os.read(pipe.fileno(), 65536)
        except BlockingIOError:
            return
        self._loop.remove_reader(pipe)
        self._say_next(stream, pipe, [data])

    def _say_next(self, stream: str, pipe: Any, printed: list[bytes]) -> None:
        """Reports what was printed. An empty piece is the end of it."""
        is_under_way = bool(self._lines[stream])
        for data in printed:
            lines = (self._partial[stream] + data).split(b"\n")
            self._partial[stream] = lines.pop() if data else b""
            if len(self._partial[stream]) > messages.MAX_TEXT:
                lines.append(self._partial[stream])
                self._partial[stream] = b""
            self._lines[stream] += lines if data else filter(None, lines)
        if not is_under_way:
            self._say(stream, pipe, is_open=bool(printed[-1]))

    def _say(self, stream: str, pipe: Any, *, is_open: bool) -> None:
        """Reports the next lines. The rest follows in another turn of the loop, or the pipe is read again."""
        lines = self._lines[stream]
        for _ in range(min(len(lines), PRINTED_AT_ONCE)):
            self.on_print(self, stream, lines.popleft().decode("utf-8", "replace"))
        if lines:
            self._loop.call_soon(partial(self._say, stream, pipe, is_open=is_open))
        elif is_open and not pipe.closed:
            self._loop.add_reader(pipe, self._printed, stream, pipe)

    def _died(self) -> None:
        if self._last_moment is not None:
            self._last_moment.cancel()
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        running = self.slots.running()
        if running:
            spawn(self._end_with_children(min(item.started for item in running)))
        else:
            self._end()  # processes that ended tasks have left behind may stay

    async def _end_with_children(self, since: float) -> None:
        """Kills processes that the running tasks have started, before their end is reported and they run again."""
        self.stopping = True  # it gets no more tasks
        self.kill()  # it is not reaped yet, so its pid still belongs to its group
        try:
            _, self.left = await self._loop.run_in_executor(None, strays.end, self.mark, since)
        except RuntimeError:  # no room for a thread
            _, self.left = strays.end(self.mark, since)
        finally:
            self._end()

    def _end(self) -> None:
        self._process.wait()
        try:
            self._drain()
        finally:  # whatever its last messages were, its tasks must be settled
            self.on_death(self)
            self.slots.close()

    def _drain(self) -> None:
        """Takes the last messages."""
        try:
            while (message := messages.receive(self._sock)) is not None:
                self.on_message(self, message)
        except (OSError, ValueError, msgpack.UnpackException):
            pass  # no more messages, or none that makes sense
        for stream in ("stdout", "stderr"):
            pipe = getattr(self._process, stream)
            self._loop.remove_reader(pipe)
            self._say_next(stream, pipe, [*_rest_of(pipe), b""])
            pipe.close()
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()


def _rest_of(pipe: Any) -> Iterator[bytes]:
    """The last output of a dead worker. A process that it has left may hold the pipe open, and go on printing."""
    with contextlib.suppress(BlockingIOError):
        for _ in range(LAST_READS):
            if not (data := os.read(pipe.fileno(), 65536)):
                return
            yield data


def _variables(settings: list[str]) -> dict[str, str]:
    """Splits `NAME=VALUE` pairs. They are set at the start of a worker, not later, because some are read only then."""
    return {name: value for name, _, value in (item.partition("=") for item in settings)}


def worker_command() -> list[str]:
    """The command that starts a worker: the face's module, which can load applications."""
    # -P: modules in the current directory belong to the application, and must not be imported for the worker's own use.
    return [sys.executable, "-P", "-m", "spoolnode.runtime.worker_process"]
