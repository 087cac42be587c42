"""The side effects of an application under a real uWSGI and under a node: signals, timers, hooks, import."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_programs import LINES, Lines, Uwsgi, lines_of_uwsgi
from support import RunningNode, eventually

from spoolnode import send_to_spooler

REPEATED = ("tick", "loaded", "postfork")

SIGNALS = (
    LINES
    + """
import uwsgi
import uwsgidecorators
from uwsgidecorators import *

AT_IMPORT = uwsgi.i_am_the_spooler()
once = set()


def say_once(*words):
    if words not in once:
        once.add(words)
        write_line(*words)


def free():
    return next(number for number in range(256) if not uwsgi.signal_registered(number))


def tick(number):
    say_once("tick", "by number", number)


raw = free()
uwsgi.register_signal(raw, "spooler", tick)
uwsgi.add_timer(raw, 1)
twice = free()
uwsgi.register_signal(twice, "spooler", lambda number: write_line("rb timer", number))
uwsgi.add_rb_timer(twice, 1, 2)
uwsgi.register_signal(free(), "", tick)
uwsgi.add_cron(2, 0, 0, 1, 1, -1)


@timer(1, target="spooler")
def decorated(number):
    say_once("tick", "decorated", number)


@rbtimer(1, signum=40, target="spooler")
def decorated_rb(number):
    say_once("tick", "rb", number)


@cron(-1, -1, -1, -1, -1, target="spooler")
def every_minute(number):
    pass


@signal(50, target="spooler")
def by_hand(number):
    write_line("signal", number)


@mulefunc
def in_a_mule():
    write_line("never")


@mule(1)
def a_mule():
    write_line("never")


@mulemsg(1)
def a_message(message):
    write_line("never")


@farm("f")
def in_a_farm(message):
    write_line("never")


@rpc("hello")
def hello():
    return b"never"


@filemon("/nowhere", target="spooler")
def changed(number):
    write_line("never")


@postfork
def everywhere():
    if uwsgi.i_am_the_spooler():
        write_line("postfork")
    if not AT_IMPORT:
        write_line("postfork: at import nobody is the spooler")


@postfork(1)
def in_the_first_web_worker():
    if uwsgi.i_am_the_spooler():
        write_line("never")


@spool
def work(env):
    write_line("work", env["n"])
    uwsgi.signal(50)
    try:
        in_a_mule()
    except ValueError:
        write_line("no mules")
    uwsgi.signal(50)
    write_line("waited", uwsgi.signal_wait(50), uwsgi.signal_received())


if not os.path.exists(os.path.join(os.path.dirname(os.path.abspath(__file__)), "lines.txt")):
    write_line("loaded")
    work(n="1")
"""
)

OWN_SPOOLER = (
    LINES
    + """
import uwsgi, uwsgidecorators
fallback = uwsgidecorators.manage_spool_request


def spooler(env):
    if b"mine" in env:
        write_line("mine", env[b"mine"])
        return uwsgi.SPOOL_OK
    write_line("falls back")
    return fallback(env)


uwsgi.spooler = spooler


@uwsgidecorators.spool
def plain(env):
    write_line("plain", env["a"])


@uwsgidecorators.spool(pass_arguments=True)
def arguments(*args, **kwargs):
    write_line("arguments", args, kwargs)


@uwsgidecorators.spoolraw
def raw(env):
    write_line("raw", env["a"])
    return uwsgi.SPOOL_OK


if not os.path.exists(os.path.join(os.path.dirname(os.path.abspath(__file__)), "lines.txt")):
    write_line("loaded")
    uwsgi.spool({b"mine": b"1"})
    plain(a="b")
    arguments(1, [2], c={3})
    raw({"a": "b"})
"""
)

AT_IMPORT = (
    LINES
    + """
import uwsgi


def spooler(env):
    write_line("ran", env[b"reload"])
    return uwsgi.SPOOL_OK


uwsgi.spooler = spooler
uwsgi.spool({b"reload": b"%d" % uwsgi.is_a_reload})
uwsgi.register_signal(1, "spooler", lambda number: write_line("tick"))
uwsgi.add_timer(1, 1)
write_line("loaded")
"""
)


@pytest.fixture
def uwsgi(place: Path) -> Iterator[Uwsgi]:
    """A uWSGI in a directory of its own: the spool of each is `spool` there."""
    program = Uwsgi(place)
    yield program
    program.end()


def different(lines: list[str]) -> list[str]:
    """The different lines, sorted."""
    assert not [line for line in set(lines) if lines.count(line) > 2 and not line.startswith(REPEATED)], lines
    return sorted(set(lines))


def test_signals_timers_and_decorators_of_other_processes(place: Path, node: RunningNode) -> None:
    def enough(lines: list[str]) -> bool:
        return len({*lines}) >= 11

    theirs = different(lines_of_uwsgi(place, SIGNALS, enough))
    node.start(app=SIGNALS)
    ours = Lines(node.directory)
    eventually(lambda: enough(ours()), "all are there")
    assert different(ours()) == theirs
    node.stop()
    assert not node.lines("timer_failed")


def test_spooler_of_the_application_gets_all_and_can_hand_them_on(place: Path, node: RunningNode) -> None:
    theirs = lines_of_uwsgi(place, OWN_SPOOLER, lambda lines: len(lines) >= 8)
    node.start(app=OWN_SPOOLER)
    assert sorted(Lines(node.directory).wait(8)) == sorted(theirs)


def test_what_is_enqueued_at_import_is_enqueued_once_a_start_and_once_a_reload(uwsgi: Uwsgi, node: RunningNode) -> None:
    (uwsgi.directory / "app.py").write_text(AT_IMPORT)
    uwsgi.start("-Q", "spool", "--spooler-processes", "3", "-w", "app")
    Lines(uwsgi.directory).wait(begin="ran b'0'")
    Lines(uwsgi.directory).wait(begin="tick")  # its master is in its loop, and hears SIGHUP
    assert uwsgi.process is not None
    uwsgi.process.send_signal(signal.SIGHUP)
    Lines(uwsgi.directory).wait(begin="ran b'1'")
    theirs = [line for line in Lines(uwsgi.directory)() if line.startswith("ran")]

    node.start("--workers", "3", "--max-tasks", "2", app=AT_IMPORT)
    Lines(node.directory).wait(begin="ran")
    assert node.lines("ready")
    os.kill(node.pid, signal.SIGHUP)
    node.wait_for_log("reloaded")
    Lines(node.directory).wait(begin="ran b'1'")
    for _ in range(20):  # so that workers are replaced, and import it again
        send_to_spooler({"reload": "no import"}, via=node.via)
    Lines(node.directory).wait(20, "ran b'no import'")
    node.wait_for_log("worker_recycled")
    Lines(node.directory).wait(3 + 3 + 1, "loaded")
    assert [line for line in Lines(node.directory)() if line.startswith("ran") and "no import" not in line] == theirs


@pytest.mark.on_disk("a task in the store has no variable `spooler`, as one that went over a link")
def test_spooler_of_the_module_is_the_real_directory_behind_a_link(uwsgi: Uwsgi, node: RunningNode) -> None:
    app = LINES + (
        "import uwsgi\nuwsgi.spooler = lambda env: write_line('ran', env[b'spooler'] == uwsgi.spoolers[0]) or uwsgi.SPOOL_OK\n"
        "if not os.path.exists(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'lines.txt')):\n"
        "    write_line(uwsgi.spoolers[0] == os.path.realpath(uwsgi.spoolers[0]))\n"
        "    uwsgi.spool({b'spooler': uwsgi.spoolers[0]})\n"
    )
    for directory in (uwsgi.directory, node.directory):
        (directory / "real").mkdir()
        (directory / "link").symlink_to("real")
        (directory / "app.py").write_text(app)
    uwsgi.start("-Q", f"{uwsgi.directory}/link/spool", "-w", "app")
    theirs = Lines(uwsgi.directory).wait(2)
    node.spool = node.directory / "link" / "spool"
    node.start(app=app)
    assert Lines(node.directory).wait(2) == theirs
    # By both of its names, also in a process that is not a worker.
    for name in ("link", "real"):
        send_to_spooler({"spooler": str(node.directory / name / "spool")}, via=node.via)


@pytest.mark.on_disk("a task without a destination may run on either node")
def test_spooler_that_is_another_nodes_directory_goes_there(node: RunningNode, other_node: RunningNode) -> None:
    app = LINES + (
        "import uwsgi\n"
        "def spooler(env):\n"
        "    write_line(env[b'n'])\n"
        "    if b'to' in env:\n"
        "        path = uwsgi.spool({b'n': b'2', b'spooler': env[b'to']})\n"
        "        write_line(os.path.dirname(path) == env[b'to'])\n"
        "    return uwsgi.SPOOL_OK\n"
        "uwsgi.spooler = spooler\n"
    )
    node.start(app=app)
    other_node.start(app=app)
    send_to_spooler({"n": "1", "to": os.path.realpath(other_node.spool)}, via=node.via)
    assert Lines(other_node.directory).wait() == ["b'2'"]
    assert Lines(node.directory).wait(2) == ["b'1'", "True"]
    # A directory without a node is refused, with both names, and the task that tried it has failed.
    send_to_spooler({"n": "3", "to": str(node.directory / "nothing")}, via=node.via)
    failed = node.wait_for_log("retry", reason="unable to spool job")
    assert f"`spooler` is '{node.directory}/nothing'; the spool of this node is '{node.spool}'" in failed["reason"]


def test_task_can_have_the_application_loaded_anew(node: RunningNode) -> None:
    app = LINES + (
        "import uwsgi\n"
        "def spooler(env):\n"
        "    write_line(env[b'n'], uwsgi.is_a_reload, uwsgi.reload() if env[b'n'] == b'1' else None)\n"
        "    return uwsgi.SPOOL_OK\n"
        "uwsgi.spooler = spooler\n"
    )
    node.start(app=app)
    send_to_spooler({"n": "1"}, via=node.via)
    node.wait_for_log("reloaded")
    send_to_spooler({"n": "2"}, via=node.via)
    assert Lines(node.directory).wait(2) == ["b'1' False True", "b'2' True None"]


def test_first_worker_imports_alone_so_a_module_that_leaves_a_mark_enqueues_once(node: RunningNode) -> None:
    app = LINES + (
        "import uwsgi, time\n"
        "uwsgi.spooler = lambda env: write_line('ran') or uwsgi.SPOOL_OK\n"
        "write_line('imports', os.getpid())\n"
        "time.sleep(0.3)  # all four would be here at once\n"
        "if not os.path.exists('mark'):\n"
        "    open('mark', 'w').close()\n"
        "    uwsgi.spool({b'a': b'b'})\n"
        "write_line('imported', os.getpid())\n"
    )
    node.start("--workers", "4", app=app)
    lines = Lines(node.directory)
    lines.wait(4, "imported")
    lines.wait(begin="ran")
    first, second = [line for line in lines() if line != "ran"][:2]
    assert first.split() == ["imports", second.split()[1]]
    assert lines().count("ran") == 1
