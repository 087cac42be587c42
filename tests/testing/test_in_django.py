"""`spoolnode.testing` under Django's own test runner: tasks share the connection and the transaction of the test."""

import sys

import pytest

pytestmark = pytest.mark.slow

SETTINGS = """
SECRET_KEY = "x"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db", "TEST": {"NAME": "test_db"}}}
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
INSTALLED_APPS = ["shop", "spoolnode.django"]
TASKS = {"default": {"BACKEND": "spoolnode.django.Backend", "QUEUES": ["default", "video"]}}
TASKS["default"]["OPTIONS"] = {"NODES": {"video": "tag:gpu"}, "VIA": "10.0.0.1:3031"}
"""
MANAGE = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""
MODELS = """
from django.db import models

class Note(models.Model):
    text = models.TextField()
"""
TASKS = """
from shop.models import Note
from spoolnode import spool
from spoolnode.django.library import tasks

@spool
def note(text):
    Note.objects.create(text=f"{text} after {Note.objects.count()}")

@spool
async def anote(text):
    await Note.objects.acreate(text=f"{text} after {await Note.objects.acount()}")

@tasks.task
def django_note(text):
    Note.objects.create(text=f"{text} after {Note.objects.count()}")
    return Note.objects.count()

@tasks.task
def django_fails(text):
    raise LookupError(text)

@tasks.task(takes_context=True, priority=10, queue_name="video")
async def django_anote(context, text):
    await Note.objects.acreate(text=f"{text} {context.attempt} after {await Note.objects.acount()}")
"""
TESTS = """
from django.db import transaction
from django.test import TestCase, TransactionTestCase

from shop.models import Note
from shop.tasks import anote, django_anote, django_fails, django_note, note
from spoolnode.testing import collect

BY_PRIORITY = ["row of the test", "4 1 after 1", "3 after 2", "1 after 3", "2 after 4"]

def notes():
    return [note.text for note in Note.objects.order_by("id")]

class Collected(TestCase):
    def setUp(self):
        self.spooled = self.enterContext(collect())
        Note.objects.create(text="row of the test")

    def test_tasks_see_the_rows_of_the_test(self):
        note.spool("1")
        anote.spool("2")
        django_note.enqueue("3")
        django_anote.enqueue("4")
        self.spooled.run()
        self.assertEqual(notes(), BY_PRIORITY)

    async def test_tasks_of_a_coroutine_see_them_too(self):
        await note.aspool("1")
        await anote.aspool("2")
        await django_note.aenqueue("3")
        await django_anote.aenqueue("4")
        await self.spooled.arun()
        found = [note.text async for note in Note.objects.order_by("id")]
        self.assertEqual(found, BY_PRIORITY)

    def test_a_task_of_django_is_shown_with_its_own_arguments_and_options(self):
        result = django_anote.enqueue(text="4")
        [task] = self.spooled.of(django_anote)
        self.assertEqual((task.id, task.function, task.args, task.kwargs),
                         (result.id, "shop.tasks:django_anote", (), {"text": "4"}))
        self.assertEqual((task.priority, task.node, task.via), (90, "tag:gpu", "10.0.0.1:3031"))

    def test_result_of_a_task_is_there_when_the_test_has_run_it(self):
        result, failing = django_note.enqueue("1"), django_fails.enqueue("2")
        result.refresh()
        self.assertEqual((str(result.status), result.args), ("READY", ["1"]))
        with self.assertRaises(LookupError):
            self.spooled.run_all()
        result.refresh()
        self.assertEqual((str(result.status), result.return_value, result.attempts), ("SUCCESSFUL", 2, 1))
        failing.refresh()
        self.assertEqual((str(failing.status), failing.attempts), ("FAILED", 20))
        self.assertEqual({error.exception_class for error in failing.errors}, {LookupError})
        self.assertTrue(failing.errors[0].traceback.endswith("LookupError: 2\\n"))

    def test_on_commit(self):
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            note.spool_on_commit("1")
            self.assertEqual(len(self.spooled), 0)
        self.assertEqual((len(callbacks), len(self.spooled)), (1, 1))
        with self.captureOnCommitCallbacks() as callbacks:
            note.spool_on_commit("2")
        self.assertEqual((len(callbacks), len(self.spooled)), (1, 1))

class Eager(TestCase):
    def test_a_task_runs_in_the_transaction_of_its_caller(self):
        with collect(eager=True), transaction.atomic():
            note.spool("1")
            anote.options(via="eager:").spool("2")
            self.assertEqual(notes(), ["1 after 0", "2 after 1"])
            transaction.set_rollback(True)
        self.assertEqual(notes(), [])

class Committed(TransactionTestCase):
    def test_a_real_commit_spools_and_a_rollback_does_not(self):
        with collect() as spooled:
            with transaction.atomic():
                note.spool_on_commit("1")
            with self.assertRaises(LookupError), transaction.atomic():
                note.spool_on_commit("2")
                raise LookupError
        self.assertEqual([task.args for task in spooled], [("1",)])
"""


def test_tasks_share_the_connection_and_the_transaction_of_a_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(manage=MANAGE, settings=SETTINGS)
    pytester.mkpydir("shop")
    for name, text in {"models": MODELS, "tasks": TASKS, "tests": TESTS}.items():
        (pytester.path / "shop" / f"{name}.py").write_text(text)
    done = pytester.run(sys.executable, "-W", "error", "manage.py", "test")
    done.stderr.fnmatch_lines(["Ran 7 tests*", "OK"])
