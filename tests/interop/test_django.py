"""A Django project with spoolnode: its command, its backend of tasks, transactions and connections. Real Django, real workers."""

import json
import subprocess
import sys
from typing import Any

import pytest
from support import RunningNode, environment, eventually

FILES = {
    "manage.py": """
import os, sys
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site1.settings")
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
""",
    "site1/__init__.py": "",
    "site1/settings.py": """
from pathlib import Path
SECRET_KEY = "x"
USE_TZ = True
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": Path(__file__).parent / "db"}}
DATABASES["default"]["OPTIONS"] = {"timeout": 60}
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
INSTALLED_APPS = ["shop", "spoolnode.django"]
TASKS = {"default": {"BACKEND": "spoolnode.django.Backend", "QUEUES": ["default", "video"]}}
TASKS["default"]["OPTIONS"] = {"NODES": {"video": "elsewhere"}}
""",
    "shop/__init__.py": "",
    "shop/models.py": """
from django.db import models
class Note(models.Model):
    text = models.TextField()
""",
    "shop/tasks.py": """
from datetime import timedelta
from django.db import connection
from django.dispatch import receiver
from spoolnode import spool
from spoolnode.django.library import signals, tasks
from shop.models import Note

@tasks.task
def pay(number, *, to):
    Note.objects.create(text=f"paid {number} {to}")

@tasks.task(takes_context=True)
async def mail(context, number):
    await Note.objects.acreate(text=f"mailed {number} {context.attempt} {context.task_result.id}")

@tasks.task(priority=-50, queue_name="video")
def film():
    raise RuntimeError("it runs elsewhere")

@tasks.task
def fails():
    Note.objects.create(text="fails")
    raise ValueError("no")

@spool
def connected(number):
    kept = connection.connection is not None
    Note.objects.create(text=f"connection kept: {kept}")

@receiver([signals.task_started, signals.task_finished])
def hear(sender, task_result, **_):
    if task_result.task.name != "mail":  # in a loop, where Django has no database
        Note.objects.create(text=f"{task_result.task.name} {task_result.status} {len(task_result.errors)}")
""",
}


@pytest.fixture
def shop(node: RunningNode) -> RunningNode:
    """A node, stopped, in the directory of a Django project."""
    for name, text in FILES.items():
        path = node.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    manage(node, "makemigrations", "shop")
    manage(node, "migrate")
    return node


def manage(node: RunningNode, *args: str, code: int = 0, **changes: str) -> str:
    """The output of `manage.py`."""
    done = subprocess.run(
        [sys.executable, "manage.py", *args], cwd=node.directory, env=environment(**changes), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def shell(node: RunningNode, program: str) -> list[str]:
    """The output of a program that runs in the project, as a web process does."""
    return manage(node, "shell", "-v0", "-c", "from shop.tasks import *\n" + program, SPOOLNODE_VIA=node.via).splitlines()


def notes(node: RunningNode) -> list[str]:
    """The rows of the database."""
    (line,) = shell(node, "import json; print(json.dumps([note.text for note in Note.objects.order_by('id')]))")
    found: list[str] = json.loads(line)
    return found


def wait_until_ended(node: RunningNode, count: int) -> None:
    """Returns when so many tasks have ended."""
    eventually(lambda: node.status()["done"] + node.status()["dead"] == count, f"{count} tasks have ended")


@pytest.mark.parametrize("app", ["spoolnode.django.project", "site1.settings"])
def test_tasks_of_django_run_in_workers_that_have_the_project(shop: RunningNode, app: str) -> None:
    shop.start("--app", app, **({"DJANGO_SETTINGS_MODULE": "site1.settings"} if app.startswith("spoolnode") else {}))
    identity, *rest = shell(
        shop, "print(mail.enqueue(1).id); result = pay.enqueue(2, to='ada'); print(result.status, result.args)"
    )
    assert rest == ["READY [2]"]
    wait_until_ended(shop, 2)
    found = notes(shop)
    assert f"mailed 1 1 {identity}" in found
    assert [text for text in found if not text.startswith("mailed")] == ["pay RUNNING 0", "paid 2 ada", "pay SUCCESSFUL 0"]


def test_what_a_task_raises_is_heard_by_django_and_is_a_failed_attempt(shop: RunningNode) -> None:
    shop.start("--app", "site1.settings", "--max-attempts", "1")
    shell(shop, "fails.enqueue()")
    dead = shop.wait_for_log("dead")
    assert dead["reason"].startswith("ValueError: no")
    assert notes(shop) == ["fails RUNNING 0", "fails", "fails FAILED 1"]


def test_run_after_priority_and_queue_are_the_time_the_priority_and_the_node(shop: RunningNode) -> None:
    shop.start()
    shell(
        shop,
        "from django.utils import timezone\n"
        "pay.using(priority=100, run_after=timezone.now() + timedelta(hours=1)).enqueue(1, to='x')\n"
        "pay.enqueue(2, to='x')\n"
        "film.enqueue()\n",
    )
    tasks: list[dict[str, Any]] = json.loads(shop.command("ls", "--json").stdout)
    assert sorted((task["state"], task["priority"]) for task in tasks) == [("later", 0), ("waiting", 100)]
    assert shop.status()["outbox"] == {"elsewhere": 1}


def test_a_call_that_is_spooled_on_commit_is_stored_when_the_transaction_commits_and_not_when_it_rolls_back(
    shop: RunningNode,
) -> None:
    shop.start()
    printed = shell(
        shop,
        "from django.db import transaction\n"
        "from spoolnode.client.control import ask\n"
        f"stored = lambda: print(ask({str(shop.spool)!r}, 'GET', '/status')['total'])\n"
        "with transaction.atomic():\n"
        "    connected.spool_on_commit(1)\n"
        "    connected.options(priority=3).spool_on_commit(2)\n"
        "    stored()\n"
        "stored()\n"
        "try:\n"
        "    with transaction.atomic():\n"
        "        connected.spool_on_commit(3)\n"
        "        raise LookupError\n"
        "except LookupError:\n"
        "    stored()\n",
    )
    assert printed == ["0", "2", "2"]


def test_each_task_begins_without_the_connection_of_the_one_before(shop: RunningNode) -> None:
    shop.start("--app", "site1.settings")
    shell(shop, "connected.spool(1); connected.spool(2)")
    wait_until_ended(shop, 2)
    assert notes(shop) == ["connection kept: False"] * 2


class ManagedNode(RunningNode):
    """A node that is started by `manage.py`."""

    def command_line(self, args: list[str]) -> list[str]:
        return [sys.executable, "manage.py", "spoolnode", *args[args.index("join") + 1 :]]


def test_manage_py_spoolnode_is_a_node_with_the_options_of_join(shop: RunningNode) -> None:
    node = ManagedNode(shop.directory)
    try:
        node.start("--workers", "2")
        shell(node, "pay.enqueue(1, to='ada')")
        wait_until_ended(node, 1)
        assert "paid 1 ada" in notes(node)
        assert node.status()["workers"] == 2
        assert node.stop() == 0
    finally:
        node.clean_up()


def test_wrong_options_are_sentences_of_manage_py_check(shop: RunningNode) -> None:
    options = {"NODES": {"film": "any", "video": "a b"}, "NODE": 1, "VIA": "localhost"}
    text = f"\nTASKS['default']['OPTIONS'] = {options!r}\n"
    with (shop.directory / "site1/settings.py").open("a") as settings:
        settings.write(text)
    said = manage(shop, "check", code=1)
    for part in (
        "TASKS['default']: there is no option 'NODE'; there are NODES and VIA",
        "NODES names the queue 'film', which is not one of QUEUES (default, video)",
        "NODES sends the queue 'video' to 'a b'; it must be a node's name",
        "VIA: ",
    ):
        assert part in said
