"""A worker dies, hangs or is replaced: exactly the task that ran is blamed, and every other one runs."""

import contextlib
import itertools
import os
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from support import RunningNode, eventually
from talk import connect, read_answers, request
from watch import (
    NOTES,
    Gate,
    count,
    dead,
    is_alive,
    notes,
    status,
    tasks,
    wait_for_note,
    wait_for_notes,
    wait_until_idle,
    workers,
)

import spoolnode

Gates = Callable[[str], Gate]

APP = (
    NOTES
    + """
import asyncio, ctypes

def die(how):
    if how == "exit":
        os._exit(3)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "segv":
        ctypes.string_at(0)

def spooler(env):
    if env.get("as") == "async":
        return later(env)
    note(env["do"], env.get("n", ""))
    if env["do"] == "killer":
        wait("killer")
        die(env["how"])
    if env["do"] == "fails":
        raise ValueError("always")
    if env["do"] == "waits":
        wait(env["for"])
        note("waited", env.get("n", ""))

async def later(env):
    note(env["do"], env.get("n", ""))
    while not is_open(env["for"]):
        await asyncio.sleep(0.005)
    if env["do"] == "killer":
        die(env["how"])
    note("waited", env.get("n", ""))

uwsgi.spooler = spooler
"""
)


def enqueue(node: RunningNode, *many: dict[str, Any], extra: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    """Sends tasks in one go, so that they come to the workers in one go."""
    with connect(("127.0.0.1", node.port)) as sock:
        sock.sendall(b"".join(request(task, extended=True, extra=extra) for task in many))
        assert all(modifier2 == 1 for _, modifier2, _ in read_answers(sock, len(many)))


def warm_up(node: RunningNode, total: int = 500) -> None:
    """Lets the workers show that they are quick, so that they are trusted with many tasks at once."""
    enqueue(node, *[{"do": "warm"}] * 500)
    eventually(lambda: count(node, "warm ") == total, "warm")
    wait_until_idle(node)


DEATHS = {"exit": "exited with status 3", "kill": "signal 9 (SIGKILL)", "segv": "signal 11 (SIGSEGV)"}


@pytest.mark.parametrize("how", DEATHS)
def test_the_task_that_kills_its_worker_is_blamed_and_prefetched_innocents_are_not(
    node: RunningNode, gate: Gates, how: str
) -> None:
    node.start("--max-attempts", "3", "--retry-base", "0.02", app=APP)
    warm_up(node)
    innocents = [{"do": "fails", "n": n} for n in range(40)]
    enqueue(node, *innocents[:20], {"do": "killer", "how": how}, *innocents[20:])
    wait_for_note(node, "killer ")
    # Twenty on a quiet machine; on a busy one the worker was slow a moment ago, and is trusted with fewer.
    eventually(lambda: status(node)["held"] > 1, "innocents are with the worker")
    gate("killer").open()
    wait_until_idle(node)
    assert Counter(notes(node))["killer "] == 3
    # An innocent fails by itself, so its runs tell how many attempts it was given.
    assert {count(node, f"fails {n}") for n in range(40)} == {3}
    (blamed,) = [task for task in dead(node) if task["variables"]["do"] == "killer"]
    assert DEATHS[how] in blamed["spool_reason"]
    assert blamed["attempts"] == 3
    node.wait_for_log("worker_died", count=3, reason=DEATHS[how])
    assert len(node.lines("worker_died")) == 3


def test_async_tasks_that_ran_beside_the_killer_are_blamed_with_it_and_no_other(node: RunningNode, gate: Gates) -> None:
    node.start("--concurrency", "4", "--retry-base", "0.02", "--max-attempts", "20", app=APP)
    warm_up(node)
    beside = [{"do": "waits", "n": n, "as": "async", "for": "beside"} for n in range(20)]
    enqueue(node, {"do": "killer", "as": "async", "how": "kill", "for": "killer"}, *beside)
    eventually(lambda: status(node)["running"] >= 4, "four tasks run")
    eventually(lambda: status(node)["held"] > 4, "others are with the worker and wait")
    # Four in the loop, and one that the main thread holds for the next place.
    running = eventually(lambda: five_running(node), "five have begun, and no more can")
    gate("killer").open()
    node.wait_for_log("worker_died")
    gate("beside").open()
    eventually(lambda: all(count(node, f"waited {n}") for n in range(20)), "all innocents end")

    def blamed_first() -> set[str]:
        return {line["id"] for line in node.lines("retry", reason="SIGKILL") if line["attempts"] == 1}

    eventually(lambda: len(blamed_first()) >= len(running), "the log says who was blamed")
    assert blamed_first() == running


def five_running(node: RunningNode) -> set[str]:
    """The ids of the running tasks, once they are five."""
    running = {row["id"] for row in tasks(node) if row["state"] == "running"}
    return running if len(running) == 5 else set()


def test_a_task_over_its_time_is_killed_counted_and_kept_with_the_reason(node: RunningNode) -> None:
    node.start("--timeout", "2", "--max-attempts", "2", "--retry-base", "0.02", app=APP)  # none of the quick ones takes as long
    enqueue(node, {"do": "waits", "for": "never"}, *[{"do": "quick", "n": n} for n in range(20)])
    node.wait_for_log("timeout", count=2)
    node.wait_for_log("dead", attempts=2, reason="it ran longer than 2 s (timeout); its worker was killed")
    wait_until_idle(node)
    assert [count(node, f"quick {n}") for n in range(20)] == [1] * 20
    (task,) = dead(node)
    assert "longer than 2 s" in task["spool_reason"]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_task_may_have_a_time_limit_of_its_own(node: RunningNode, kind: str) -> None:
    node.start("--max-attempts", "2", "--retry-base", "0.02", app=APP)
    enqueue(node, {"do": "waits", "for": "never", "as": kind}, extra=((b"spool_timeout", b"0.3"),))
    node.wait_for_log("dead", attempts=2, reason="it ran longer than 0.3 s (timeout)")
    if kind == "sync":
        node.wait_for_log("worker_died", count=2)
    else:
        assert not node.lines("worker_died"), "an async task is cancelled, its worker lives"


def test_children_of_a_task_that_is_over_its_time_die_with_it(node: RunningNode) -> None:
    app = NOTES + (
        "import subprocess\ndef spooler(env):\n    child = subprocess.Popen(['sleep', '600'])\n"
        "    note(child.pid)\n    child.wait()\nuwsgi.spooler = spooler\n"
    )
    node.start("--timeout", "3", "--max-attempts", "1", app=app)  # in that time it starts its child on a busy machine
    enqueue(node, {"do": "it"})
    node.wait_for_log("dead", attempts=1)
    (pid,) = notes(node)
    eventually(lambda: not is_alive(int(pid)), "the child is gone")


@pytest.mark.parametrize(("kind", "long_ones"), [("sync", 1), ("async", 2)])
def test_quick_tasks_do_not_wait_behind_long_ones_when_another_worker_is_free(
    node: RunningNode, gate: Gates, kind: str, long_ones: int
) -> None:
    # With one async task at a time the second long one holds up its worker as a long sync one does.
    node.start("--workers", "2", "--concurrency", "1", app=APP)
    for turn in range(5):
        warm_up(node, (turn + 1) * 500)
        waits = [{"do": "waits", "for": f"end{turn}", "as": kind, "n": f"{turn}.{n}"} for n in range(long_ones)]
        quick = [{"do": "quick", "n": f"{turn}.{n}"} for n in range(200)]
        enqueue(node, *quick[:20], *waits, *quick[20:])
        wait_for_notes(node, [f"quick {task['n']}" for task in quick])
        assert count(node, f"waited {turn}.0") == 0
        gate(f"end{turn}").open()
        wait_until_idle(node)
        assert {count(node, f"quick {task['n']}") for task in quick} == {1}
        assert {count(node, f"waited {task['n']}") for task in waits} == {1}


def test_workers_are_replaced_after_their_number_of_tasks_and_none_is_lost(node: RunningNode) -> None:
    node.start("--workers", "2", "--max-tasks", "20", app=APP)
    first = set(workers(node))
    for start in range(0, 400, 50):
        enqueue(node, *[{"do": "quick", "n": n} for n in range(start, start + 50)])
    wait_until_idle(node)
    assert [count(node, f"quick {n}") for n in range(400)] == [1] * 400
    node.wait_for_log("worker_recycled", count=2)
    eventually(lambda: len(workers(node)) == 2 and not first & set(workers(node)), "two new workers")
    node.stop()
    assert not node.lines("worker_died")
    assert not node.lines("retry")


def test_async_tasks_run_at_the_same_time(node: RunningNode, gate: Gates) -> None:
    node.start(app=APP)
    enqueue(node, *[{"do": "waits", "n": n, "as": "async", "for": "all"} for n in range(50)])
    eventually(lambda: len(notes(node)) == 50, "all fifty have started while none could end")
    gate("all").open()
    wait_until_idle(node)
    assert all(count(node, f"waited {n}") == 1 for n in range(50))


def test_a_sync_task_runs_beside_async_ones(node: RunningNode, gate: Gates) -> None:
    node.start(app=APP)
    enqueue(node, *[{"do": "waits", "n": n, "as": "async", "for": "all"} for n in range(5)])
    eventually(lambda: len(notes(node)) == 5, "five wait")
    enqueue(node, {"do": "quick", "n": 1})
    wait_for_note(node, "quick 1")
    gate("all").open()
    wait_until_idle(node)


def test_something_that_an_async_task_started_cannot_end_the_others(node: RunningNode) -> None:
    app = NOTES + (
        "import asyncio\nasync def bad():\n    raise SystemExit(1)\n"
        "async def spooler(env):\n    child = asyncio.ensure_future(bad())\n    await asyncio.sleep(0.05)\n"
        "    note('through')\n"
        "uwsgi.spooler = spooler\n"
    )
    node.start(app=app)
    enqueue(node, {"a": "b"}, {"a": "b"}, {"a": "b"})
    wait_for_note(node, "through", 3)
    wait_until_idle(node)


@pytest.mark.parametrize("place", ["in its batch", "in a file"])
def test_a_worker_killed_from_outside_costs_its_task_one_attempt(node: RunningNode, gate: Gates, place: str) -> None:
    node.start("--retry-base", "0.02", app=APP)
    body = {"body": b"x" * 200_000} if place == "in a file" else {}
    enqueue(node, {"do": "waits", "for": "go", **body})
    wait_for_note(node, "waits ")
    os.kill(workers(node)[0], signal.SIGKILL)
    node.wait_for_log("retry", attempts=1, reason="SIGKILL")
    gate("go").open()
    wait_for_note(node, "waited ")
    wait_until_idle(node)
    assert count(node, "waits ") == 2


def test_a_body_that_is_too_much_for_the_worker_is_a_failed_attempt_and_not_a_loop(node: RunningNode) -> None:
    app = NOTES + (
        "import resource\nused = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (48 << 20),) * 2)\n"
        "uwsgi.spooler = lambda env: note('ran', env['n'])\n"
    )
    node.start("--max-attempts", "2", "--retry-base", "0.02", app=app)
    enqueue(node, {"n": "1", "body": bytes(96 << 20)}, {"n": "2"})
    node.wait_for_log("dead", attempts=2, reason="memory")
    wait_for_note(node, "ran 2")
    assert notes(node) == ["ran 2"]
    assert len(node.lines("worker_died")) <= 2
    (task,) = dead(node)
    assert task["body_bytes"] == 96 << 20, "kept whole"


OUTPUT = (
    NOTES
    + """
import asyncio, subprocess

def spooler(env):
    if env.get("as") == "async":
        return later(env)
    how = env["how"]
    if how == "print":
        print("it says", how)
    if how == "no line end":
        print("it says", how, end="")
    if how == "stderr":
        print("it says", how, file=sys.stderr)
    if how == "descriptor":
        os.write(1, b"it says descriptor\\n")
    if how == "child":
        subprocess.run(["echo", "it says child"], check=True)
    if how == "long":
        print("it says", "x" * 100_000)
    if how in ("descriptor", "child"):
        wait("seen")  # what does not pass through Python belongs to what runs when it arrives

async def later(env):
    print("it says", end=" ")
    await asyncio.sleep(0.01)
    print(env["how"])

uwsgi.spooler = spooler
from spoolnode import timer

@timer(0.2)
def tick():
    print("it says timer")
"""
)


def test_what_a_task_prints_is_logged_with_its_id(node: RunningNode, gate: Gates) -> None:
    node.start(app=OUTPUT)
    for how in ("print", "no line end", "stderr", "long"):
        identity = spoolnode.send_to_spooler({"how": how}, via=node.via)
        line = node.wait_for_log("print", id=identity, text=f"it says {'x' * 1000 if how == 'long' else how}")
        assert line["stream"] == ("stderr" if how == "stderr" else "stdout")
    several = [spoolnode.send_to_spooler({"how": f"async {n}", "as": "async"}, via=node.via) for n in range(10)]
    for n, identity in enumerate(several):
        node.wait_for_log("print", id=identity, text=f"it says async {n}")
    through_descriptors = [spoolnode.send_to_spooler({"how": how}, via=node.via) for how in ("descriptor", "child")]
    node.wait_for_log("print", id=through_descriptors[0], text="it says descriptor")
    gate("seen").open()
    node.wait_for_log("print", text="it says child")
    assert node.wait_for_log("print", text="it says timer")["id"] == "", "a timer is no task"


def test_a_worker_that_dies_again_and_again_while_it_loads_is_started_again_with_pauses(node: RunningNode) -> None:
    node.start(app=NOTES + "note('loads')\nif is_open('broken'):\n    os._exit(9)\nuwsgi.spooler = lambda env: note('ran')\n")
    (node.directory / "gate.broken").touch()
    os.kill(workers(node)[0], signal.SIGKILL)
    node.wait_for_log("worker_broken", count=2)
    pauses = [line["again_in"] for line in node.lines("worker_broken")]
    assert all(later > earlier for earlier, later in itertools.pairwise(pauses))
    (node.directory / "gate.broken").unlink()
    enqueue(node, {"a": "b"})
    wait_for_note(node, "ran")


def limit_descriptors(node: RunningNode, number: int) -> None:
    """No descriptor from this number on can be had by the node."""
    hard = resource.prlimit(node.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(node.pid, resource.RLIMIT_NOFILE, (number, hard))


def test_a_worker_that_cannot_be_started_is_tried_again_until_there_is_room(node: RunningNode) -> None:
    node.start(app=APP)
    (worker,) = workers(node)
    limit_descriptors(node, 10)
    os.kill(worker, signal.SIGKILL)
    node.wait_for_log("worker_not_started", count=2, reason="Too many open files")
    pauses = [line["again_in"] for line in node.lines("worker_not_started")]
    assert pauses[0] < pauses[1]
    limit_descriptors(node, 1000)
    enqueue(node, {"do": "it"})
    wait_for_note(node, "it ")
    node.stop()
    assert not node.lines("mistake")


def test_a_worker_is_replaced_while_connections_hold_all_other_descriptors(node: RunningNode) -> None:
    node.start(app=APP)
    (worker,) = workers(node)
    with contextlib.ExitStack() as held:
        mine = held.enter_context(connect(("127.0.0.1", node.port)))
        mine.sendall(request({"do": "first"}, extended=True))
        read_answers(mine, 1)
        wait_for_note(node, "first ")
        limit_descriptors(node, max(map(int, os.listdir(f"/proc/{node.pid}/fd"))) + 20)
        for _ in range(60):
            held.enter_context(connect(("127.0.0.1", node.port))).sendall(b"\x11")
        node.wait_for_log("accept_failed")
        os.kill(worker, signal.SIGKILL)
        node.wait_for_log("worker_died")
        mine.sendall(request({"do": "second"}, extended=True))
        read_answers(mine, 1)
        wait_for_note(node, "second ")
    node.stop()
    assert not node.lines("worker_not_started")


def test_the_time_for_which_a_node_was_frozen_does_not_count_against_a_running_task(node: RunningNode, gate: Gates) -> None:
    node.start("--timeout", "4", app=APP)  # none of the steps below takes as long
    (worker,) = workers(node)
    enqueue(node, {"do": "waits", "for": "end"})
    wait_for_note(node, "waits ")
    began = time.monotonic()
    for pid in (node.pid, worker):
        os.kill(pid, signal.SIGSTOP)
    eventually(lambda: time.monotonic() - began > 5, "the time is over")
    os.kill(node.pid, signal.SIGCONT)
    assert status(node)["running"] == 1
    os.kill(worker, signal.SIGCONT)
    gate("end").open()
    node.wait_for_log("done")
    assert not node.lines("timeout")
    enqueue(node, {"do": "waits", "for": "never"})
    node.wait_for_log("timeout")
