"""Tasks fork: a child is never a second worker, however it ends; and only the worker can end a task."""

from collections import Counter
from pathlib import Path

import pytest
from support import RunningNode, eventually
from talk import connect, read_answers, request
from watch import NOTES, count, notes, status, wait_for_note, wait_until_idle, workers

APP = (
    NOTES
    + """
import asyncio, multiprocessing, pty, socket, threading
import msgpack

def is_packet_socket(descriptor):
    try:
        with socket.socket(fileno=os.dup(descriptor)) as found:
            return found.type == socket.SOCK_SEQPACKET
    except OSError:
        return False

def leave(how):
    note("child", how)
    if how == "sys.exit":
        sys.exit(7)
    if how == "raise":
        raise RuntimeError("in the child")
    if how == "os._exit":
        os._exit(7)

def forks(how):
    if how == "multiprocessing":
        child = multiprocessing.get_context("fork").Process(target=note, args=("child", how))
        child.start()
        return child.join()
    if how == "thread":
        thread = threading.Thread(target=forks, args=("return",))
        thread.start()
        return thread.join()
    pid, _ = pty.fork() if how == "pty.fork" else (os.fork(), 0)
    if pid == 0:
        leave(how)

async def in_loop(env):
    note(env["n"])
    if env["n"] == "fork":
        await asyncio.sleep(0.05)  # the others have begun, and are in their pause
        forks("return")
    await asyncio.sleep(0.1)  # a child that went on would come out of it, too
    note("end", env["n"])

def spooler(env):
    if env.get("as") == "async":
        return in_loop(env)
    note(env["n"])
    if "forks" in env:
        forks(env["forks"])
    if "forges" in env:
        to_node = [fd for fd in map(int, os.listdir("/proc/self/fd")) if is_packet_socket(fd)]
        socket.socket(fileno=os.dup(to_node[0])).send(msgpack.packb(["ended", 1, bytes(512), b"", [], 0.001, -1.0]))
        wait("never")

uwsgi.spooler = spooler
"""
)


def enqueue(node: RunningNode, *many: dict[str, str]) -> None:
    """Sends tasks in one go, so that they come to the workers in one go."""
    with connect(("127.0.0.1", node.port)) as sock:
        sock.sendall(b"".join(request(task, extended=True) for task in many))
        assert all(modifier2 == 1 for _, modifier2, _ in read_answers(sock, len(many)))


def children(pid: int) -> list[str]:
    """The processes, zombies included, that a process has."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.parametrize("how", ["return", "sys.exit", "raise", "os._exit", "multiprocessing", "pty.fork", "thread"])
def test_the_child_of_a_task_that_forks_runs_no_other_task_and_marks_none(node: RunningNode, how: str) -> None:
    node.start(app=APP)
    (worker,) = workers(node)
    enqueue(node, *[{"n": "warm"}] * 300)
    wait_until_idle(node)
    plain = [{"n": f"{n}"} for n in range(60)]
    enqueue(node, *plain[:10], {"n": "forker", "forks": how}, *plain[10:])
    wait_until_idle(node)
    wait_for_note(node, f"child {'return' if how == 'thread' else how}")
    if how in ("return", "sys.exit", "raise", "pty.fork", "multiprocessing"):
        eventually(lambda: not children(worker), "no child is left, not even a zombie")
    assert Counter(notes(node))["forker"] == 1
    assert {count(node, f"{n}") for n in range(60)} == {1}
    now = status(node)
    assert (now["done"], now["failed"], now["worker_deaths"], now["held"]) == (361, 0, 0, 0)
    assert workers(node) == [worker]
    if how == "raise":
        node.wait_for_log("print", text="RuntimeError: in the child")
    node.kill9()
    node.start()
    assert status(node)["total"] == 0


def test_the_child_of_an_async_task_takes_no_step_of_the_others(node: RunningNode) -> None:
    node.start(app=APP)
    enqueue(node, *[{"n": f"{n}", "as": "async"} for n in range(20)], {"n": "fork", "as": "async"})
    wait_until_idle(node)
    eventually(lambda: not children(workers(node)[0]), "the child is gone")
    assert Counter(notes(node)) == {
        **{f"{n}": 1 for n in range(20)},
        **{f"end {n}": 1 for n in range(20)},
        "fork": 1,
        "end fork": 1,
        "child return": 1,
    }


def test_what_a_child_prints_is_in_the_log_once(node: RunningNode) -> None:
    app = NOTES + (
        "import logging\nlog = logging.StreamHandler(sys.stderr)\n"
        "def spooler(env):\n    print('begun, ', end='')\n    if os.fork() == 0:\n        print('child prints')\n"
        "        log.stream.write('child logs\\n')\n        return\n    os.wait()\n    print('worker ends it')\n"
        "uwsgi.spooler = spooler\n"
    )
    node.start(app=app)
    enqueue(node, {"n": "1"})
    wait_until_idle(node)
    node.wait_for_log("print", text="child logs")
    node.wait_for_log("print", text="begun, worker ends it")
    node.wait_for_log("print", text="child prints")
    assert len(node.lines("print", text="begun")) == 1
    assert len(node.lines("print", text="child prints")) == 1


def test_the_child_of_a_timer_that_forks_is_no_worker(node: RunningNode) -> None:
    app = NOTES + (
        "from spoolnode import timer\n@timer(0.2)\ndef tick():\n    if os.fork() == 0:\n        note('child')\n"
        "uwsgi.spooler = lambda env: note(env['n'])\n"
    )
    node.start(app=app)
    wait_for_note(node, "child", 3)
    enqueue(node, *[{"n": f"{n}"} for n in range(20)])
    wait_until_idle(node)
    assert {count(node, f"{n}") for n in range(20)} == {1}
    eventually(lambda: len(children(workers(node)[0])) <= 1, "no more than the latest child is there")
    assert status(node)["worker_deaths"] == 0


def test_an_application_that_forks_while_it_loads_has_one_worker(node: RunningNode) -> None:
    node.start(app=NOTES + "if os.fork() == 0:\n    note('child')\nuwsgi.spooler = lambda env: note(env['n'])\n")
    wait_for_note(node, "child")
    enqueue(node, *[{"n": f"{n}"} for n in range(20)])
    wait_until_idle(node)
    assert {count(node, f"{n}") for n in range(20)} == {1}


def test_ends_of_tasks_that_a_worker_does_not_have_are_not_believed(node: RunningNode) -> None:
    node.start("--max-attempts", "1", app=APP)
    enqueue(node, *[{"n": "warm"}] * 300)
    wait_until_idle(node)
    enqueue(node, {"n": "forger", "forges": "it"}, *[{"n": f"{n}"} for n in range(30)])
    node.wait_for_log("worker_confused")
    eventually(lambda: {count(node, f"{n}") for n in range(30)} == {1}, "each of the others runs once")
    wait_until_idle(node)
    now = status(node)
    assert (now["done"], now["failed"], now["held"]) == (330, 1, 0)
