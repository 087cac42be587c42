"""Applications as users write them, loaded and run in a process of their own, as a worker does."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from smallnode import SmallNode, StartNode

import spoolnode

WORKER = """
import json, sys, traceback
sys.path.insert(0, {tests!r})
from smallnode import context
from spoolnode.runtime.loading import load_app
from spoolnode.node.outcome import Call
spec, tasks = json.loads(sys.argv[1])
app = load_app(spec, context())
print(app.warning, file=sys.stderr)
for variables in tasks:
    pairs = [(key.encode(), value.encode()) for key, value in variables.items()]
    print(app.handler(Call.of(pairs, b"", "uwsgi_spoolfile_on_x")).kind.name)
for timer in app.timers:
    app.call_timer(timer)
"""


def work(directory: Path, spec: str, tasks: list[dict[str, str]], **environment: str) -> subprocess.CompletedProcess[str]:
    """Loads an application in a new process and runs tasks there; prints how each ended."""
    return subprocess.run(
        [sys.executable, "-c", WORKER.format(tests=str(Path(__file__).parent)), json.dumps([spec, tasks])],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(Path(spoolnode.__file__).parents[1]), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def ran(*arguments: Any, **environment: str) -> str:
    done = work(*arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


MANUAL = """
import time
import uwsgi
def myspooler(env):
    print(env)
    for i in range(1,100):
        time.sleep(1)
uwsgi.spooler = myspooler
uwsgi.send_to_spooler({'Name':'Serena', 'System':'Linux', 'Tizio':'Caio'})
"""


@pytest.mark.parametrize("flavour", ["import uwsgi", "from spoolnode import uwsgi"])
def test_example_of_the_manual_runs_word_for_word(start_node: StartNode, tmp_path: Path, flavour: str) -> None:
    node: SmallNode = start_node(unix=True)
    source = MANUAL.replace("import uwsgi", flavour)
    (tmp_path / "testapp.py").write_text(source)
    (tmp_path / "sitecustomize.py").write_text("import time\ntime.sleep = lambda seconds: None\n")
    path = os.pathsep.join([str(tmp_path), str(Path(spoolnode.__file__).parents[1])])
    sent = {"Name": "Serena", "System": "Linux", "Tizio": "Caio"}
    out = ran(tmp_path, "testapp", [sent], SPOOLNODE_VIA=node.address, PYTHONPATH=path)
    assert "Serena" in out
    assert out.endswith("DONE\n")
    assert node.tasks == [([(key.encode(), value.encode()) for key, value in sent.items()], b"")]


@pytest.mark.parametrize(
    ("spec", "file"),
    [
        ("jobs:run", "jobs.py"),
        ("jobs:Runner.run", "jobs.py"),
        ("jobs.py:run", "jobs.py"),
        ("deep/jobs.py:run", "deep/jobs.py"),
        ("deep.jobs:run", "deep/jobs.py"),
        ("./my-jobs.py:run", "my-jobs.py"),
    ],
)
def test_named_callable_of_a_module_or_file_runs_the_tasks(tmp_path: Path, spec: str, file: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text("def run(env): print(env['a'])\nclass Runner:\n    run = staticmethod(run)\n")
    assert ran(tmp_path, spec, [{"a": "b"}]) == "b\nDONE\n"


def test_file_can_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "jobs.py").write_text("from helper import run\n")
    (tmp_path / "deep" / "helper.py").write_text("def run(env): return -1\n")
    assert ran(tmp_path, "deep/jobs.py:run", [{"a": "b"}]) == "RETRY\n"


def test_unmodified_application_with_uwsgidecorators_runs(start_node: StartNode, tmp_path: Path) -> None:
    node: SmallNode = start_node(unix=True)
    (tmp_path / "legacy.py").write_text(
        "import uwsgi\nfrom uwsgidecorators import spool, timer, postfork\n"
        "@spool\ndef job(env): print('job', env['a'])\n"
        "@timer(3, target='spooler')\ndef tick(signum): print('tick')\n"
        "@postfork\ndef hello(): print('hello'); job.spool(a='b')\n"
    )
    task = {"ud_spool_func": "job", "ud_spool_ret": "-2", "a": "b"}
    assert ran(tmp_path, "legacy", [task], SPOOLNODE_VIA=node.address) == "hello\njob b\nDONE\ntick\n"
    assert {key.decode(): value.decode() for key, value in node.tasks[0][0]} == task


def test_application_of_decorated_functions_needs_no_callable(tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text("from spoolnode import spool\n@spool\ndef job(): print('job')\n")
    assert ran(tmp_path, "jobs.py", [{"spool_func": "jobs:job"}]) == "job\nDONE\n"


@pytest.mark.parametrize(
    ("source", "spec", "says"),
    [
        ("x = 1", "jobs", "has nothing to run"),
        ("x = 1", "jobs:x", "is a int, not a callable"),
        ("x = 1", "jobs:y", "does not exist"),
        ("x = 1", "jobs:", "must be module, module:callable"),
        ("x = 1", "none.py", "there is no file"),
        ("x = 1", "nothere", "BadConfig: --app is 'nothere': there is no module 'nothere' in /"),
        ("x = 1", "nothere:run", "--pythonpath or PYTHONPATH; a file is given as its path, nothere.py"),
        ("x = 1", "deep.jobs", "there is no module 'deep' in"),
        ("x = 1", "jobs.deep", "there is no module 'jobs.deep' in"),
        ("import nothere", "jobs", "ModuleNotFoundError: No module named 'nothere'"),
        ("1/0", "jobs", "ZeroDivisionError"),
        ("1/0", "jobs.py", 'jobs.py", line 1'),
        ("import uwsgi; uwsgi.cache_get('x')", "jobs", "uwsgi.cache_get does not work in a worker of spoolnode: a node has no"),
    ],
)
def test_application_that_cannot_run_says_why(tmp_path: Path, source: str, spec: str, says: str) -> None:
    (tmp_path / "jobs.py").write_text(source + "\n")
    done = work(tmp_path, spec, [])
    assert done.returncode == 1
    assert says in done.stderr


def test_file_named_like_a_module_of_python_is_the_application(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "socket.py").write_text("def run(env): print('mine')\n")
    assert ran(tmp_path, "deep/socket.py:run", [{}]) == "mine\nDONE\n"


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("def app(environ, start_response): return [b'']", "missing a required argument: 'start_response'"),
        ("async def app(scope, receive, send): pass", "missing a required argument: 'receive'"),
        ("class Web:\n    def __call__(self, environ, start_response): pass\napp = Web()", "missing a required argument"),
        ("def app(): pass", "too many positional arguments"),
        ("def app(env): yield 1", "contains a `yield`"),
    ],
)
def test_a_callable_that_cannot_be_called_with_a_task_is_not_called_with_one(tmp_path: Path, source: str, problem: str) -> None:
    (tmp_path / "jobs.py").write_text(source + "\n")
    done = work(tmp_path, "jobs:app", [])
    assert done.returncode == 1
    assert problem in done.stderr
    # In an application that has something else to run it is what stands in many a uwsgi.ini.
    (tmp_path / "jobs.py").write_text(source + "\nfrom spoolnode import spool\n@spool\ndef job(): print('job')\n")
    done = work(tmp_path, "jobs:app", [{"spool_func": "jobs:job"}, {"a": "b"}])
    assert done.stdout == "job\nDONE\nFAILED\n"
    assert "'app' gets no tasks, because it" in done.stderr


def test_file_named_like_a_loaded_module_is_refused(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "uwsgi.py").write_text("def run(env): pass\n")
    done = work(tmp_path, "deep/uwsgi.py:run", [])
    assert "rename the file" in done.stderr
