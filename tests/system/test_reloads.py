"""New code is taken whenever that is asked for, whatever the last load does, and running tasks do not pay for it."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from support import RunningNode, eventually
from watch import NOTES, Gate, count, notes, status, wait_for_note, wait_until_idle, workers

import spoolnode

Gates = Callable[[str], Gate]

APP = (
    NOTES
    + """
VERSION = "one"
note("loads", VERSION)

def spooler(env):
    note("starts", env["n"], VERSION)
    if "for" in env:
        wait(env["for"])
    note("ends", env["n"])

uwsgi.spooler = spooler
"""
)


def write(node: RunningNode, version: str, gate: str = "") -> None:
    """New code, which loads when the gate is open."""
    waits = f'wait("{gate}")\n' if gate else ""
    (node.directory / "app.py").write_text(APP.replace('"one"', f'"{version}"') + waits)


def hang_up(node: RunningNode) -> None:
    """SIGHUP."""
    os.kill(node.pid, signal.SIGHUP)


def enqueue(node: RunningNode, number: int, **more: str) -> None:
    """Sends a task with this number."""
    spoolnode.send_to_spooler({"n": number, **more}, via=node.via)


def handled(pid: int, number: signal.Signals) -> bool:
    """Whether a process ignores or handles a signal."""
    lines = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    return bool((int(lines["SigIgn"], 16) | int(lines["SigCgt"], 16)) >> (number - 1) & 1)


def test_a_reload_that_is_asked_for_during_one_is_remembered(node: RunningNode, gate: Gates) -> None:
    node.start(app=APP)
    write(node, "two", gate="load")
    hang_up(node)
    wait_for_note(node, "loads two")
    write(node, "three")
    hang_up(node)
    gate("load").open()
    node.wait_for_log("reloaded", count=2)
    enqueue(node, 1)
    wait_for_note(node, "starts 1 three")


def test_sighup_and_its_like_while_a_node_starts_do_not_end_it(node: RunningNode, gate: Gates) -> None:
    (node.directory / "app.py").write_text(APP + 'wait("load")\n')
    node.start("--app", "app.py", wait=False, PYTHONUNBUFFERED="1")  # a fresh one, which must get through its imports

    def is_harmless() -> bool:
        there = node.spool.exists()
        harmless = handled(node.pid, signal.SIGHUP)  # asked second: it may have become true a moment ago
        assert harmless or not there, "it is harmless before anything else is done"
        return harmless

    eventually(is_harmless, "SIGHUP is harmless")
    hang_up(node)
    wait_for_note(node, "loads one")
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(node.pid, number)
    write(node, "two")
    gate("load").open()
    node.wait_until_ready()
    node.wait_for_log("reloaded")
    enqueue(node, 1)
    wait_for_note(node, "starts 1 two")


@pytest.mark.slow  # a load gets five seconds before it gives way
def test_a_first_load_that_hangs_gives_way_to_new_code(node: RunningNode) -> None:
    (node.directory / "app.py").write_text(APP + 'wait("never")\n')
    node.start("--workers", "2", "--app", "app.py", wait=False)
    wait_for_note(node, "loads one")
    write(node, "two")
    hang_up(node)
    node.wait_until_ready()
    assert len(workers(node)) == 2
    enqueue(node, 1)
    wait_for_note(node, "starts 1 two")


def test_reload_waits_and_says_what_became_of_it(node: RunningNode, gate: Gates) -> None:
    node.start(app=APP)
    write(node, "two")
    done = node.command("reload")
    assert (done.returncode, done.stdout) == (0, "reloaded: new tasks run the new code\n")
    enqueue(node, 1)
    wait_for_note(node, "starts 1 two")
    (node.directory / "app.py").write_text("this is no Python")
    done = node.command("reload")
    assert done.returncode == 1
    assert "the old workers go on" in done.stderr
    assert "SyntaxError" in done.stderr
    write(node, "three", gate="load")
    done = node.command("reload", "--wait", "0.1")
    assert (done.returncode, done.stdout) == (3, "")
    gate("load").open()
    node.wait_for_log("reloaded", count=2)
    assert node.command("reload", "--wait", "0").returncode == 0


def test_a_stop_does_not_wait_for_a_load_that_hangs(node: RunningNode) -> None:
    node.start("--grace", "1h", app=APP)
    write(node, "two", gate="never")
    hang_up(node)
    wait_for_note(node, "loads two")
    assert node.stop() == 0


def test_a_task_longer_than_the_grace_survives_a_reload_while_new_workers_take_new_tasks(node: RunningNode, gate: Gates) -> None:
    node.start("--grace", "0.1", app=APP)
    enqueue(node, 1, **{"for": "end"})
    wait_for_note(node, "starts 1 one")
    write(node, "two")
    hang_up(node)
    node.wait_for_log("reloaded")
    enqueue(node, 2)
    wait_for_note(node, "ends 2")
    assert status(node)["old_workers"] == 1
    assert "1 old worker still runs tasks from before the reload" in node.command("status").stdout
    gate("end").open()
    wait_until_idle(node)
    eventually(lambda: status(node)["old_workers"] == 0, "the old worker has left")
    assert sorted(note for note in notes(node) if "load" not in note) == ["ends 1", "ends 2", "starts 1 one", "starts 2 two"]


def test_what_an_old_worker_runs_longer_than_reload_grace_is_put_back_and_not_counted(node: RunningNode, gate: Gates) -> None:
    node.start("--reload-grace", "0.1", "--max-attempts", "1", app=APP)
    enqueue(node, 1, **{"for": "end"})
    wait_for_note(node, "starts 1 one")
    write(node, "two")
    hang_up(node)
    node.wait_for_log("grace_over")
    wait_for_note(node, "starts 1 two")
    gate("end").open()
    wait_until_idle(node)
    assert status(node)["dead"] == 0


def test_an_old_worker_has_no_more_than_the_grace_of_a_stop(node: RunningNode) -> None:
    node.start("--grace", "0.1", app=APP)
    enqueue(node, 1, **{"for": "never"})
    wait_for_note(node, "starts 1 one")
    hang_up(node)
    node.wait_for_log("reloaded")
    assert node.stop() == 0


def test_reloads_wait_when_many_old_workers_still_run_something(node: RunningNode, gate: Gates) -> None:
    node.start(app=APP)
    for number in range(3):
        enqueue(node, number, **{"for": "end"})
        wait_for_note(node, f"starts {number} one")
        hang_up(node)
        node.wait_for_log("reloaded", count=number + 1)
    write(node, "two")
    for _ in range(10):
        hang_up(node)
    node.wait_for_log("reload_waits")
    assert status(node)["old_workers"] == 3
    assert node.command("reload", "--wait", "0.1").returncode == 3
    gate("end").open()
    node.wait_for_log("reloaded", count=4)
    enqueue(node, 4)
    wait_for_note(node, "starts 4 two")
    wait_until_idle(node)
    assert [count(node, f"ends {number}") for number in range(3)] == [1, 1, 1]


@pytest.mark.slow  # the files are looked at once a second
def test_a_file_that_is_touched_written_replaced_or_made_loads_the_application_anew(node: RunningNode) -> None:
    first, second = node.directory / "deployed", node.directory / "made"
    first.touch()
    node.start("--touch-reload", str(first), "--touch-reload", str(second), app=APP)
    changes: list[Callable[[], object]] = [
        lambda: os.utime(first, (1, 1)),
        lambda: os.truncate(first, 3),  # one change, as the node sees it: a write after a truncation could be two
        lambda: (first.with_suffix(".new").write_text("newer"), os.replace(first.with_suffix(".new"), first)),
        second.touch,
    ]
    for number, change in enumerate(changes, 1):
        change()
        node.wait_for_log("touched", count=number)
        node.wait_for_log("reloaded", count=number)
    first.unlink()
    os.utime(second, (2, 2))
    node.wait_for_log("touched", count=5)
    assert [line["file"] for line in node.lines("touched")] == [str(first)] * 3 + [str(second)] * 2


@pytest.mark.slow  # the files are looked at once a second
def test_a_file_that_is_touched_while_the_application_loads_loads_it_anew(node: RunningNode) -> None:
    deployed = node.directory / "deployed"
    noting = f"import pathlib\ndeployed = pathlib.Path({str(deployed)!r})\nif not deployed.exists():\n    deployed.touch()\n"
    node.start("--touch-reload", str(deployed), app=APP + noting)
    node.wait_for_log("reloaded")


def test_signals_of_log_rotation_end_nothing_and_are_said_once(node: RunningNode, gate: Gates) -> None:
    node.start(app=APP)
    (worker,) = workers(node)
    enqueue(node, 1, **{"for": "end"})
    wait_for_note(node, "starts 1 one")
    for _ in range(3):
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            os.kill(node.pid, number)
            os.kill(worker, number)
            node.wait_for_log("signal_ignored", signal=number.name)
    gate("end").open()
    wait_for_note(node, "ends 1")
    assert [line["signal"] for line in node.lines("signal_ignored")] == ["SIGUSR1", "SIGUSR2"]
    assert workers(node) == [worker]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_to_all_processes_lets_what_runs_end(node: RunningNode, gate: Gates, number: signal.Signals) -> None:
    node.start(app=APP)
    enqueue(node, 1, **{"for": "end"})
    wait_for_note(node, "starts 1 one")
    for pid in [*workers(node), node.pid]:
        os.kill(pid, number)
    node.wait_for_log("stopping")
    gate("end").open()
    assert node.wait() == 0
    assert count(node, "ends 1") == 1
