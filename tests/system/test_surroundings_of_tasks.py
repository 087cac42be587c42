"""The world in which tasks run: a process as a program expects it, the same for each, whatever the one before did."""

import os
import signal
from pathlib import Path

import pytest
from support import RunningNode, eventually
from watch import NOTES, notes, wait_for_note

import spoolnode

LEAVES = (
    NOTES
    + """
import subprocess
from os import chdir, fchdir, umask
from signal import SIG_BLOCK, SIGUSR1, alarm, pthread_sigmask, setitimer

def world():
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    umask = os.umask(0)
    os.umask(umask)
    child = subprocess.run(["printenv", "LEFT"], stdout=subprocess.PIPE, text=True).stdout.strip()
    streams = [type(stream).__name__ for stream in (sys.stdin, sys.stdout, sys.stderr)]
    alarm = signal.getitimer(signal.ITIMER_REAL)[0] > 0
    assert len(sys.argv) == 1, sys.argv  # nothing of ours that an application would read as its own
    return [os.getcwd(), oct(umask), sorted(mask), os.environ.get("LEFT"), os.environ.get("HOME"), child, streams, alarm]

def leave():
    os.environ["LEFT"] = "behind"
    del os.environ["HOME"]
    sys.stdin = sys.stdout = sys.stderr = None
    os.chdir("/")
    os.umask(0o777)
    signal.pthread_sigmask(SIG_BLOCK, [SIGUSR1])
    signal.alarm(3600)
    note("left")

ALONE = {
    "chdir": lambda: chdir("/"),
    "fchdir": lambda: fchdir(os.open("/", os.O_RDONLY)),
    "umask": lambda: umask(0o777),
    "pthread_sigmask": lambda: pthread_sigmask(SIG_BLOCK, [SIGUSR1]),
    "alarm": lambda: alarm(3600),
    "setitimer": lambda: setitimer(signal.ITIMER_REAL, 3600),
    "putenv": lambda: os.environ.update(LEFT="behind"),
    "stdout": lambda: setattr(sys, "stdout", None),
}

async def leave_later():
    leave()

def spooler(env):
    if env["do"] == "look":
        note("same" if world() == BEFORE else f"{world()} and not {BEFORE}")
        print("printed")
    if env["do"] in ALONE:
        ALONE[env["do"]]()
        note("left")
    return leave() if env["do"] == "leave" else leave_later() if env["do"] == "leave later" else None

uwsgi.spooler = spooler
BEFORE = world()
"""
)


ALONE = ["chdir", "fchdir", "umask", "pthread_sigmask", "alarm", "setitimer", "putenv", "stdout"]


def test_each_change_is_put_back_by_itself(node: RunningNode) -> None:
    node.start(app=LEAVES, HOME="/root")
    for number, how in enumerate(ALONE, 1):
        spoolnode.send_to_spooler({"do": how}, via=node.via)
        spoolnode.send_to_spooler({"do": "look"}, via=node.via)
        eventually(lambda number=number: len(notes(node)) == 2 * number)
        assert notes(node)[-2:] == ["left", "same"], how


@pytest.mark.parametrize("how", ["leave", "leave later"])
def test_what_a_task_changes_of_its_process_is_put_back_before_the_next(node: RunningNode, how: str) -> None:
    node.start(app=LEAVES, HOME="/root")
    spoolnode.send_to_spooler({"do": how}, via=node.via)
    wait_for_note(node, "left")
    spoolnode.send_to_spooler({"do": "look"}, via=node.via)
    eventually(lambda: len(notes(node)) == 2)
    assert notes(node) == ["left", "same"]
    node.wait_for_log("print", text="printed")


SPOILS = (
    NOTES
    + """
import ctypes, resource, struct

def close_all():
    for number in range(3):
        os.close(number)

def lower_for_good():
    powerless = struct.pack("6I", *[0] * 6)  # not even root may raise a limit without a capability
    assert ctypes.CDLL(None).capset(struct.pack("Ii", 0x20080522, 0), powerless) == 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

DO = {
    "close": close_all,
    "closerange": lambda: os.closerange(-1, 3),
    "close in C": lambda: [ctypes.CDLL(None).close(number) for number in range(3)],
    "dup2": lambda: [os.dup2(os.open("/dev/null", os.O_RDWR), number) for number in range(3)],
    "nofile": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1])),
    "fsize": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1])),
    "prlimit": lambda: resource.prlimit(0, resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1])),
    "signal": lambda: [signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)],
    "for good": lower_for_good,
}

def world():
    files = [(os.fstat(number).st_dev, os.fstat(number).st_ino) for number in range(3)]
    limits = [resource.getrlimit(which) for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE)]
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)]
    return files, limits, handlers

def spooler(env):
    if env["do"] == "look":
        note("same" if world() == BEFORE else f"{world()} and not {BEFORE}")
        os.write(1, b"\\xffwritten\\n" * 100)
    elif env["do"] == "standard":
        paths = [f"/proc/self/fd/{number}" for number in range(3)]
        note(*[os.readlink(path) for path in paths if os.path.islink(path)])
    else:
        note("left")
        DO[env["do"]]()

uwsgi.spooler = spooler
BEFORE = world()
"""
)


@pytest.mark.parametrize("how", ["close", "closerange", "dup2", "nofile", "fsize", "prlimit", "signal"])
def test_descriptors_limits_and_handlers_are_put_back_and_no_task_writes_into_the_spool(node: RunningNode, how: str) -> None:
    node.start("--workers", "1", "--max-attempts", "1", app=SPOILS)
    for turn in range(1, 4):
        spoolnode.send_to_spooler({"do": how}, via=node.via)
        for _ in range(3):
            spoolnode.send_to_spooler({"do": "look"}, via=node.via)
        eventually(lambda turn=turn: len(notes(node)) == 4 * turn, f"all tasks; there is {notes(node)}")
    assert notes(node).count("same") == 9, notes(node)
    eventually(lambda: node.status()["done"] == 12)
    assert (node.status()["dead"], node.status()["worker_deaths"]) == (0, 0)


def test_no_file_of_the_spool_takes_the_place_of_a_standard_descriptor_that_c_code_closed(node: RunningNode) -> None:
    node.start("--workers", "1", app=SPOILS)
    for number, more in enumerate(({"priority": 1}, {"priority": 2}, {"body": b"x" * 2_000_000}), 1):
        spoolnode.send_to_spooler({"do": "close in C"}, via=node.via)
        wait_for_note(node, "left", number)
        spoolnode.send_to_spooler({"do": "standard", **more}, via=node.via)
        eventually(lambda number=number: len(notes(node)) == 2 * number)
        assert str(node.directory) not in notes(node)[-1], notes(node)


def test_a_worker_that_may_not_undo_what_a_task_did_is_replaced_and_nobody_else_is_blamed(node: RunningNode) -> None:
    node.start("--workers", "1", "--max-attempts", "1", app=SPOILS)
    identities = [spoolnode.send_to_spooler({"do": do}, via=node.via) for do in ("for good", *["look"] * 20)]
    for identity in identities:
        node.wait_for_log("done", id=identity)
    assert sorted(notes(node)) == ["left", *["same"] * 20]
    node.wait_for_log("worker_recycled")
    assert (node.status()["dead"], node.status()["worker_deaths"]) == (0, 0)


STREAMS = (
    NOTES
    + """
import io

def spooler(env):
    how = env["how"]
    if how == "bytes":
        sys.stdout.buffer.write("ca".encode() + b"f\\xc3")
        sys.stdout.buffer.write(memoryview(b"\\xa9 \\xff\\n"))
        sys.stdout.buffer.write(b"cut \\xc3")
    elif how == "lines":
        sys.stdout.writelines(["one\\n", "two\\n"])
    elif how == "facts":
        out = sys.stdout
        print(out.encoding, out.errors, out.isatty(), out.fileno(), out.readable(), out.writable(), out.seekable(), out.name,
              out.mode, out.closed, out.line_buffering, out.buffer.fileno(), out.newlines)
    elif how == "reconfigure":
        sys.stdout.reconfigure(encoding="latin-1", errors="strict", line_buffering=True)
        print("\\u20ac")
    elif how == "close":
        sys.stdout.close()
        print("after the end")
    elif how == "wrap":
        wrapper = io.TextIOWrapper(sys.stdout.buffer, "utf-8")
        wrapper.write("wrapped\\n")
        wrapper.detach().flush()
    elif how == "replace":
        sys.stdout = io.TextIOWrapper(sys.stdout.detach(), "utf-8")
        print("held back", end="")
    elif how == "wrong":
        sys.stdout.write(b"bytes")

uwsgi.spooler = spooler
"""
)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("bytes", ["café \ufffd", "cut \ufffd"]),
        ("lines", ["one", "two"]),
        ("facts", ["utf-8 backslashreplace False 1 False True False <stdout> w False True 1 None"]),
        ("reconfigure", ["\u20ac"]),
        ("close", ["after the end"]),
        ("wrap", ["wrapped"]),
        ("replace", ["held back"]),
    ],
)
def test_standard_output_is_all_that_a_program_expects(node: RunningNode, how: str, said: list[str]) -> None:
    node.start(app=STREAMS)
    identity = spoolnode.send_to_spooler({"how": how}, via=node.via)
    node.wait_for_log("done", id=identity)
    assert [line["text"] for line in node.lines("print", id=identity)] == said


def test_what_is_no_text_is_refused_by_standard_output(node: RunningNode) -> None:
    node.start("--max-attempts", "1", app=STREAMS)
    spoolnode.send_to_spooler({"how": "wrong"}, via=node.via)
    node.wait_for_log("dead", reason="TypeError: write() argument must be str, not bytes")


DEPLOYED = """
import os
from spoolnode import uwsgi
RELEASE = open("release").read().strip()

def spooler(env):
    print(RELEASE, os.path.basename(os.getcwd()))

uwsgi.spooler = spooler
"""


def deploy(directory: Path, name: str) -> None:
    """Makes a release and turns the link `current` to it."""
    release = directory / name
    release.mkdir()
    (release / "release").write_text(name)
    (release / "deployed.py").write_text(DEPLOYED)
    (directory / "next").symlink_to(name)
    os.rename(directory / "next", directory / "current")


@pytest.mark.parametrize("how", ["option", "shell"])
def test_a_reload_follows_a_link_to_the_application_anew(node: RunningNode, tmp_path: Path, how: str) -> None:
    deploy(tmp_path, "one")
    if how == "option":
        node.start("--chdir", "current", "-w", "deployed")
    else:
        node.directory = tmp_path / "current"
        node.start("-w", "deployed", PWD=str(tmp_path / "current"))
    spoolnode.send_to_spooler({"a": "b"}, via=node.via)
    node.wait_for_log("print", text="one one")
    deploy(tmp_path, "two")
    os.kill(node.pid, signal.SIGHUP)
    node.wait_for_log("reloaded")
    spoolnode.send_to_spooler({"a": "b"}, via=node.via)
    node.wait_for_log("print", text="two two")


def test_a_working_directory_that_is_not_there_is_one_sentence(node: RunningNode) -> None:
    node.start("--chdir", "nowhere", "-w", "deployed", wait=False)
    assert node.wait() != 0
    assert node.noise == [f"Error: --chdir is 'nowhere': there is no directory {node.directory}/nowhere\n"]


SHADOWS = {
    "queue.py": "WHOSE = 'the queue of the application'\n",
    "socket.py": "WHOSE = 'the socket of the application'\n",
    "traceback/__init__.py": "WHOSE = 'the traceback of the application'\n",
    "email/template.txt": "no module\n",
}
BESIDE = """
import queue, socket, traceback
from email.message import EmailMessage
from spoolnode import spool, uwsgi

def spooler(env):
    print(queue.WHOSE, socket.WHOSE, traceback.WHOSE)
    if env["how"] == "fails":
        raise ValueError("no")
    return later() if env["how"] == "async" else None

async def later():
    return None

uwsgi.spooler = spooler
"""


def test_modules_beside_the_application_are_the_ones_that_it_imports_and_disturb_nobody_else(node: RunningNode) -> None:
    for name, source in SHADOWS.items():
        path = node.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
    node.start("--retry-base", "60", app=BESIDE)
    for how, ends in {"sync": "done", "async": "done", "fails": "retry"}.items():
        identity = spoolnode.send_to_spooler({"how": how}, via=node.via)
        node.wait_for_log(ends, id=identity)
        (line,) = node.lines("print", id=identity)
        assert line["text"] == "the queue of the application the socket of the application the traceback of the application"
    assert node.stop() == 0


PATCHED = (
    "from gevent import monkey\nmonkey.patch_all()\n"
    + NOTES
    + """
import gevent, threading

def spooler(env):
    found = []
    greenlets = [gevent.spawn(lambda n=n: (gevent.sleep(0.01), found.append(n))) for n in range(3)]
    thread = threading.Thread(target=time.sleep, args=(0.01,))
    thread.start()
    gevent.joinall(greenlets)
    thread.join()
    note(sorted(found))
    return later() if env["how"] == "async" else None

async def later():
    import asyncio
    await asyncio.sleep(0.01)
    note("later")

uwsgi.spooler = spooler
"""
)


def test_an_application_that_gevent_has_patched_runs_its_tasks(node: RunningNode) -> None:
    node.start(app=PATCHED)
    for how in ("sync", "async", "sync"):
        identity = spoolnode.send_to_spooler({"how": how}, via=node.via)
        node.wait_for_log("done", id=identity)
    assert sorted(notes(node)) == [*["[0, 1, 2]"] * 3, "later"]
    assert node.stop() == 0
