"""The pytest plugin in a pytest of its own: it costs nothing unless it is used, and goes with other plugins."""

import pytest

pytestmark = pytest.mark.slow

APP = """
from spoolnode import spool

@spool
def mail(to):
    assert to != "nobody"
"""
TESTS = """
import asyncio
import pytest
import app

@pytest.fixture
def anyio_backend():
    return "asyncio"

def test_collects(spooled):
    app.mail.spool("ada")
    assert len(spooled) == 1

def test_begins_with_an_empty_list(spooled):
    assert list(spooled) == []

def test_runs_coroutines(spooled):
    async def test():
        await app.mail.aspool("ada")
        await spooled.arun()
    asyncio.run(test())
    assert spooled[0].state == "done"

@pytest.mark.anyio
async def test_is_a_coroutine(spooled):
    await app.mail.aspool("ada")
    await spooled.arun()
    assert spooled.waiting == []

def test_fails(spooled):
    app.mail.spool("nobody")
    spooled.run()
"""


def test_a_run_that_does_not_use_it_imports_nothing_but_the_plugin(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "import sys\n"
        "def test_nothing_is_imported():\n"
        "    ours = {name for name in sys.modules if name.split('.')[0] == 'spoolnode'}\n"
        "    ours -= {'spoolnode', 'spoolnode.protocol', 'spoolnode.protocol.version', 'spoolnode.testing'}\n"
        "    assert ours == {'spoolnode.testing.plugin'}\n"
    )
    pytester.runpytest_subprocess("-W", "error").assert_outcomes(passed=1)


@pytest.mark.parametrize("options", [(), ("-n", "2"), ("-p", "no:xdist", "-p", "no:timeout")])
def test_the_fixture_collects_for_one_test_and_shows_what_a_task_raised(
    pytester: pytest.Pytester, options: tuple[str, ...]
) -> None:
    pytester.makepyfile(app=APP, test_it=TESTS)
    done = pytester.runpytest_subprocess("-W", "error", *options)
    done.assert_outcomes(passed=4, failed=1)
    done.stdout.fnmatch_lines(['>*assert to != "nobody"', "E*AssertionError*"])


def test_fixtures_are_listed_with_what_they_are_for(pytester: pytest.Pytester) -> None:
    listed = pytester.runpytest_subprocess("--fixtures").stdout
    listed.fnmatch_lines(["spooled*", "    The tasks that the test spools.*", "spoolnode_node*", "    A real node with*"])


NODE = """
import app

def test_it_runs_tasks_and_keeps_those_for_later_over_a_restart(spoolnode_node):
    app.mail.spool("ada")
    spoolnode_node.wait_idle()
    assert [line["text"] for line in spoolnode_node.log if line["action"] == "print"] == ["mailed ada"]
    app.mail.options(at=9999999999).spool("ada")
    spoolnode_node.stop()
    spoolnode_node.start("--workers", "2")
    assert spoolnode_node.status()["total"] == 1
    app.mail.spool("bob")

def test_a_failed_task(spoolnode_node):
    assert spoolnode_node.status()["total"] == 0
    app.mail.spool("nobody")
    spoolnode_node.wait_idle()

def test_a_task_for_later(spoolnode_node):
    app.mail.options(at=9999999999).spool("ada")
    spoolnode_node.wait_idle(timeout=0.1)
"""


def test_a_real_node_runs_the_application_and_a_dead_task_fails_the_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(app=APP + '    print("mailed", to)\n', test_it=NODE)
    pytester.makeini("[pytest]\nspoolnode_join = -w app --workers 1")
    done = pytester.runpytest_subprocess("-W", "error", "-n", "2")
    done.assert_outcomes(passed=1, failed=2)
    done.stdout.re_match_lines_random(
        [
            "E +AssertionError: the task .* was given up: AssertionError",
            "E +AssertionError: not within 0.1 s: all tasks have ended; the end of its log:",
        ]
    )


def test_a_node_that_cannot_start_says_why(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(spoolnode_node): ...\ndef test_both(spooled, spoolnode_node): ...")
    done = pytester.runpytest_subprocess("-o", "spoolnode_join=-w nowhere")
    done.assert_outcomes(errors=2)
    done.stdout.fnmatch_lines(["E*the node has ended: the node is ready; the end of its log:", "E*there is no module 'nowhere'*"])
    done.stdout.fnmatch_lines(["`spooled` takes all tasks, and `spoolnode_node` would get none: use one of them"])
    done = pytester.runpytest_subprocess("-k", "it")
    done.stdout.fnmatch_lines(['*set spoolnode_join = "-w MODULE"'])


UWSGI = """
import pytest
from spoolnode import compat

compat.install()
import uwsgi
import uwsgidecorators

RAN = []

@uwsgidecorators.spool(pass_arguments=True)
def legacy(*args, **kwargs):
    RAN.append((args, kwargs))

def test_uwsgi_spool(spooled):
    uwsgi.spooler = RAN.append
    path = uwsgi.spool({b"a": b"b", b"body": b"large"})
    [task] = spooled
    assert path.endswith(task.id.encode())
    assert task.values == {"a": "b", "body": b"large"}
    spooled.run()
    assert RAN.pop()[b"a"] == b"b"
    uwsgi.spooler = uwsgidecorators.manage_spool_request

def test_uwsgidecorators(spooled):
    legacy.spool(1, {"two": (3,)}, three=None)
    assert [task.function for task in spooled] == ["legacy"]
    spooled.run()
    assert RAN.pop() == ((1, {"two": (3,)}), {"three": None})
"""


def test_modules_of_uwsgi_spool_into_the_test_too(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(UWSGI)
    pytester.runpytest_subprocess("-W", "error").assert_outcomes(passed=2)
