"""One worker process as the node sees it: the node hears what it says and clears away what it leaves, in all cases."""

import asyncio
import os
import secrets
import signal
import sys
import textwrap
import time
from collections.abc import Coroutine
from contextlib import suppress
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import PATIENCE

from spoolnode.node.work import strays
from spoolnode.node.work.messages import MAX_TEXT
from spoolnode.node.work.process import InFlight, WorkerProcess

IDLE = ["sleep", "600"]
"""A process that neither hears nor says anything; it takes its descriptor for more seconds."""


def python(code: str) -> list[str]:
    """A worker of a few lines; `facts` is what the node says first, `sock` its way to the node."""
    begin = "import os, socket, sys, msgpack; sock = socket.socket(fileno=int(sys.argv[1])); facts = sock.recv(1 << 18)\n"
    return [sys.executable, "-c", begin + textwrap.dedent(code)]


class Node:
    """The node's side: one worker, and what was heard of it, in order."""

    def __init__(self, command: list[str], mark: str = "mark", env: tuple[str, ...] = ()) -> None:
        self.heard: list[Any] = []
        self.died = asyncio.Event()
        self.worker = WorkerProcess(
            3, command, {"settings": {"env": list(env)}}, mark, 2,
            lambda _worker, message: self.heard.append(message),
            lambda _worker, stream, text: self.heard.append((stream, text)),
            self._buried,
        )  # fmt: skip

    def _buried(self, worker: WorkerProcess) -> None:
        self.heard.append("died")
        self.died.set()

    async def __aenter__(self) -> "Node":
        self.worker.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.worker.pid, signal.SIGKILL)
        await self.died.wait()


def run(story: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(PATIENCE):
            await story

    asyncio.run(limited())


def open_files() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


def is_alive(pid: int) -> bool:
    """Whether a process that is not our child is there, and no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


# --- what is said ---


def test_worker_is_told_first_what_it_is_and_gets_its_surroundings() -> None:
    code = """
        facts = msgpack.unpackb(facts)[0]
        size = os.fstat(facts["slots"]).st_size
        told = [facts["worker"], facts["concurrency"], size > 0, os.environ["COLOUR"], os.environ["_SPOOLNODE_MARK"]]
        sock.send(msgpack.packb(told))
    """

    async def story() -> None:
        async with Node(python(code), "abc.1.", ("COLOUR=blue=green",)) as node:
            await node.died.wait()
        assert node.heard == [[3, 2, True, "blue=green", "abc.1."], "died"]

    run(story())


def test_worker_that_does_not_listen_blocks_nobody_and_hears_all_in_order_later() -> None:
    code = "sock.send(msgpack.packb([msgpack.unpackb(sock.recv(1 << 18))[1] for _ in range(1000)]))"

    async def story() -> None:
        async with Node(python(code)) as node:
            os.kill(node.worker.pid, signal.SIGSTOP)
            for number in range(1000):
                node.worker.send(["run", number, None, ["x" * 2000]])
            os.kill(node.worker.pid, signal.SIGCONT)
            await node.died.wait()
        assert node.heard == [[*range(1000)], "died"]

    run(story())


def test_a_task_that_runs_without_its_lease_does_not_keep_others_of_the_store_from_starting() -> None:
    async def story() -> None:
        async with Node(IDLE) as node:
            worker = node.worker
            worker.chunks[7] = chunk = InFlight(SimpleNamespace(is_leased=True), ["runs", "waits"], 0, {0, 1})
            worker.slots.begin(1, 7, 0, 1.0, 0.0)
            worker.call_back({"runs", "waits"})
            worker.hold_leases(inf)
            assert not worker.slots.leases_hold  # the one that waits must not start
            chunk.open.discard(1)
            worker.hold_leases(inf)
            assert worker.slots.leases_hold

    run(story())


def test_stop_is_said_once() -> None:
    code = """
        said = [msgpack.unpackb(sock.recv(1 << 18))]
        sock.setblocking(False)
        try:
            said.append(msgpack.unpackb(sock.recv(1 << 18)))
        except BlockingIOError:
            pass
        sock.send(msgpack.packb(said))
    """

    async def story() -> None:
        async with Node(python(code)) as node:
            node.worker.stop()
            node.worker.stop()
            await node.died.wait()
        assert node.heard == [[["stop"]], "died"]

    run(story())


def test_last_words_are_heard_before_the_death() -> None:
    code = """
        for number in range(100):
            sock.send(msgpack.packb([number]))
        os.write(1, b"a\\nb")
        os.write(2, b"c")
        os._exit(3)
    """

    async def story() -> None:
        async with Node(python(code)) as node:
            await node.died.wait()
        messages = [item for item in node.heard if isinstance(item, list)]
        assert messages == [[number] for number in range(100)]
        assert sorted(item for item in node.heard if isinstance(item, tuple)) == [
            ("stderr", "c"),
            ("stdout", "a"),
            ("stdout", "b"),
        ]
        assert node.heard[-1] == "died"
        assert node.heard.count("died") == 1
        assert node.worker.death == "exited with status 3"

    run(story())


@pytest.mark.parametrize("what", ["sock.send(b'\\xc1')", "sock.send(b'\\x81')", "sock.close()"])
def test_worker_that_closes_its_way_to_us_or_writes_into_it_is_killed(what: str) -> None:
    async def story() -> None:
        async with Node(python(f"{what}\nimport time\ntime.sleep(600)")) as node:
            await node.died.wait()
        assert node.heard == ["died"]
        assert node.worker.death == "was killed by signal 9 (SIGKILL)"

    run(story())


def test_line_that_c_code_prints_is_told_whole_and_one_that_never_ends_in_pieces() -> None:
    code = """
        os.write(1, b"ab")
        os.write(1, b"c\\n\\xff\\n\\n")
        for _ in range(300):
            os.write(2, b"x" * 1000)
    """

    async def story() -> None:
        async with Node(python(code)) as node:
            await node.died.wait()
        assert [text for stream, text in node.heard[:-1] if stream == "stdout"] == ["abc", "\ufffd", ""]
        pieces = [text for stream, text in node.heard[:-1] if stream == "stderr"]
        assert "".join(pieces) == "x" * 300_000
        assert len(pieces) > 1
        assert max(map(len, pieces)) <= MAX_TEXT + 65536

    run(story())


def test_text_that_is_in_the_pipe_when_the_death_is_noticed_is_told_before_it() -> None:
    code = """
        os.write(2, b"x" * 65535 + b"\\n")
        os.write(2, b"y" * 15000 + b"\\nlast words")
    """

    async def story() -> None:
        async with Node(python(code)) as node:

            def hear(_worker: WorkerProcess, stream: str, text: str) -> None:
                node.heard.append((stream, text))
                if text.startswith("x"):  # the death is there before the next read
                    os.waitid(os.P_PID, node.worker.pid, os.WEXITED | os.WNOWAIT)

            node.worker.on_print = hear
            await node.died.wait()
        texts = ["x" * 65535, "y" * 15000, "last words"]
        assert node.heard == [*(("stderr", text) for text in texts), "died"]

    run(story())


# --- its start and its end ---


def test_start_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        before = open_files()
        with pytest.raises(FileNotFoundError):
            Node(["/nonexistent"]).worker.start()
        assert open_files() == before
        monkeypatch.setattr(os, "pidfd_open", lambda pid: os.open(f"/nonexistent/{pid}", os.O_RDONLY))
        node = Node(IDLE)
        with pytest.raises(FileNotFoundError):
            node.worker.start()
        assert open_files() == before
        assert not is_alive(node.worker.pid)

    run(story())


def test_worker_that_has_ended_leaves_no_descriptor_behind() -> None:
    async def story() -> None:
        before = open_files()
        async with Node(["true"]) as node:
            await node.died.wait()
        await asyncio.sleep(0)
        assert open_files() == before

    run(story())


def test_kill_of_a_worker_that_has_ended_by_itself_is_no_error() -> None:
    async def story() -> None:
        async with Node(["true"]) as node:
            os.waitid(os.P_PID, node.worker.pid, os.WEXITED | os.WNOWAIT)
            node.worker.kill()
            await node.died.wait()
            node.worker.kill()
        assert node.worker.death == "exited with status 0"

    run(story())


def test_kill_ends_what_its_tasks_have_started_too() -> None:
    async def story() -> None:
        async with Node(["sh", "-c", "sleep 600 & echo $!; wait"]) as node:
            child = await printed(node)
            assert is_alive(child)
            node.worker.kill()
            await node.died.wait()
        await gone(child)

    run(story())


@pytest.mark.parametrize("runs", [True, False])
def test_what_a_task_has_started_ends_with_it_when_its_worker_dies_and_may_stay_when_it_has_ended(runs: bool) -> None:
    mark = strays.mark_of(secrets.token_hex(8), 1)

    async def story() -> None:
        before = time.monotonic()
        async with Node(["sh", "-c", "setsid sleep 600 & echo $!; wait"], mark) as node:
            child = await printed(node)
            node.worker.slots.begin(0, 1, 0, before, 0.0)
            if not runs:
                node.worker.slots.end(0)
            os.kill(node.worker.pid, signal.SIGKILL)
            await node.died.wait()
            was_left = is_alive(child)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        assert was_left is not runs

    run(story())


async def printed(node: Node) -> int:
    """The number that the worker prints."""
    while not node.heard:
        await asyncio.sleep(0.001)
    return int(node.heard[0][1])


async def gone(pid: int) -> None:
    """Returns when the process has ended."""
    while is_alive(pid):
        await asyncio.sleep(0.001)


# --- its time ---


def test_task_is_late_when_its_time_is_over_and_what_was_stopped_with_us_gets_it_back() -> None:
    async def story() -> None:
        async with Node(IDLE) as node:
            worker = node.worker
            worker.slots.begin(0, 7, 3, 100.0, 110.0)
            worker.slots.begin(1, 7, 4, 100.0, 0.0)
            assert worker.late(110.0) == set()
            assert worker.late(110.1) == {(7, 3)}
            worker.excuse(5.0)
            worker.excuse(2.0)
            assert worker.late(117.0) == set()
            assert worker.late(117.1) == {(7, 3)}
            worker.slots.begin(0, 7, 5, 117.0, 118.0)
            assert worker.late(118.1) == {(7, 5)}, "the next task was not stopped"
            worker.slots.end(0)
            assert worker.late(float("inf")) == set(), "a task without a limit is never late"

    run(story())


def test_worker_says_in_its_repr_how_it_is() -> None:
    async def story() -> None:
        async with Node(IDLE) as node:
            pid = node.worker.pid
            assert repr(node.worker) == f"<worker 3 pid {pid} starting, 0 tasks>"
            node.worker.ready, node.worker.held = True, 5
            assert repr(node.worker) == f"<worker 3 pid {pid} ready, 5 tasks>"
            node.worker.stop()
            assert repr(node.worker) == f"<worker 3 pid {pid} stopping, 5 tasks>"

    run(story())
