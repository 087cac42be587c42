"""One application, not changed by a byte, does the same under a node as under a real uWSGI."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from real_programs import LINES, Lines, lines_of_uwsgi
from support import PATIENCE, RunningNode, environment, eventually

from spoolnode import send_to_spooler

DECORATED = (
    LINES
    + """
import time
import uwsgi
from uwsgidecorators import spool, spoolforever, spoolraw, timer

uwsgi.set_spooler_frequency(1)
BEGAN = time.time()


def show(env):
    env = dict(env)
    assert env.pop("spooler_task_name").startswith("uwsgi_spoolfile_on_"), env
    if "at" in env:
        env["at"] = time.time() >= int(env["at"])
    if "body" in env:
        env["body"] = env["body"][:20], len(env["body"])
    return sorted(env.items())


@spool
def plain(env):
    write_line("plain", show(env))
    return 17  # of no interest


@spool(pass_arguments=True)
def arguments(*args, **kwargs):
    write_line("arguments", args, sorted(kwargs.items()))


@spoolraw
def raw(env):
    attempts = sum(line.startswith("raw ") for line in open(os.path.join(os.path.dirname(__file__), "lines.txt")))
    write_line("raw", attempts, show(env))
    return uwsgi.SPOOL_OK if attempts == 2 else uwsgi.SPOOL_RETRY


@spoolraw(pass_arguments=True)
def raw_arguments(a, b=None):
    write_line("raw_arguments", a, b)
    return uwsgi.SPOOL_OK


@spoolforever
def forever(env):
    write_line("forever", show(env))


@spool
def fails_once(env):
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "failed_once")
    if not os.path.exists(path):
        open(path, "w").close()
        raise RuntimeError("once")
    write_line("fails_once", show(env))


@spool
def nested(env):
    write_line("nested", show(env))
    plain({"from": "nested"})


@timer(1, target="spooler")
def tick(signum):
    write_line("tick", type(signum).__name__)


def enqueue():
    plain({"a": "b", "umlaut": "\\u00e4", b"bytes": b"c"})
    plain(name="by keyword")
    plain.spool({"old": "alias"})
    plain({"body": "a text as the body", "priority": "4"})
    plain({"at": str(int(BEGAN) + 2)})
    plain({"body": "x" * 200000})
    arguments(1, "two", [3.0, None], {"four": {5}}, binary=bytes(range(256)))
    arguments("later", at=str(int(BEGAN) + 2).encode(), priority="7", body="a body beside them")
    raw({"c": "d"})
    raw_arguments("x", b={"y": 1})
    forever({"e": "f"})
    fails_once({"g": "h"})
    nested({"i": "j"})
    assert plain.f.__name__ == "plain"
    assert uwsgi.i_am_the_spooler() in (True, None)


if not os.path.exists(os.path.join(os.path.dirname(os.path.abspath(__file__)), "lines.txt")):
    write_line("loaded")
    enqueue()
"""
)
RAW = (
    LINES
    + """
import hashlib
import time
import uwsgi


def spooler(env):
    shown = {key: value for key, value in env.items() if key not in (b"at", "body")}
    assert shown.pop("spooler_task_name").startswith(b"uwsgi_spoolfile_on_")
    body = env.get("body", b"none")
    write_line(sorted(map(repr, shown.items())), type(body).__name__, len(body), hashlib.sha256(body).hexdigest())
    if b"at" in env:
        write_line("due", time.time() >= int(env[b"at"]))
    return uwsgi.SPOOL_OK


uwsgi.spooler = spooler
"""
)
SENDS = """

if not os.path.exists(os.path.join(os.path.dirname(os.path.abspath(__file__)), "lines.txt")):
    write_line("loaded", isinstance(uwsgi.spool({b"first": b"task"}), bytes))
    uwsgi.spool({b"k": bytes(range(256)), b"body": bytes(range(256)) * 4000})
    uwsgi.send_to_spooler({b"body": b"small", b"priority": b"3", b"empty": b""})
    uwsgi.spool({b"at": str(int(time.time()) + 2).encode()})
    uwsgi.spool({b"list": [1, 2, 255], b"array": bytearray(b"x")})
    for wrong in ({"a": None}, {b"a": 1}, {b"a": 1.5}, {1: b"a"}, None, "text"):
        try:
            uwsgi.spool(wrong)
            write_line("taken", wrong)
        except ValueError as error:
            write_line("ValueError", wrong, str(error)[:37])
"""
MANUAL = """import time
import uwsgi

def myspooler(env):
    print(env)
    for i in range(1,100):
        time.sleep(1)

uwsgi.spooler = myspooler

uwsgi.send_to_spooler({'Name':'Serena', 'System':'Linux', 'Tizio':'Caio'})
"""


def under_uwsgi(place: Path, app: str, count: int) -> list[str]:
    """The application's output there, with `forever` and `tick` only once."""
    lines = lines_of_uwsgi(place, app, lambda lines: bool(apart(lines, count)), "--spooler-ordered", "--spooler-frequency", "1")
    return apart(lines, count)


def under_spoolnode(node: RunningNode, app: str, count: int) -> list[str]:
    """The same here."""
    (node.directory / "app.py").write_text(app)
    node.start("-w", "app", "--retry-base", "0.2", "--retry-max", "1")
    return once(node.directory, count)


def apart(found: list[str], count: int) -> list[str]:
    """So many lines, sorted, and those of `forever` and `tick` only once; nothing while some are missing."""
    repeated = {line for line in found if line.startswith(("forever", "tick"))}
    enough = all(sum(line.startswith(word) for line in found) >= 2 for word in ("forever", "tick"))
    single = [line for line in found if line not in repeated]
    assert len(single) <= count, single
    return sorted([*single, *repeated]) if len(single) == count and (enough or not repeated) else []


def once(directory: Path, count: int) -> list[str]:
    lines = Lines(directory)
    try:
        return list(eventually(lambda: apart(lines(), count), f"{count} lines"))
    except AssertionError as error:
        raise AssertionError(f"{error}; there are {len(lines())}: {lines()}") from None


def test_decorated_functions_do_the_same(place: Path, node: RunningNode) -> None:
    count = 16
    theirs = under_uwsgi(place, DECORATED, count)
    assert under_spoolnode(node, DECORATED, count) == theirs
    assert [line for line in theirs if line.startswith("raw ")][-1].startswith("raw 2")


def test_bytes_and_errors_are_the_same(place: Path, node: RunningNode) -> None:
    count = 1 + 5 + 1 + 6
    theirs = under_uwsgi(place, RAW + SENDS, count)
    assert under_spoolnode(node, RAW + SENDS, count) == theirs


def test_binary_body_of_a_decorated_function_is_bytes_where_uwsgi_fails_for_ever(node: RunningNode) -> None:
    app = LINES + "from uwsgidecorators import spool\n@spool\ndef f(env):\n    write_line(env['body'])\n"
    node.start(app=app)
    send_to_spooler({"ud_spool_func": "f", "body": b"\xff\x00"}, via=node.via)
    assert Lines(node.directory).wait() == ["b'\\xff\\x00'"]


def test_manual_page_runs_word_for_word_with_its_own_command_line(tmp_path: Path, place: Path) -> None:
    (tmp_path / "testapp.py").write_text(MANUAL)
    socket = f"{place}/uwsgi.sock"
    line = f"-Q myspool -s {socket} -b 8192 -w testapp -A 10"
    with (tmp_path / "log").open("w+") as log:
        node = subprocess.Popen(
            [sys.executable, "-m", "spoolnode", "join", *line.split()],
            cwd=tmp_path, env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            said = tmp_path / "log"
            eventually(lambda: "Serena" in said.read_text() or node.poll() is not None, "the task runs")
            text = said.read_text()
            assert "b'Name': b'Serena', b'System': b'Linux', b'Tizio': b'Caio'" in text, text
            assert "shared area has no effect" in text
            assert os.path.exists(socket)
            assert (tmp_path / "myspool").is_dir()
            # Two signals: the task would run for 99 seconds. It is put back.
            for _ in range(2):
                node.send_signal(signal.SIGTERM)
                eventually(lambda: "stopping" in said.read_text(), "it stops")
            assert node.wait(PATIENCE) == 0
        finally:
            node.kill()
            node.wait()
    assert not os.path.exists(socket)
    listed = subprocess.run(
        [sys.executable, "-m", "spoolnode", "ls", "-Q", "myspool", "--json"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert '"id"' in listed.stdout


CANCELS = (
    LINES
    + """
import time
import uwsgi


def spooler(env):
    write_line("ran", env[b"n"].decode())
    return uwsgi.SPOOL_OK


uwsgi.spooler = spooler
soon, late = (str(time.time() + seconds).encode() for seconds in (5, 3600))  # soon: after it has unlinked four
for extra in {}, {b"priority": b"5"}, {b"body": b"x" * 1000}, {b"body": b"x" * 200_000}:
    os.unlink(uwsgi.spool({b"n": b"cancelled", b"at": soon, **extra}))
uwsgi.spool({b"n": b"kept", b"at": soon})
paths = [uwsgi.spool({b"n": b"many", b"at": late}) for _ in range(200)]
write_line("files", sum(map(os.path.exists, paths)))
"""
)


def later(node: RunningNode) -> int:
    """How many tasks wait for their time, here or in the store."""
    store = node.status().get("store") or {"tasks": None}
    return int(node.status()["later"]) + (store["tasks"] or {"later": 0})["later"]


@pytest.mark.slow
def test_what_spool_returned_can_be_unlinked_to_call_a_task_off(node: RunningNode) -> None:
    node.start(app=CANCELS)
    lines = Lines(node.directory)
    assert lines.wait(begin="files") == ["files 200"]
    assert lines.wait(begin="ran") == ["ran kept"]
    eventually(lambda: node.status()["total"] == 200, "the cancelled ones are forgotten")
    node.kill9()
    node.start()
    eventually(lambda: later(node) == 200, "they wait, on the disk or in a store")
    assert lines()[-1:] == ["ran kept"]
