"""A real uWSGI and a node on one spool directory: each runs what the other wrote, and no task runs twice."""

import hashlib
import json
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from real_programs import LINES, STORED, Lines, Uwsgi, exchange, packet
from support import PATIENCE, RunningNode, eventually

from spoolnode import send_many, send_to_spooler
from spoolnode.node.life import SETTLE_AT_STOP

# What runs the tasks, under either of the two: an unmodified uWSGI application.
RUNS = (
    LINES
    + """
import hashlib
import json
import sys
import time
import uwsgi

WHO = "uwsgi" if uwsgi.version.decode() and "spoolnode" not in sys.modules else "spoolnode"

def text(value):
    return value.decode("latin-1") if isinstance(value, bytes) else value

def spooler(env):
    body = env.pop("body", b"")
    time.sleep(float(env.get(b"seconds", b"0")))
    shown = sorted((text(key), text(value)) for key, value in env.items())
    write_line(json.dumps([WHO, dict(shown), len(body), hashlib.sha256(body).hexdigest()]))
    return uwsgi.SPOOL_OK

uwsgi.spooler = spooler
"""
)
# What enqueues, inside a real uWSGI: each call of its WSGI application spools one task.
ENQUEUES = """
import time
import uwsgi

def application(env, start_response):
    start_response("200 OK", [])
    if env["PATH_INFO"] == "/ready":
        return [b"yes"]
    task = {b"n": env["N"].encode(), b"binary": bytes(range(256))}
    body = env.get("BODY")
    if body:
        task[b"body"] = bytes(range(256)) * int(body)
    for name in ("PRIORITY", "AT"):
        if name in env:
            task[name.lower().encode()] = env[name].encode()
    spool = uwsgi.spool if int(env["N"]) % 2 else uwsgi.send_to_spooler
    return [spool(task)]
"""


class Ran:
    """One run of a task, as the application wrote it down."""

    def __init__(self, line: str) -> None:
        self.who, self.env, self.length, self.sha256 = json.loads(line)
        self.name: str = self.env.pop("spooler_task_name")

    def has(self, body: bytes) -> bool:
        """Whether it was given this body."""
        return bool((self.length, self.sha256) == (len(body), hashlib.sha256(body).hexdigest()))


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    """The application's output, in the directory of the node and of uWSGI."""
    (tmp_path / "runs.py").write_text(RUNS)
    (tmp_path / "enqueues.py").write_text(ENQUEUES)
    return Lines(tmp_path)


def files_of(spool: Path) -> list[Path]:
    return [*spool.glob("uwsgi_spoolfile_on_*"), *spool.glob("[0-9]*/uwsgi_spoolfile_on_*")]


def test_node_runs_at_once_what_a_uwsgi_application_spools(uwsgi: Uwsgi, node: RunningNode, lines: Lines) -> None:
    node.start("--app", "runs")
    uwsgi.start("--spooler-external", str(node.spool), "-w", "enqueues")
    eventually(lambda: uwsgi.call(PATH_INFO="/ready") == "yes", "the application is loaded")
    body = bytes(range(256)) * 1000
    due = int(time.time()) + 2
    began = time.monotonic()
    paths = [
        uwsgi.call(N="1"),
        uwsgi.call(N="2", BODY="1000"),
        uwsgi.call(N="3", PRIORITY="5"),
        uwsgi.call(N="4", AT=str(due)),
        uwsgi.call(N="5", AT=str(due - 60), BODY="1"),
    ]
    assert all(path.startswith(str(node.spool)) for path in paths)
    early = {ran.env["n"]: ran for ran in map(Ran, lines.wait(4))}
    assert time.monotonic() - began < 25  # the slow scan would take 30 s
    ran = {ran.env["n"]: ran for ran in map(Ran, lines.wait(5))}
    assert time.time() >= due
    assert set(ran) == set("12345")
    assert "4" not in early or time.time() >= due
    assert [Path(path).name for path in paths] == [ran[n].name for n in "12345"]
    assert all(r.who == "spoolnode" and r.env["binary"] == bytes(range(256)).decode("latin-1") for r in ran.values())
    assert ran["2"].has(body)
    assert ran["5"].has(bytes(range(256)))
    assert all(ran[n].has(b"") for n in "134")
    assert (ran["3"].env["priority"], ran["4"].env["at"]) == ("5", str(due))
    eventually(lambda: node.status()["total"] == 0 and not files_of(node.spool), "all are gone")
    eventually(lambda: node.status()["done"] == 5, "all are counted")


def test_uwsgi_runs_what_a_node_has_stored_and_the_node_notices(uwsgi: Uwsgi, node: RunningNode, lines: Lines) -> None:
    node.start()  # without --app: it accepts and keeps
    large, small = random.Random(17).randbytes(2_000_000), bytes(range(256))
    bodies = [b"", small, large]
    due = int(time.time()) + 3
    sent: list[dict[str, Any]] = [
        *({"n": str(n), "body": body} for n, body in enumerate(bodies)),
        *({"n": str(n + 3), "body": body, "priority": 7 - n} for n, body in enumerate(bodies)),
        {"n": "6", "at": due},
        {"n": "7", "at": due, "priority": 1, "body": large},
    ]
    identities = [send_to_spooler({k: v for k, v in task.items() if v != b""}, via=node.via) for task in sent]
    assert exchange(("127.0.0.1", node.port), packet([(b"n", b"8")])) == STORED
    # Each becomes a file, in uWSGI's own format and place.
    eventually(lambda: len(files_of(node.spool)) == 9, "nine spool files")
    assert {path.parent.name for path in files_of(node.spool)} == {"spool", "7", "6", "5", "1"}
    assert node.status()["total"] == 9

    uwsgi.start("-Q", str(node.spool), "-w", "runs", "--spooler-frequency", "1", "--spooler-ordered")
    ran = {ran.env["n"]: ran for ran in map(Ran, lines.wait(9))}
    assert time.time() >= due
    assert set(ran) == set("012345678")
    assert all(one.who == "uwsgi" for one in ran.values())
    assert [ran[str(n)].name for n in range(8)] == [f"uwsgi_spoolfile_on_{identity}" for identity in identities]
    assert all(ran[str(n)].has(sent[n].get("body", b"")) for n in range(8))
    numbers = [json.loads(line)[1]["n"] for line in lines()]
    assert [n for n in numbers if n in "345"] == ["5", "4", "3"]  # priority 5, 6, 7
    eventually(lambda: not files_of(node.spool), "uWSGI removes them")
    eventually(lambda: node.status()["total"] == 0, "the node notices that they are gone")
    assert node.status()["corrupt"] == 0


def test_uwsgi_runs_what_our_client_has_written_into_its_directory(uwsgi: Uwsgi, node: RunningNode, lines: Lines) -> None:
    node.spool.mkdir()
    body, due = bytes(range(256)) * 1000, int(time.time()) + 2
    sent: list[dict[str, Any]] = [{"n": "0"}, {"n": "1", "body": body}, {"n": "2", "priority": 5}, {"n": "3", "at": due}]
    identities = [send_to_spooler(task, via=f"dir:{node.spool}") for task in sent]
    uwsgi.start("-Q", str(node.spool), "-w", "runs", "--spooler-frequency", "1", "--spooler-ordered")
    ran = {ran.env["n"]: ran for ran in map(Ran, lines.wait(4))}
    assert time.time() >= due
    assert [ran[str(n)].name for n in range(4)] == [f"uwsgi_spoolfile_on_{identity}" for identity in identities]
    assert all(ran[str(n)].has(sent[n].get("body", b"")) for n in range(4))
    eventually(lambda: not files_of(node.spool), "uWSGI removes them")


def test_tasks_run_exactly_once_when_both_run_one_directory(uwsgi: Uwsgi, node: RunningNode, lines: Lines) -> None:
    node.start("--app", "runs")
    uwsgi.start("-Q", str(node.spool), "-w", "runs", "--spooler-frequency", "1", "--spooler-processes", "2")
    sent = 0

    def each_has_run_some() -> bool:
        """Sends more and looks who ran what: on a busy machine one of the two may come late."""
        nonlocal sent
        for n in range(sent, sent + 50):
            assert exchange(uwsgi.address, packet([(b"n", b"%d" % n), (b"seconds", b"0.01")])) == STORED
        sent += 50
        return sent >= 200 and {Ran(line).who for line in lines()} == {"uwsgi", "spoolnode"}

    eventually(each_has_run_some, "both of them run tasks")
    lines.wait(sent)
    eventually(lambda: not files_of(node.spool), "all files are gone")
    eventually(lambda: node.status()["total"] == 0, "the node has none left")
    runs = [Ran(line) for line in lines()]
    assert {n: count for n, count in Counter(run.env["n"] for run in runs).items() if count != 1} == {}
    assert len(runs) == sent
    node.stop()
    assert not node.lines("worker_died")


def test_each_leaves_alone_what_the_other_runs(uwsgi: Uwsgi, node: RunningNode, lines: Lines) -> None:
    # Long tasks, one held by each: scans and events come by all the time, and neither takes what is locked.
    node.start("--app", "runs", "--workers", "2")
    uwsgi.start("-Q", str(node.spool), "-w", "runs", "--spooler-frequency", "1")
    for n in range(6):
        assert exchange(uwsgi.address, packet([(b"n", b"%d" % n), (b"seconds", b"1.5")])) == STORED
    for path in files_of(node.spool):
        os.utime(path)  # an event for each
    lines.wait(6)
    eventually(lambda: node.status()["total"] == 0 and not files_of(node.spool), "all are gone")
    assert sorted(Ran(line).env["n"] for line in lines()) == list("012345")


@pytest.mark.parametrize("how", ["settle", "settle while it runs", "stop --files"])
def test_way_back_leaves_a_file_for_each_task_that_a_real_uwsgi_runs(
    uwsgi: Uwsgi, node: RunningNode, lines: Lines, how: str
) -> None:
    node.start()  # without --app: it accepts and keeps
    due, body = int(time.time()) + 2, bytes(range(256)) * 10
    count = 100 if how == "settle while it runs" else SETTLE_AT_STOP + 100  # more than a clean stop takes apart by itself
    many: list[dict[str, Any]] = [{"n": str(n)} for n in range(count)]
    special: list[dict[str, Any]] = [
        {"n": "body", "body": body},
        {"n": "late", "at": due, "body": body},
        {"n": "second", "priority": 7},
        {"n": "first", "priority": 5, "body": body},
        {"n": "typed", "number": 7},
    ]
    send_many(many + special, via=node.via, send_timeout=PATIENCE)
    send_to_spooler({"n": "elsewhere"}, node="nobody", via=node.via)
    if how == "stop --files":
        done = node.command("stop", "--files")
    elif how == "settle":
        node.command("stop", "--wait")
        assert len(files_of(node.spool)) < len(many)
        done = node.command("settle")
    else:
        done = node.command("settle")
        assert len(files_of(node.spool)) == len(many) + len(special)
        node.command("stop", "--wait")
    node.wait()
    assert done.returncode == 0, done.stderr
    assert done.stdout.removeprefix("stopped\n").splitlines() == [
        f"{len(many) + len(special)} waiting tasks with a spool file each, for uWSGI to run",
        "2 of them have a priority: uWSGI runs these only with --spooler-ordered",
        "1 of them can run only on a node: 1 with values that are not text",
        "1 task for other nodes in outbox/: only a node delivers these",
    ]
    assert len(files_of(node.spool)) == len(many) + len(special)

    uwsgi.start("-Q", str(node.spool), "-w", "runs", "--spooler-frequency", "1", "--spooler-ordered")
    lines.wait(len(many) + len(special))
    ran = {one.env["n"]: one for one in map(Ran, lines())}
    assert set(ran) == {task["n"] for task in many + special}
    assert time.time() >= due
    assert all(one.who == "uwsgi" for one in ran.values())
    assert all(ran[task["n"]].has(task.get("body", b"")) for task in many + special)
    order = [json.loads(line)[1]["n"] for line in lines()]
    assert order.index("first") < order.index("second") < order.index("0")
    assert [n for n in order if n.isdecimal()] == [task["n"] for task in many]
    eventually(lambda: not files_of(node.spool), "uWSGI removes them")


def test_few_waiting_tasks_are_files_after_each_clean_stop(node: RunningNode) -> None:
    node.start()
    send_many([{"n": str(n)} for n in range(300)], via=node.via, send_timeout=PATIENCE)
    assert node.stop() == 0
    assert len(files_of(node.spool)) == 300
