"""A task is cancelled: while it waits, while it runs, on its way to another node, and at the moment of its end."""

import asyncio
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import PATIENCE, RunningNode, eventually
from watch import NOTES, Gate, count, dead, notes, spool_files, status, wait_for_note, wait_until_idle, workers

import spoolnode
from spoolnode import client
from spoolnode.errors import NotCancelled

APP = (
    NOTES
    + """
import asyncio
import gc
from spoolnode import after_task, current_task
from spoolnode.node.work.cancelling import Cancelling

@after_task
def tell(task, outcome, error):
    if outcome != "done":
        note("after", outcome, type(error).__name__)

def sync(env):
    name = env["name"]
    note("begins", name, current_task().attempt)
    try:
        while not is_open(env["until"]):
            try:
                while not is_open(env["until"]):
                    time.sleep(0.001)
            except BaseException:
                if not env.get("stubborn"):
                    raise
                note("goes on", name)
    finally:
        note("leaves", name)
    note("ends", name)

async def later(env):
    name = env["name"]
    note("begins", name, current_task().attempt)
    try:
        while not is_open(env["until"]):
            await asyncio.sleep(0.001)
    except asyncio.CancelledError:
        note("hears of it", name)
        raise
    note("ends", name)

def spooler(env):
    if env["as"] == "blink":
        began = time.monotonic()
        while time.monotonic() - began < env["seconds"]:
            pass
        note("blinked", env["name"])
        return None
    if env["as"] == "quick":
        note("quick", env["n"])
        return None
    if env["as"] == "wanted":
        note("wanted", [known.wanted for known in gc.get_objects() if isinstance(known, Cancelling)])
        return None
    return later(env) if env["as"] == "async" else sync(env)

uwsgi.spooler = spooler
"""
)


def enqueue(node: RunningNode, name: str, kind: str = "sync", until: str = "over", **task: Any) -> str:
    """Sends a task that runs until that gate is open; its id."""
    return spoolnode.send_to_spooler({"as": kind, "name": name, "until": until, **task}, via=node.via)


def cancel(node: RunningNode, identity: str, grace: float = 60.0) -> bool:
    """Cancels a task from this process."""
    return spoolnode.cancel(identity, grace=grace, via=node.via)


def reasons(node: RunningNode) -> dict[str, str]:
    """The first lines of the reasons of the tasks in dead/, by their names."""
    return {task["variables"]["name"]: task["spool_reason"].partition("\n")[0] for task in dead(node)}


def assert_cancelled(node: RunningNode, *names: str) -> None:
    """Exactly these tasks are dead, and each is cancelled."""
    eventually(lambda: reasons(node).keys() == set(names), f"{names} are dead")
    assert all(reason.startswith("cancelled by ") and f"process {os.getpid()}" in reason for reason in reasons(node).values())


@pytest.mark.parametrize("later", [{}, {"at": 4_000_000_000}, {"body": b"x" * 300_000}], ids=["ready", "due later", "own file"])
def test_a_waiting_task_goes_to_dead_and_never_runs(
    node: RunningNode, gate: Callable[[str], Gate], later: dict[str, Any]
) -> None:
    node.start("--workers", "1", app=APP)
    first = enqueue(node, "first")
    wait_for_note(node, "begins first 1")
    second = enqueue(node, "second", **later)
    assert cancel(node, second)
    assert_cancelled(node, "second")
    assert node.wait_for_log("dead", id=second)["outcome"] == "cancelled"
    gate("over").open()
    node.wait_for_log("done", id=first)
    wait_until_idle(node)
    assert count(node, "begins second 1") == 0


@pytest.mark.parametrize(("kind", "heard"), [("sync", "leaves it"), ("async", "hears of it it")])
def test_a_running_task_ends_with_an_exception_and_its_worker_lives(node: RunningNode, kind: str, heard: str) -> None:
    node.start("--workers", "1", app=APP)
    before = workers(node)
    identity = enqueue(node, "it", kind)
    wait_for_note(node, "begins it 1")
    assert cancel(node, identity)
    assert_cancelled(node, "it")
    assert count(node, heard) == 1
    assert count(node, "ends it") == 0
    assert count(node, "after cancelled " + ("CancelledError" if kind == "async" else "Cancelled")) == 1
    assert status(node)["failed"] == 0
    node.wait_for_log("done", id=enqueue(node, "next", "quick", n=1))
    assert workers(node) == before
    assert not node.lines("retry")


def test_a_task_that_goes_on_is_ended_with_its_worker_and_the_others_lose_nothing(node: RunningNode, gate: Any) -> None:
    node.start("--workers", "1", "--max-attempts", "1", app=APP)
    innocents = [enqueue(node, f"innocent {n}", "async") for n in range(3)]
    for n in range(3):
        wait_for_note(node, f"begins innocent {n} 1")
    identity = enqueue(node, "it", stubborn=1)
    behind = enqueue(node, "behind", "quick", n=7)
    wait_for_note(node, "begins it 1")
    assert cancel(node, identity, grace=0.3)
    assert_cancelled(node, "it")
    assert reasons(node)["it"].endswith("its worker was killed")
    assert node.wait_for_log("worker_died")["reason"] == "was killed: a cancelled task went on"
    gate("over").open()
    for each in (*innocents, behind):
        node.wait_for_log("done", id=each)
    for n in range(3):
        assert count(node, f"begins innocent {n} 1") == 2, "its first attempt was not counted"


def test_a_cancelled_task_stays_cancelled_over_a_kill_9(node: RunningNode, gate: Any) -> None:
    node.start("--workers", "1", app=APP)
    running, waiting = enqueue(node, "running"), enqueue(node, "waiting")
    wait_for_note(node, "begins running 1")
    assert cancel(node, waiting)
    assert cancel(node, running)
    node.kill9()
    gate("over").open()
    node.start(app=APP)
    assert status(node)["total"] == 0
    assert_cancelled(node, "running", "waiting")


def test_a_task_that_is_cancelled_as_it_ends_has_one_end_and_the_caller_hears_which(node: RunningNode) -> None:
    """Some are cancelled in time and some too late; the task after each of them is never hit."""
    node.start("--workers", "1", app=APP)
    told: dict[str, bool] = {}
    for n in range(60):
        identity = enqueue(node, str(n), "blink", seconds=0.0003 * (n % 20))
        enqueue(node, "after", "quick", n=n)
        told[str(n)] = cancel(node, identity)
    wait_until_idle(node)
    assert reasons(node).keys() == {name for name, is_cancelled in told.items() if is_cancelled}
    for name, is_cancelled in told.items():
        assert is_cancelled or count(node, f"blinked {name}") == 1
        assert count(node, f"quick {name}") == 1
    enqueue(node, "it", "wanted")
    wait_for_note(node, "wanted [{}]")  # nothing is left of them in the worker
    node.stop()
    assert not node.lines("retry")
    assert not node.lines("worker_died")


def test_two_who_cancel_hear_the_same(node: RunningNode) -> None:
    node.start("--workers", "1", app=APP)
    identity = enqueue(node, "it")
    wait_for_note(node, "begins it 1")
    told: list[bool] = []
    threads = [threading.Thread(target=lambda: told.append(cancel(node, identity))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == [True, True]
    assert_cancelled(node, "it")


@pytest.mark.parametrize(
    "keeps_stories",
    [True, pytest.param(False, marks=pytest.mark.on_disk("a store remembers how a task ended, also without stories"))],
)
def test_a_task_that_has_ended_well_is_told_from_an_unknown_one_by_its_story(node: RunningNode, keeps_stories: bool) -> None:
    node.start(*(() if keeps_stories else ("--history", "0")), app=APP)
    identity = enqueue(node, "it", "quick", n=1)
    wait_until_idle(node)
    if keeps_stories:
        assert not cancel(node, identity)
        done = node.command("cancel", identity)
        assert done.returncode == 1
        assert "had ended well before it could be cancelled" in done.stderr
    for unknown in (f"{identity}9", *(() if keeps_stories else (identity,))):
        with pytest.raises(NotCancelled, match="there is no task"):
            cancel(node, unknown)


def test_what_is_dead_cannot_be_cancelled(node: RunningNode) -> None:
    node.start("--max-attempts", "1", app=APP)
    waiting = enqueue(node, "waiting", at=4_000_000_000)
    assert cancel(node, waiting)
    assert cancel(node, waiting), "it is cancelled, as before"
    failed = enqueue(node, "failed", "unknown", until=3)
    node.wait_for_log("dead", id=failed)
    with pytest.raises(NotCancelled, match=r"is dead.*; it has ended, and was not cancelled"):
        cancel(node, failed)


def test_a_cancelled_task_can_be_asked_for_again(node: RunningNode, gate: Any) -> None:
    node.start("--workers", "1", app=APP)
    identity = enqueue(node, "it")
    wait_for_note(node, "begins it 1")
    assert cancel(node, identity)
    gate("over").open()
    assert node.command("retry", identity).returncode == 0
    wait_for_note(node, "ends it")
    wait_until_idle(node)


@pytest.fixture
def beta(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """Another node, which does not run yet."""
    other = RunningNode(tmp_path_factory.mktemp("beta"), "beta")
    yield other
    client.close()
    other.clean_up()


@pytest.mark.on_disk("a task for another node goes through the store, and is not handed on")
def test_a_task_on_its_way_to_another_node_never_runs(node: RunningNode, beta: RunningNode) -> None:
    beta.start(app=APP)
    address = beta.via
    beta.stop()
    node.start("--discover", f"static://{address}", app=APP)
    identity = spoolnode.send_to_spooler({"as": "quick", "n": 1, "name": "it"}, address, via=node.via)
    kept = spoolnode.send_to_spooler({"as": "quick", "n": 2, "name": "kept"}, address, via=node.via)
    assert cancel(node, identity)
    assert reasons(node)["it"].startswith(f"not delivered to {address}: cancelled by ")
    beta.start(app=APP)
    wait_for_note(beta, "quick 2")
    eventually(lambda: not status(node)["outbox"], "all is sent")
    wait_until_idle(beta)
    assert count(beta, "quick 1") == 0
    assert kept != identity


@pytest.mark.on_disk("a task for another node goes through the store, and is not handed on")
def test_on_the_node_that_has_it_a_task_is_cancelled_by_the_id_of_its_first_node(
    node: RunningNode, beta: RunningNode, gate: Any
) -> None:
    beta.start("--workers", "1", app=APP)
    node.start("--discover", f"static://{beta.via}", app=APP)
    first, second, third = (
        spoolnode.send_to_spooler({"as": "sync", "until": "over", "name": name}, beta.via, via=node.via)
        for name in ("first", "second", "third")
    )
    wait_for_note(beta, "begins first 1")
    eventually(lambda: status(beta)["total"] == 3, "all have arrived")
    eventually(lambda: not status(node)["outbox"], "all have left")
    assert cancel(beta, second)
    assert cancel(beta, first)
    assert_cancelled(beta, "first", "second")
    beta.kill9()
    done = beta.command("cancel", third)
    assert done.returncode == 0, done.stderr
    assert reasons(beta).keys() == {"first", "second", "third"}


@pytest.mark.on_disk("a task for another node goes through the store, and is not handed on")
def test_the_node_that_handed_a_task_on_asks_the_one_that_has_it(node: RunningNode, beta: RunningNode, gate: Any) -> None:
    beta.start("--workers", "1", app=APP)
    node.start("--discover", f"static://{beta.via}", app=APP)

    def send(name: str, kind: str = "sync") -> str:
        task = {"as": kind, "until": "over", "name": name, "n": 1}
        return spoolnode.send_to_spooler(task, beta.via, via=node.via)

    ended = send("ended", "quick")
    wait_for_note(beta, "quick 1")
    running, waiting, left = send("running"), send("waiting"), send("left")
    wait_for_note(beta, "begins running 1")
    eventually(lambda: status(beta)["total"] == 3, "all have arrived")
    assert asyncio.run(spoolnode.acancel(waiting, via=node.via))
    assert node.command("cancel", running).returncode == 0
    assert cancel(node, running), "it is cancelled, as before"
    assert reasons(beta).keys() == {"running", "waiting"}
    assert reasons(beta)["waiting"].endswith(f"(process {os.getpid()}) from 127.0.0.1")
    assert reasons(node) == {}
    assert not cancel(node, ended)
    told = node.command("cancel", ended)
    assert (told.returncode, "had ended well" in told.stderr) == (1, True)
    beta.kill9()
    told = node.command("cancel", left)
    assert (told.returncode, "which does not cancel it: " in told.stderr) == (3, True)
    with pytest.raises(NotCancelled, match="which does not cancel it: ") as caught:
        cancel(node, left)
    assert caught.value.is_unsure


@pytest.mark.on_disk("a task for another node goes through the store, and is not handed on")
def test_a_task_that_was_handed_on_twice_is_followed(
    node: RunningNode, beta: RunningNode, tmp_path_factory: pytest.TempPathFactory, gate: Any
) -> None:
    gamma = RunningNode(tmp_path_factory.mktemp("gamma"), "gamma")
    try:
        gamma.start("--workers", "1", app=APP)
        options = ("--workers", "1", "--discover", f"static://{gamma.via}")
        beta.start(*options, "--drain-on-stop", "--grace", str(PATIENCE), app=APP)
        assert beta.command("pause").returncode == 0  # so none runs, which the drain would wait for
        node.start("--discover", f"static://{beta.via}")
        node.wait_for_log("peer_up", name="beta")
        beta.wait_for_log("peer_up", name="gamma")
        first, second = (
            spoolnode.send_to_spooler({"as": "sync", "until": "over", "name": name}, "any", via=node.via)
            for name in ("first", "second")
        )
        eventually(lambda: status(beta)["total"] == 2, "both have arrived")
        beta.stop()
        eventually(lambda: status(gamma)["total"] == 2, "both have gone on")
        with pytest.raises(NotCancelled, match="which does not cancel it: "):
            cancel(node, second)
        beta.start(*options, app=APP)
        eventually(lambda: cancel_when_known(node, second), "the node between has been found again")
        assert reasons(gamma).keys() == {"second"}
        assert cancel(gamma, first)
        assert cancel(node, first)
        assert reasons(gamma).keys() == {"first", "second"}
    finally:
        gamma.clean_up()


def cancel_when_known(node: RunningNode, identity: str) -> bool:
    """Cancels a task, once all nodes on its way can be asked."""
    try:
        return cancel(node, identity)
    except NotCancelled:
        return False


def in_doubt(node: RunningNode, beta: RunningNode) -> str:
    """The id of a task that `node` has sent to a `beta` that reads nothing; `node` is dead then, and beta stopped."""
    spoolnode.send_to_spooler({"as": "quick", "n": 1, "name": "before"}, beta.via, via=node.via)
    wait_for_note(beta, "quick 1")
    os.kill(beta.pid, signal.SIGSTOP)
    identity = spoolnode.send_to_spooler({"as": "sync", "until": "over", "name": "it"}, beta.via, via=node.via)
    eventually(lambda: json.loads(node.command("ls", "--outbox", "--json").stdout)[0]["attempts"] == 1, "it is sent")
    client.close()
    node.kill9()
    return identity


@pytest.mark.on_disk("a task for another node goes through the store, and is not handed on")
def test_a_task_in_doubt_that_did_not_arrive_never_runs_once_that_is_known(node: RunningNode, beta: RunningNode) -> None:
    beta.start(app=APP)
    options = ("--discover", f"static://{beta.via}")
    node.start(*options, app=APP)
    identity = in_doubt(node, beta)
    beta.kill9()
    node.start(*options, app=APP)
    told = node.command("cancel", identity)
    assert (told.returncode, "may have taken it before" in told.stderr) == (3, True)
    assert "; it may have been taken there before" in reasons(node)["it"]
    assert status(node)["outbox"] == {}
    beta.start(app=APP)
    eventually(lambda: cancel_when_known(node, identity), "beta says that it has not come")
    spoolnode.send_to_spooler({"as": "quick", "n": 2, "name": "after"}, beta.via, via=node.via)
    wait_for_note(beta, "quick 2")
    wait_until_idle(beta)
    assert count(beta, "begins it 1") == 0
    assert reasons(node).keys() == {"it"}


@pytest.mark.on_disk("a task for another node goes through the store, and is not handed on")
def test_a_task_in_doubt_that_did_arrive_is_cancelled_where_it_is(node: RunningNode, beta: RunningNode) -> None:
    beta.start(app=APP)
    options = ("--discover", f"static://{beta.via}")
    node.start(*options, app=APP)
    identity = in_doubt(node, beta)
    os.kill(beta.pid, signal.SIGCONT)
    wait_for_note(beta, "begins it 1")
    os.kill(beta.pid, signal.SIGSTOP)
    node.start(*options, app=APP)
    told: list[bool] = []
    cancelling = threading.Thread(target=lambda: told.append(cancel(node, identity)))
    cancelling.start()
    eventually(lambda: reasons(node).keys() == {"it"}, "it waits no longer")
    os.kill(beta.pid, signal.SIGCONT)
    cancelling.join()
    assert told == [True]
    assert_cancelled(beta, "it")
    assert reasons(node) == {}, "the other node has it"


@pytest.mark.on_disk("the directory alone does not see the store")
def test_a_directory_without_a_node_is_enough(node: RunningNode) -> None:
    node.start(app=APP)
    waiting = enqueue(node, "waiting", at=4_000_000_000)
    large = enqueue(node, "large", at=4_000_000_000, body=b"x" * 300_000)
    node.kill9()
    done = node.command("cancel", waiting, large)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{waiting} cancelled", f"{large} cancelled"]
    assert reasons(node).keys() == {"waiting", "large"}
    assert spool_files(node) == []
    node.start(app=APP)
    assert status(node)["total"] == 0


def test_the_command_says_how_each_ended(node: RunningNode) -> None:
    node.start("--workers", "1", app=APP)
    identity = enqueue(node, "it")
    wait_for_note(node, "begins it 1")
    done = node.command("cancel", "--grace", "10", identity, f"{identity}9")
    assert done.returncode == 1
    assert done.stdout == f"{identity} cancelled\n"
    assert "there is no task" in done.stderr
    assert "(spoolnode cancel)" in reasons(node)["it"]
    assert notes(node)[-1] == "after cancelled Cancelled"
