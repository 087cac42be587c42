"""One worker process as the node sees it: started, spoken to, heard, watched, killed."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, MutableSequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgpack

from spoolnode.node.background import spawn
from spoolnode.node.outcome import Timer
from spoolnode.node.work import messages, strays
from spoolnode.node.work.balance import Pace
from spoolnode.node.work.slots import Running, Slots

PRINTED_AT_ONCE = 100
"""Lines printed past Python that go to the log in one turn of the loop; until the rest has, no more of them are read."""


@dataclass(eq=False, slots=True)
class InFlight:
    """Tasks that were sent to a worker together."""

    source: Any
    refs: MutableSequence[Any]
    rank: int
    open: set[int]
    """Positions of those that have not ended."""


@dataclass(eq=False)
class WorkerProcess:
    """A worker, from its start to its end. `on_message` and `on_death` are called on the loop."""

    index: int
    command: list[str]
    facts: dict[str, Any]
    mark: str
    """What tells the processes that its tasks start from all others (see `strays`)."""
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
    """Timers that it was told to call and that have not ended."""
    ready: bool = False
    stopping: bool = False
    broken: str = ""
    """Why its application did not load."""
    overdue: set[tuple[int, int]] = field(default_factory=set)
    """The tasks for whose lateness we killed it."""
    excused: dict[Running, float] = field(default_factory=dict)
    """Seconds that what runs may take longer, because node and worker were stopped meanwhile."""
    left: list[int] = field(default_factory=list)
    """Processes of its tasks that it left behind and that we could not end."""
    interrupted: bool = False
    """We killed it in order to stop, and blame nobody."""

    def start(self) -> None:
        """Starts the process. Raises OSError when the machine has no room for it; then nothing is left of it."""
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
        """It runs, but we could not take hold of it."""
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
        """What runs now may take so much longer."""
        self.excused = {item: self.excused.get(item, 0.0) + seconds for item in self.slots.running()}

    def late(self, now: float) -> set[tuple[int, int]]:
        """The tasks that are over their time, as (chunk, position)."""
        running = self.slots.running()
        return {(item.chunk, item.position) for item in running if 0 < item.deadline < now - self.excused.get(item, 0.0)}

    def stop(self) -> None:
        """Asks it to end what runs and to exit."""
        if not self.stopping:
            self.stopping = True
            self.send(["stop"])

    def kill(self) -> None:
        """Kills it, and whatever its tasks have started."""
        with contextlib.suppress(ProcessLookupError):  # it ended by itself, and its death is on the way to us
            os.killpg(self.pid, signal.SIGKILL)

    @property
    def death(self) -> str:
        """How it ended, for people."""
        code = self._process.returncode
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
                self._unsent.clear()  # it died; what it had is dealt with when its death is seen
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
                # Either it died, or a task closed its way to us, or wrote into it: then it is of no use any more.
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
        lines = (self._partial[stream] + data).split(b"\n")
        self._partial[stream] = lines.pop() if data else b""
        if len(self._partial[stream]) > messages.MAX_TEXT:
            lines.append(self._partial[stream])
            self._partial[stream] = b""
        is_under_way = bool(self._lines[stream])
        self._lines[stream] += lines if data else filter(None, lines)
        if not is_under_way:
            self._say(stream, pipe, is_open=bool(data))

    def _say(self, stream: str, pipe: Any, *, is_open: bool) -> None:
        """Tells the next lines; then the rest in another turn of the loop, or the pipe is read on."""
        lines = self._lines[stream]
        for _ in range(min(len(lines), PRINTED_AT_ONCE)):
            self.on_print(self, stream, lines.popleft().decode("utf-8", "replace"))
        if lines:
            self._loop.call_soon(partial(self._say, stream, pipe, is_open=is_open))
        elif is_open and not pipe.closed:
            self._loop.add_reader(pipe, self._printed, stream, pipe)

    def _died(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        running = self.slots.running()
        if running:
            spawn(self._end_with_children(min(item.started for item in running)))
        else:
            self._end()  # what tasks that ended have left behind may stay

    async def _end_with_children(self, since: float) -> None:
        """Kills what the tasks that ran have started, before anybody hears of their end and runs them again."""
        self.stopping = True  # it gets nothing more
        self.kill()  # we have not waited for it yet, so its number is still its group's
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
        finally:  # whatever its last words were, its tasks must be accounted for
            self.on_death(self)
            self.slots.close()

    def _drain(self) -> None:
        """Hears the last words."""
        try:
            while (message := messages.receive(self._sock)) is not None:
                self.on_message(self, message)
        except (OSError, ValueError, msgpack.UnpackException):
            pass  # nothing more was said, or nothing that makes sense
        for stream in ("stdout", "stderr"):
            pipe = getattr(self._process, stream)
            self._printed(stream, pipe)
            self._loop.remove_reader(pipe)
            pipe.close()
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()


def _variables(settings: list[str]) -> dict[str, str]:
    """`NAME=VALUE` taken apart. Set when the worker starts and not in it: some are read only then."""
    return {name: value for name, _, value in (item.partition("=") for item in settings)}


def worker_command() -> list[str]:
    """How a worker is started: the face's module, which knows how to load applications."""
    # -P: what lies in the current directory is the application's, and is not to be imported by the worker for its own use.
    return [sys.executable, "-P", "-m", "spoolnode.worker"]
