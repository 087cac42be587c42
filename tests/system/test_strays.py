"""Processes of tasks end with them if their worker dies, they take too long or the node is killed; else they may stay."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import RunningNode, eventually
from watch import NOTES, Gate, is_alive, notes, resident, status, wait_for_note, wait_until_idle, workers

import spoolnode
from spoolnode.node.work import strays

CGROUP = strays.cgroup_of("of this test")
IN_CGROUPS = pytest.mark.skipif(
    not CGROUP or not os.access(os.path.dirname(CGROUP), os.W_OK), reason="a cgroup of our own takes root or a delegated subtree"
)
Gates = Callable[[str], Gate]

APP = (
    NOTES
    + """
import subprocess

HOW = {
    "plain": {},
    "own session": {"start_new_session": True},
    "own environment": {"env": {"PATH": os.environ["PATH"]}},
    "both": {"start_new_session": True, "env": {"PATH": os.environ["PATH"]}},
}

def spooler(env):
    sleep = ["sh", "-c", "trap '' TERM HUP INT; sleep 600 & wait"]
    child = subprocess.Popen(sleep, **HOW[env["how"]])
    note("child", child.pid)
    if env.get("then") == "ends":
        return
    wait("end")

uwsgi.spooler = spooler
"""
)


def children(node: RunningNode) -> list[int]:
    """The processes that tasks have started."""
    return [int(note.split()[1]) for note in notes(node) if note.startswith("child ")]


@pytest.fixture
def started(node: RunningNode) -> Iterator[Callable[..., int]]:
    """Runs a task that starts a process, and waits for that; nothing of it is left in the end."""

    def start(how: str, **more: str) -> int:
        before = len(children(node))
        spoolnode.send_to_spooler({"how": how, **more}, via=node.via)
        eventually(lambda: len(children(node)) > before, "the child runs")
        return children(node)[-1]

    yield start
    for pid in children(node):
        for each in [*map(int, processes_below(pid)), pid] if is_alive(pid) else []:
            os.kill(each, signal.SIGKILL)


@pytest.mark.parametrize("how", ["plain", "own session", "own environment", pytest.param("both", marks=IN_CGROUPS)])
def test_nothing_that_a_task_started_survives_kill_9_of_the_node(
    node: RunningNode, started: Callable[..., int], how: str
) -> None:
    node.start(app=APP)
    child = started(how)
    node.kill9()
    eventually(lambda: not is_alive(child), "the child is gone, and no node runs")


@IN_CGROUPS
def test_no_cgroup_is_left_of_a_node_that_has_ended(node: RunningNode, started: Callable[..., int]) -> None:
    def start() -> Path:
        node.start(app=APP)
        cgroup = Path(strays.cgroup_of(status(node)["instance"]))
        assert cgroup.is_dir()
        return cgroup

    first = start()
    child = started("both", then="ends")
    wait_until_idle(node)
    node.stop()
    assert is_alive(child), "after an orderly end it may stay"
    os.killpg(child, signal.SIGKILL)
    eventually(lambda: not is_alive(child) and not populated(first), "all in it has ended")
    second = start()
    assert not first.exists(), "the next node that starts removes it"
    node.stop()
    assert not second.exists()


def test_the_next_start_ends_what_is_left_before_it_runs_anything(node: RunningNode, started: Callable[..., int]) -> None:
    node.start(app=APP)
    child = started("own session")
    eventually(lambda: processes_below(child), "the shell has started its sleep")
    (warden,) = [int(pid) for pid in processes_below(node.pid) if int(pid) not in workers(node)]
    os.kill(warden, signal.SIGKILL)
    node.kill9()
    assert is_alive(child), "there was nobody to end it"
    node.start("--app", "app.py")
    line = node.wait_for_log("strays_ended")
    assert (line["processes"], line["left"]) == (2, []), "the shell and its sleep"
    assert not is_alive(child)
    eventually(lambda: len(children(node)) == 2, "the task runs again")


def populated(cgroup: Path) -> bool:
    """Whether anything runs in it."""
    try:
        return bool((cgroup / "cgroup.procs").read_text())
    except FileNotFoundError:
        return False  # another node that starts has removed it


def processes_below(pid: int) -> list[str]:
    """The children of a process."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.parametrize("how", ["plain", "own session", "own environment"])
def test_a_retry_does_not_run_beside_what_the_dead_worker_s_task_started(
    node: RunningNode, started: Callable[..., int], how: str
) -> None:
    node.start("--retry-base", "0.001", app=APP)
    child = started(how)
    os.kill(workers(node)[0], signal.SIGKILL)
    eventually(lambda: len(children(node)) == 2, "the task runs again")
    assert not is_alive(child)


def test_a_task_over_its_time_ends_with_children_that_left_its_session(node: RunningNode, started: Callable[..., int]) -> None:
    node.start("--timeout", "2", "--max-attempts", "1", app=APP)  # in that time it can start its child on a busy machine
    child = started("own session")
    node.wait_for_log("dead", reason="its worker was killed")
    assert not is_alive(child)


def test_what_a_task_that_ended_has_left_behind_may_stay(node: RunningNode, started: Callable[..., int], gate: Gates) -> None:
    node.start("--max-attempts", "1", app=APP)
    daemon = started("own session", then="ends")
    wait_until_idle(node)
    now = time.monotonic()
    eventually(lambda: time.monotonic() > now + 0.1, "the kernel counts in hundredths when processes start")
    other = started("own session")
    os.kill(workers(node)[0], signal.SIGKILL)
    node.wait_for_log("dead")
    assert not is_alive(other)
    assert is_alive(daemon), "it was not that task's"
    os.kill(node.pid, signal.SIGHUP)
    node.wait_for_log("reloaded")
    node.stop()
    node.start()
    node.stop()
    assert is_alive(daemon)
    assert not node.lines("strays_ended")


def test_a_node_has_one_small_process_more_which_ends_with_it(node: RunningNode) -> None:
    node.start(app=APP)
    (warden,) = [int(pid) for pid in processes_below(node.pid) if int(pid) not in workers(node)]
    assert resident(warden) < 12 << 20
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(warden, number)
    assert node.stop() == 0
    assert not is_alive(warden)


def test_seconds_of_runs_that_were_killed_and_of_async_ones_count(node: RunningNode) -> None:
    app = NOTES + (
        "import asyncio\n"
        "def spooler(env):\n    if env['as'] == 'async':\n        return asyncio.sleep(0.2)\n    time.sleep(600)\n"
        "uwsgi.spooler = spooler\n"
    )
    node.start("--timeout", "2", "--max-attempts", "1", app=app)  # the async run ends before that
    spoolnode.send_to_spooler({"as": "async"}, via=node.via)
    wait_until_idle(node)
    eventually(lambda: status(node)["task_seconds"] >= 0.2, "the async run counts")
    before = status(node)["task_seconds"]
    spoolnode.send_to_spooler({"as": "sync"}, via=node.via)
    node.wait_for_log("dead", reason="its worker was killed")
    eventually(lambda: status(node)["task_seconds"] >= before + 2, "the run that was killed counts")


class FirstProcess(RunningNode):
    """A node that is the first process of a container."""

    def command_line(self, args: list[str]) -> list[str]:
        """In a process namespace of its own, which ends with it."""
        return ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *args]


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and unshare")
def test_the_first_process_of_a_container_waits_for_orphans(tmp_path: Path) -> None:
    node = FirstProcess(tmp_path)
    app = NOTES + (
        "import subprocess\ndef spooler(env):\n    subprocess.run(['sh', '-c', 'sleep 0.05 &'])\n    note('ran')\n"
        "uwsgi.spooler = spooler\n"
    )
    try:
        node.start(app=app)
        (first,) = processes_below(node.pid)
        for _ in range(20):
            spoolnode.send_to_spooler({"a": "b"}, via=node.via)
        wait_for_note(node, "ran", 20)
        eventually(lambda: len(processes_below(int(first))) == 2, "a worker and the warden are left, and no zombie")
        os.kill(int(first), signal.SIGTERM)
        assert node.wait() == 0
    finally:
        node.clean_up()
