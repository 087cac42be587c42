"""Looking at a spool and changing it by command: through its node when one runs, by its files when none does."""

import fcntl
import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import click
import pytest
from support import RunningNode, command, eventually

import spoolnode
from spoolnode.cli.printing import print_table
from spoolnode.protocol import spoolfile
from spoolnode.protocol.packet import encode_variables


def listed(node: RunningNode, *args: str) -> list[dict[str, Any]]:
    done = node.command("ls", "--json", *args)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def send(node: RunningNode, *args: str) -> str:
    done = node.command("send", *args)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(params=["running", "stopped"])
def spool(request: pytest.FixtureRequest, node: RunningNode) -> RunningNode:
    """A spool with three tasks that do not run (no application): plain, of a priority, due in an hour."""
    node.start()
    node.first = send(node, "name=plain", "-j", "n=7")  # type: ignore[attr-defined] # a note for the tests
    node.second = send(node, "name=soon", "--priority", "3")  # type: ignore[attr-defined] # a note for the tests
    node.third = send(node, "name=late", "--at", "+1h")  # type: ignore[attr-defined] # a note for the tests
    if request.param == "stopped":
        assert node.stop() == 0
    return node


@pytest.fixture(params=["running", "stopped"])
def graveyard(request: pytest.FixtureRequest, node: RunningNode, app: str) -> RunningNode:
    """A spool with two dead tasks."""
    node.start("--max-attempts", "1", app=app)
    node.dead = [send(node, "do=fail", f"name={name}") for name in ("one", "two")]  # type: ignore[attr-defined] # a note for the tests
    node.wait_for_log("dead", count=2)
    if request.param == "stopped":
        assert node.stop() == 0
    return node


def test_ls_shows_the_order_in_which_they_run(spool: Any) -> None:
    rows = listed(spool)
    assert [row["id"] for row in rows] == [spool.second, spool.first, spool.third]
    assert [row["state"] for row in rows] == ["waiting", "waiting", "later"]
    assert [row["priority"] for row in rows] == [3, None, None]


def test_ls_as_a_table_and_with_a_limit(spool: Any) -> None:
    done = spool.command("ls", "--limit", "2")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["ID", "STATE", "FUNCTION", "PRIORITY", "DUE", "AGE", "ATTEMPTS", "SIZE"]
    assert [line.split()[0] for line in lines[1:]] == [spool.second, spool.first]
    assert done.stderr == "only the first 2 are shown; --limit 0 shows all\n"
    assert len(listed(spool, "--limit", "0")) == 3


def test_accepted_is_when_the_node_took_it_not_when_it_is_due(node: RunningNode, app: str) -> None:
    node.start("--max-attempts", "5", "--retry-base", "600", "--retry-max", "600", app=app)
    before = time.time()
    identity = send(node, "do=fail")
    eventually(lambda: [row["state"] for row in listed(node)] == ["later"], "it waits for its next attempt")
    (row,) = listed(node)
    assert row["id"] == identity
    assert row["accepted_at"] == pytest.approx(before, abs=30)


def test_function_is_listed_with_and_without_a_node(node: RunningNode) -> None:
    node.start()
    send(node, "ud_spool_func=resize", "a=b")
    assert [row["function"] for row in listed(node)] == ["resize"]
    node.stop()
    assert [row["function"] for row in listed(node)] == ["resize"]
    assert "resize" in node.command("ls").stdout


@pytest.mark.parametrize("room", [20, 60, 80, 100, 200])
def test_table_on_a_terminal_never_cuts_an_id(
    room: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(room))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    identity = "0123456789ab_1764000000000000_123456"
    row = [identity, "3 min", "resize", "RuntimeError: " + "very \x1b[31m long " * 20, "", "5", "1.2 KiB"]
    print_table(["id", "dead for", "function", "reason", "due", "attempts", "size"], [row])
    said = capsys.readouterr()
    head, line = (click.unstyle(line) for line in said.out.splitlines())
    assert line.startswith(identity)
    assert "\x1b" not in line
    assert "DUE" not in head
    assert head.startswith("ID ")
    assert len(line) <= max(room, len(identity) + 2 + 8 + 2 + 20)
    assert ("REASON" in head, "SIZE" in head) == (True, room >= 100)
    assert ("SIZE" in said.err) == (room < 100)  # it is never left out silently


def test_show_has_the_contents(spool: Any) -> None:
    task = json.loads(spool.command("show", spool.first, "--json").stdout)
    assert task["variables"] == {"name": "plain", "n": 7}
    assert "name" in spool.command("show", f"uwsgi_spoolfile_on_{spool.first}").stdout


def test_rm_removes_and_says_what_it_could_not(spool: Any) -> None:
    done = spool.command("rm", spool.first, "nothing_1_2", f"some/where/uwsgi_spoolfile_on_{spool.third}", "--json")
    assert done.returncode == 1
    answers = json.loads(done.stdout)
    assert [answer["removed"] for answer in answers] == [True, False, True]
    assert "there is no task nothing_1_2 here" in answers[1]["error"]
    assert [row["id"] for row in listed(spool)] == [spool.second]


def test_removed_task_does_not_come_back_when_the_node_starts_again(spool: Any, app: str) -> None:
    assert spool.command("rm", spool.first).returncode == 0
    if spool.is_running:
        spool.stop()
    spool.start(app=app)
    spool.wait_for_log("print", text="ran soon")
    eventually(lambda: [row["id"] for row in listed(spool)] == [spool.third], "only the late one is left")
    assert not spool.lines("print", text="ran plain")


def test_retry_of_a_ready_task_is_an_error(spool: Any) -> None:
    done = spool.command("retry", spool.second)
    assert done.returncode == 1
    assert "ready" in done.stderr or "batch" in done.stderr


def test_retry_brings_a_late_task_forward(node: RunningNode, app: str) -> None:
    node.start(app=app)
    identity = send(node, "name=late", "--at", "+1h")
    assert node.command("retry", identity).stdout == f"{identity} is ready\n"
    node.wait_for_log("print", id=identity, text="ran late")


def test_retry_of_a_stopped_spool_brings_a_file_forward(node: RunningNode, app: str) -> None:
    node.start()
    assert node.stop() == 0
    file = node.spool / "uwsgi_spoolfile_on_me_1"
    file.write_bytes(b"\x11\x0c\x00\x00\x04\x00name\x04\x00late"[:4] + b"\x04\x00name\x04\x00late")
    os.utime(file, (time.time() + 3600,) * 2)
    assert [row["state"] for row in listed(node)] == ["later"]
    assert node.command("retry", file.name).returncode == 0
    node.start(app=app)
    node.wait_for_log("print", id="me_1", text="ran late")


@pytest.mark.parametrize("line", [["show"], ["rm"], ["retry"], ["dead", "rm"], ["dead", "retry"]])
def test_unknown_or_impossible_id_is_one_sentence_and_1(spool: Any, line: list[str]) -> None:
    for text, said in (("me_1_2", "there is no task me_1_2 here"), ("../../etc/pass wd", "is not a task id")):
        done = spool.command(*line, text)
        assert done.returncode == 1
        assert said in done.stderr
        assert done.stderr.count("\n") == 1


# --- the dead ---


def test_dead_ls_has_the_reason(graveyard: Any) -> None:
    for line in (["dead", "ls", "--json"], ["ls", "--dead", "--json"]):
        rows = json.loads(graveyard.command(*line).stdout)
        assert {row["id"] for row in rows} == set(graveyard.dead)
        assert {row["reason"] for row in rows} == {"RuntimeError: told to fail"}
    assert "RuntimeError: told to fail" in graveyard.command("dead", "ls").stdout


def test_dead_retry_of_one_runs_it_again(graveyard: Any, app: str) -> None:
    one, two = graveyard.dead
    assert graveyard.command("dead", "retry", one).stdout == f"{one} is ready\n"
    if not graveyard.is_running:
        graveyard.start("--max-attempts", "1", app=app)
    graveyard.wait_for_log("dead", id=one, count=2)
    assert len(graveyard.lines("dead", id=two)) == 1


def test_dead_retry_all_runs_them_again(graveyard: Any, app: str) -> None:
    assert graveyard.command("dead", "retry", "--all", "-y").stdout == "2 tasks are ready\n"
    if not graveyard.is_running:
        graveyard.start("--max-attempts", "1", app=app)
    graveyard.wait_for_log("dead", count=4)


def test_dead_rm_of_one_and_of_all(graveyard: Any) -> None:
    one, two = graveyard.dead
    assert graveyard.command("dead", "rm", one).stdout == f"{one} removed\n"
    assert [row["id"] for row in listed(graveyard, "--dead")] == [two]
    assert json.loads(graveyard.command("dead", "rm", "--all", "--yes", "--json").stdout) == {"removed": 1}
    assert listed(graveyard, "--dead") == []
    assert graveyard.command("dead", "rm", "--all").returncode == 0


def test_dead_commands_leave_waiting_tasks_alone(spool: Any) -> None:
    for verb in ("rm", "retry"):
        done = spool.command("dead", verb, spool.first)
        assert done.returncode == 1
        assert f"the task {spool.first} is not dead but waiting" in done.stderr
    assert len(listed(spool)) == 3


@pytest.mark.parametrize("line", [["rm"], ["retry"], ["show"]])
def test_ids_must_be_named(tmp_path: Path, line: list[str]) -> None:
    assert command(*line, "-Q", str(tmp_path)).returncode == 2


def test_empty_listings_say_so_and_are_empty_lists_for_programs(node: RunningNode) -> None:
    node.start()
    for line in (["ls"], ["ls", "--dead"], ["ls", "--outbox"], ["dead", "ls"]):
        done = node.command(*line)
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr.startswith("no task ")
        assert json.loads(node.command(*line, "--json").stdout) == []


# --- without a node ---


def test_spool_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    for line in (["ls"], ["status"], ["show", "x_1"], ["rm", "x_1"], ["dead", "ls"]):
        done = command(*line, "-Q", "nowhere", cwd=tmp_path)
        assert done.returncode == 1
        assert f"the spool directory {tmp_path}/nowhere does not exist" in done.stderr
    assert not list(tmp_path.iterdir())


def test_directory_of_a_uwsgi_server_can_be_read_and_changed(tmp_path: Path) -> None:
    file = tmp_path / "uwsgi_spoolfile_on_host_77_1_0_1764000000_5"
    file.write_bytes(b"\x11\x0b\x00\x00\x04\x00Name\x03\x00Ada")
    (row,) = json.loads(command("ls", "-Q", str(tmp_path), "--json").stdout)
    assert (row["id"], row["state"]) == ("host_77_1_0_1764000000_5", "waiting")
    task = json.loads(command("show", str(file), "-Q", str(tmp_path), "--json").stdout)
    assert task["variables"] == {"Name": "Ada"}
    assert command("rm", row["id"], "-Q", str(tmp_path)).returncode == 0
    assert not file.exists()


def test_file_that_another_program_runs_is_not_removed(tmp_path: Path) -> None:
    file = tmp_path / "uwsgi_spoolfile_on_host_1"
    file.write_bytes(b"\x11\x0b\x00\x00\x04\x00Name\x03\x00Ada")
    with file.open("r+b") as held:
        fcntl.lockf(held, fcntl.LOCK_EX)
        done = command("rm", "host_1", "-Q", str(tmp_path))
    assert (done.returncode, done.stderr) == (1, "Error: the task host_1 is being run by another program\n")
    assert file.exists()


def test_nothing_is_changed_behind_a_node_that_does_not_answer(node: RunningNode) -> None:
    node.start()
    identity = send(node, "a=b")
    (node.spool / "control.sock").unlink()
    (node.spool / "control.sock").touch()  # nothing answers there; without a name it would be made again
    done = node.command("rm", identity)
    assert done.returncode == 1
    assert f"another node (pid {node.pid}) runs on" in done.stderr


# --- status ---


def test_status_in_numbers_and_in_words(node: RunningNode, app: str) -> None:
    node.start(app=app)
    node.wait_for_log("print", id=send(node, "name=Ada"))
    send(node, "name=late", "--at", "+1h")
    eventually(lambda: node.status()["done"] == 1, "it is counted as done")
    status = node.status()
    assert (status["name"], status["accepted"], status["later"], status["state"]) == ("testnode", 2, 1, "running")
    words = node.command("status").stdout
    for line in (f"listens      {node.via}", "application  app.py, 1 worker", "sync         always: each task is on disk"):
        assert line in words


def test_status_says_which_function_is_missing_until_its_task_has_run(node: RunningNode) -> None:
    another, missing = ("from spoolnode import spool\n" + f"@spool\ndef {name}(): pass\n" for name in ("another", "male"))
    node.start("--retry-base", "3600", app=another)
    identity = node.command("call", "app:male", "--via", node.via).stdout.strip()
    node.wait_for_log("retry", id=identity)
    waits = "1 task waits on testnode for the function app:male, which its application does not have."
    assert f"warning      {waits} Load one that has it: spoolnode reload\n" in node.command("status").stdout
    (node.directory / "app.py").write_text(missing)
    assert node.command("reload").returncode == 0
    assert node.command("retry", identity).returncode == 0
    node.wait_for_log("done", id=identity)
    assert "warning" not in node.command("status").stdout


def test_id_that_is_no_record_of_its_batch_harms_nothing(node: RunningNode, app: str) -> None:
    node.start()
    ids = [send(node, f"name=n{number}") for number in range(3)]
    batch, _, offset = ids[1].rpartition("_")
    for wrong in (int(offset) - 1, int(offset) + 1, 3, 10**9):
        assert node.command("rm", f"{batch}_{wrong}").returncode == 1
        assert node.command("retry", f"{batch}_{wrong}").returncode == 1
    node.kill9()
    node.start(app=app)
    for number, identity in enumerate(ids):
        node.wait_for_log("print", id=identity, text=f"ran n{number}")


def test_task_that_has_ended_cannot_be_removed_while_its_batch_lives(node: RunningNode, app: str) -> None:
    node.start(app=app)
    send(node, "name=late", "--at", "+1h")
    ended = send(node, "name=ended")
    node.wait_for_log("print", id=ended)
    eventually(lambda: node.command("rm", ended).returncode == 1, "it counts as ended")
    assert f"there is no task {ended} here" in node.command("rm", ended).stderr
    assert [row["state"] for row in listed(node)] == ["later"]


HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\x9b31m\u202e"


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_nothing_that_a_task_holds_steers_the_terminal(node: RunningNode, app: str, state: str) -> None:
    node.start("--max-attempts", "1", "--log-format", "text", "--log-level", "debug", app=app, wait=False)
    eventually((node.spool / "control.sock").exists, "it runs")
    via = {"SPOOLNODE_VIA": str(node.spool / "spool.sock")}
    eventually(lambda: command("send", "do=fail", f"name={HOSTILE}", f"{HOSTILE}=x", f"ud_spool_func={HOSTILE}", **via).stdout)
    deep = b"\x81\xa1x" + b"\x91" * 400 + b"\xd6\xff\x00\x00\x00\x01"
    block = encode_variables([(b"spool_values", deep), (b"at\x1b", HOSTILE.encode())])
    name = "uwsgi_spoolfile_on_deep_1"
    (node.spool / "new").write_bytes(spoolfile.head(block))
    os.utime(node.spool / "new", (4e9, 4e9))
    (node.spool / "new").rename(node.spool / name)
    eventually(lambda: json.loads(node.command("dead", "ls", "--json").stdout or "[]"), "it is dead")
    eventually(lambda: [row for row in listed(node) if row["id"] == "deep_1"], "the file is seen")
    (dead,) = json.loads(node.command("dead", "ls", "--json").stdout)
    if state == "stopped":
        assert node.stop() == 0
    for args in (
        ["show", dead["id"]],
        ["show", dead["id"], "--json"],
        ["show", "deep_1"],
        ["ls"],
        ["dead", "ls"],
        ["rm", HOSTILE],
    ):
        done = node.command(*args)
        assert done.returncode == 0 or args[0] == "rm", done.stderr
        for line in (done.stdout + done.stderr).split("\n"):
            assert line.replace("\t", "").isprintable(), (args, line)
        assert args != ["show", dead["id"]] or "\\x1b[2J" in done.stdout
    assert all(line.rstrip("\n").replace("\t", "").isprintable() for line in node.noise), "the log is for people, too"


def test_settle_counts_apart_what_only_a_node_can_run(node: RunningNode) -> None:
    """Calls of `uwsgidecorators` are uWSGI's as well, those of spoolnode's `@spool` are not."""
    node.start()
    for task in (["ud_spool_func=resize", "a=b"], ["a=b", "-j", "n=7"], ["-j", "n=8"]):
        send(node, *task)
    spoolnode.spool(name="jobs:resize")(print).options(via=node.via).spool("a")
    done = node.command("stop", "--files")
    assert done.stdout.splitlines() == [
        "stopped",
        "4 waiting tasks with a spool file each, for uWSGI to run",
        "3 of them can run only on a node: 2 with values that are not text, 1 call of functions with spoolnode's @spool",
    ]
    counts = json.loads(node.command("settle", "--json").stdout)
    assert (counts["files"], counts["ours"], counts["calls"]) == (4, 3, 1)


def test_status_says_how_long_a_node_has_run_and_that_it_stops(node: RunningNode) -> None:
    node.start(app="import time, uwsgi\nuwsgi.spooler = lambda env: time.sleep(600)\n")  # the task outlives the test
    send(node, "a=b")
    eventually(lambda: node.status()["running"] == 1, "it runs")
    assert node.command("stop").stdout == "stopping\n"
    assert json.loads(node.command("status", "--json").stdout)["state"] == "stopping"
    (line,) = [line for line in node.command("status").stdout.splitlines() if line.startswith("node ")]
    assert re.search(r"\), running for .* s, stopping, pid \d+$", line)
    assert node.wait_for_log("stopping")["hint"] == "a second SIGTERM ends it at once"


def test_status_of_a_node_that_says_nothing_waits_five_seconds(node: RunningNode) -> None:
    node.start()
    os.kill(node.pid, signal.SIGSTOP)
    try:
        done = node.command("status")
    finally:
        os.kill(node.pid, signal.SIGCONT)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("did not answer in 5 s\n")


THIRD_TIME = """
import os, time, uwsgi

def spooler(env):
    with open("runs", "a") as file:
        file.write("x")
    runs = os.path.getsize("runs")
    if runs == 1:
        raise RuntimeError("no")
    if runs == 2:
        return uwsgi.SPOOL_RETRY
    time.sleep(600)  # this run outlives the test

uwsgi.spooler = spooler
"""


def test_ls_counts_the_present_run_and_counts_anew_when_a_run_asks_for_another(node: RunningNode) -> None:
    node.start("--retry-base", "0.01", "--spooler-frequency", "0.01", app=THIRD_TIME)
    send(node, "a=b")
    eventually(lambda: [row["state"] for row in listed(node)] == ["running"] and node.lines("retry"), "it runs")
    eventually(lambda: (node.directory / "runs").read_text() == "xxx", "it runs for the third time")
    eventually(lambda: [(row["state"], row["attempts"]) for row in listed(node)] == [("running", 1)], "it is the first attempt")


def test_timers_are_shown_with_their_times_and_the_place_where_they_run(node: RunningNode) -> None:
    source = "from spoolnode import cron, timer\n@timer(0.1)\ndef tick(): ...\n"
    node.start(app=f'{source}@cron("0 3 * * *", tz="Europe/Rome", cluster=True, catch_up=True)\ndef report(): ...\n')

    def rows() -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in json.loads(node.command("timers", "--json").stdout)}

    eventually(lambda: rows()["app:tick"]["last_at"], "the timer was called")
    tick, report = rows()["app:tick"], rows()["app:report"]
    assert tick == {**tick, "when": "every 0.1 s", "cluster": False, "by": node.name}
    assert 0 < report["next_at"] - time.time() <= 25 * 3600
    known = {"when": "0 3 * * * Europe/Rome", "cluster": True, "catch_up": True, "last_at": None, "by": ""}
    assert report == {**report, **known}
    table = node.command("timers").stdout.splitlines()
    assert table[0].split() == ["NAME", "WHEN", "ON", "NEXT", "LAST", "BY"]
    assert table[1].startswith("app:report  0 3 * * * Europe/Rome  one node   ")


def test_a_node_without_timers_says_so(node: RunningNode) -> None:
    node.start()
    assert node.command("timers").stderr == "the application has no timers\n"
