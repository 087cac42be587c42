"""Each example of docs/testing.md runs as it stands there, under the test runner that it is for."""

import re
import sys

import pytest
from documents import blocks

pytestmark = pytest.mark.slow

PAGE = "docs/testing.md"
SETTINGS = """
SECRET_KEY = "x"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
INSTALLED_APPS = ["shop", "spoolnode.django"]
TASKS = {"default": {"BACKEND": "spoolnode.django.Backend"}}
"""
MANAGE = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""


def examples(title: str) -> list[str]:
    return [block.text for block in blocks(PAGE, title, "python")]


def mailer() -> str:
    return blocks(PAGE, language="python")[0].text


def test_every_example_is_run_here() -> None:
    used = [mailer()]
    for title in ("pytest", "unittest", "Django", "Retries, times and timers", "Calls that run at once", "A real node"):
        used += examples(title)
    assert used == [block.text for block in blocks(PAGE, language="python")]


@pytest.mark.parametrize("title", ["pytest", "Retries, times and timers", "Calls that run at once"])
def test_examples_of_pytest(pytester: pytest.Pytester, title: str) -> None:
    [test] = examples(title)
    pytester.makepyfile(mailer=mailer(), test_mailer=test)
    pytester.runpytest_subprocess("-W", "error").assert_outcomes(passed=1)


def test_example_of_a_real_node(pytester: pytest.Pytester) -> None:
    [settings] = blocks(PAGE, "A real node", "toml")
    [test] = examples("A real node")
    pytester.makepyprojecttoml(settings.text)
    pytester.makepyfile(mailer=mailer(), test_mailer=test)
    pytester.runpytest_subprocess("-W", "error").assert_outcomes(passed=1)


def test_example_of_unittest(pytester: pytest.Pytester) -> None:
    [test] = examples("unittest")
    pytester.makepyfile(mailer=mailer(), test_mailer=test)
    done = pytester.run(sys.executable, "-W", "error", "-m", "unittest", "test_mailer")
    done.stderr.fnmatch_lines(["Ran 1 test*", "OK"])


def test_example_of_django(pytester: pytest.Pytester) -> None:
    tasks, tests = examples("Django")
    if not has_tasks():
        tasks = re.sub("^from django.tasks import task .*$", "from django_tasks import task", tasks, flags=re.M)
    pytester.makepyfile(manage=MANAGE, settings=SETTINGS)
    pytester.mkpydir("shop")
    for name, text in {"tasks": tasks, "tests": tests}.items():
        (pytester.path / "shop" / f"{name}.py").write_text(text)
    done = pytester.run(sys.executable, "manage.py", "test")
    done.stderr.fnmatch_lines(["Ran 1 test*", "OK"])


def has_tasks() -> bool:
    """Whether Django has tasks itself: from 6.0 on."""
    import django

    return django.VERSION >= (6,)
