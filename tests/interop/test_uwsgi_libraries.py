"""Libraries that were written for uWSGI, as they are, under a real one and under a node."""

import os
from pathlib import Path

import pytest
from real_programs import LINES, Lines, lines_of_uwsgi
from support import RunningNode, eventually

ONCE = """
LOADED = os.path.exists(os.path.join(os.path.dirname(os.path.abspath(__file__)), "lines.txt"))
if not LOADED:
    write_line("loaded")
"""

UWSGI_TASKS = (
    LINES
    + ONCE
    + """
from datetime import timedelta
from uwsgi_tasks import RetryTaskException, TaskExecutor, cron, get_current_task, task, timer

ticks = []


@task(executor=TaskExecutor.SPOOLER)
def plain(a, b=None):
    write_line("plain", len(a) if isinstance(a, str) else a, b)


@task(executor=TaskExecutor.SPOOLER, retry_count=2, retry_timeout=1)
def again():
    write_line("again", get_current_task().retry_count)
    raise RetryTaskException()


@task(executor=TaskExecutor.SPOOLER, at=timedelta(seconds=1), priority="1")
def later():
    write_line("later")


@task
def whatever(x):
    write_line("auto", x)


@timer(seconds=1, executor=TaskExecutor.SPOOLER)
def tick(number):
    ticks.append(number)
    if len(ticks) == 2:
        write_line("ticks")


@timer(seconds=1, iterations=2, executor=TaskExecutor.SPOOLER)
def twice(number):
    write_line("twice")


@cron(minute=0, hour=0, executor=TaskExecutor.SPOOLER)
def nightly(number):
    write_line("nightly")


if not LOADED:
    plain(1, b={"x": [1, "\\u00e9", b"\\xff"]})
    plain("y" * 80000)
    later()
    again()
    whatever(5)
"""
)

VENDORED = (
    LINES
    + ONCE
    + """
import importlib.util, os, sys, sysconfig
# A copy of uWSGI's own module under another name, as projects carry it: here it is the real one.
where = os.path.join(sysconfig.get_path("purelib"), "uwsgidecorators.py")
spec = importlib.util.spec_from_file_location("carried_along", where)
deco = sys.modules["carried_along"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(deco)
import uwsgi

seen = []


@deco.spool
def plain(env):
    write_line("plain", env["a"])
    uwsgi.signal(70)


@deco.spool(pass_arguments=True)
def arguments(*args, **kwargs):
    write_line("arguments", args, kwargs)


@deco.spoolraw
def raw(env):
    write_line("raw", env["a"])
    return uwsgi.SPOOL_OK


@deco.spoolforever
def forever(env):
    seen.append("forever")
    if len(seen) == 2:
        write_line("forever")


@deco.timer(1, target="spooler")
def tick(number):
    if "tick" not in seen:
        seen.append("tick")
        write_line("tick", number)


@deco.signal(70, target="spooler")
def signalled(number):
    write_line("signal", number)


@deco.cron(0, 0, 1, 1, -1)
def yearly(number):
    write_line("yearly")


@deco.filemon("/nowhere")
@deco.rpc("hello")
def other(*_):
    pass


@deco.mulefunc
def in_a_mule():
    pass


@deco.postfork
def after_fork():
    if uwsgi.i_am_the_spooler():
        write_line("postfork")


if not LOADED:
    plain(a="1")
    arguments(1, b=[2])
    raw(a="2")
    forever({"e": "f"})
"""
)


@pytest.mark.parametrize(("app", "count"), [(UWSGI_TASKS, 10), (VENDORED, 8)], ids=["uwsgi-tasks", "a copy of uwsgidecorators"])
def test_library_does_the_same(place: Path, node: RunningNode, app: str, count: int) -> None:
    if app is UWSGI_TASKS and not os.environ.get("CI"):
        pytest.importorskip("uwsgi_tasks")
    expected = lines_of_uwsgi(place, app, lambda lines: len(lines) >= count, "--spooler-ordered", "--spooler-frequency", "1")
    node.start("--spooler-frequency", "1", "--retry-base", "0.2", "--retry-max", "1", app=app)
    eventually(lambda: len(Lines(node.directory)()) >= count, f"{count} lines in {node.directory}")
    assert sorted(Lines(node.directory)()) == sorted(expected)
