"""A Django project with spoolnode: its command, its backend of tasks, transactions and connections. Real Django, real workers."""

import json
import sys
from typing import Any

import pytest
from django_project import PROJECT, manage, shell, write_project
from documents import blocks, section, table
from support import RunningNode, eventually

FILES = PROJECT | {
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
class Tick(models.Model):
    text = models.TextField()
""",
    "shop/tasks.py": """
import asyncio
from datetime import timedelta
from asgiref.sync import sync_to_async
from django.db import connection
from django.dispatch import receiver
from spoolnode import spool, timer
from spoolnode.django import task_options
from spoolnode.django.library import signals, tasks
from shop.models import Note, Tick

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

@tasks.task
@task_options(max_attempts=2, retry_base=0.01, timeout=60)
def fails_twice():
    raise ValueError("no")

@tasks.task
@task_options(give_up_on=LookupError)
async def gives_up():
    raise KeyError("no")

@tasks.task
@task_options(max_attempts=1, timeout=0.2)
async def late():
    await asyncio.sleep(600)

@tasks.task
@task_options(limit=1)
def alone(number):
    Note.objects.create(text=f"begins {number}")
    Note.objects.create(text=f"ends {number}")

@spool
def connected(number):
    kept = connection.connection is not None
    Note.objects.create(text=f"connection kept: {kept}")

@timer(0.2)
def ticks():
    kept = connection.connection is not None
    Tick.objects.create(text=f"connection kept: {kept}")

@timer(0.2)
async def ticks_in_loop():
    kept = await sync_to_async(lambda: connection.connection is not None)()
    await Tick.objects.acreate(text=f"in loop: connection kept: {kept}")

@receiver([signals.task_started, signals.task_finished])
def hear(sender, task_result, **_):
    if task_result.task.name not in ("mail", "gives_up", "late"):  # in a loop, where Django has no database
        Note.objects.create(text=f"{task_result.task.name} {task_result.status} {len(task_result.errors)}")
""",
}


@pytest.fixture
def shop(node: RunningNode) -> RunningNode:
    """A node, stopped, in the directory of a Django project."""
    write_project(node, FILES)
    return node


def test_a_task_whose_start_is_unknown_is_running(shop: RunningNode) -> None:
    """Another node may hold it, for which only a common store speaks."""
    told = "state='running', function='shop.tasks:fails', values=packb({'args': [], 'kwargs': {}}), story=[]"
    lines = shell(
        shop,
        "from spoolnode.django.task_result import task_result; from spoolnode.protocol.extension import packb; "
        f"result = task_result(dict({told}), 'default', 'it'); print(result.status, result.started_at)",
    )
    assert lines == ["RUNNING None"]


def notes(node: RunningNode) -> list[str]:
    """The rows of the database."""
    (line,) = shell(node, "import json; print(json.dumps([note.text for note in Note.objects.order_by('id')]))")
    found: list[str] = json.loads(line)
    return found


def wait_until_ended(node: RunningNode, count: int) -> None:
    """Returns when so many tasks have ended."""
    eventually(lambda: node.status()["done"] + len(node.lines("dead")) == count, f"{count} tasks have ended")


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


def test_options_of_a_task_say_how_often_it_is_tried_and_how_long_it_may_run(shop: RunningNode) -> None:
    shop.start("--app", "site1.settings")
    shell(shop, "for task in (fails_twice, gives_up, late): task.enqueue()")
    shop.wait_for_log("dead", count=3)
    dead = {line["function"]: (line["attempts"], line["reason"].partition("\n")[0]) for line in shop.lines("dead")}
    assert dead == {
        "shop.tasks:fails_twice": (2, "ValueError: no"),
        "shop.tasks:gives_up": (1, "KeyError: 'no'"),
        "shop.tasks:late": (1, "it ran longer than 0.2 s (timeout)"),
    }


def test_limit_of_a_task_holds_its_other_calls_back(shop: RunningNode) -> None:
    shop.start("--app", "site1.settings", "--workers", "4")
    shell(shop, "for number in range(20): alone.enqueue(number)")
    wait_until_ended(shop, 20)
    told = [text.split() for text in notes(shop) if text.startswith(("begins", "ends"))]
    assert [word for word, _ in told] == ["begins", "ends"] * 20
    assert [number for _, number in told[::2]] == [number for _, number in told[1::2]]


def test_options_of_a_task_that_make_no_sense_are_refused_where_they_are_written(shop: RunningNode) -> None:
    program = (
        "from spoolnode import SpoolnodeError\n"
        "for make in (lambda: task_options(max_attempts='5'), lambda: task_options(limit=0), lambda: task_options()(pay)):\n"
        "    try: make()\n"
        "    except SpoolnodeError as error: print(error)"
    )
    said = shell(shop, program)
    for line, part in zip(said, ("`max_attempts` is '5'", "`limit` is 0", "stands above @task; write it below"), strict=True):
        assert part in line


@pytest.mark.on_disk("a task for another node waits in the store, and not in the outbox")
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
    assert {task["function"] for task in tasks} == {"shop.tasks:pay"}
    assert shop.status()["outbox"] == {"elsewhere": 1}


@pytest.mark.on_disk("it counts what waits on the disk")
def test_a_call_that_is_spooled_on_commit_is_stored_when_the_transaction_commits_and_not_when_it_rolls_back(
    shop: RunningNode,
) -> None:
    shop.start()
    printed = shell(
        shop,
        "from django.db import transaction\n"
        "from spoolnode.client.control import ask\n"
        f"stored = lambda: print(ask({str(shop.spool)!r}, 'GET', '/node')['total'])\n"
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


def test_calls_that_replace_those_of_celery_are_spooled_as_the_page_says(shop: RunningNode) -> None:
    rows = table(section("docs/celery.md", "Calls"))
    program = [
        "import time",
        "from shop.tasks import *",
        "from django.utils import timezone",
        "from spoolnode.testing import collected",
        "send_receipt, pay, begun, numbers = fails, connected, timezone.now(), [42, 42]",
        "when = begun + timedelta(seconds=120)",
        *[here.strip("`") for _, here in rows],
        "for task in collected():",
        "    print(task.function, task.args, task.at and round((task.at - begun).total_seconds()) // 60, task.node)",
    ]
    fails, connected = "shop.tasks:fails (42,)", "shop.tasks:connected (42,)"
    printed = manage(shop, "shell", "-v0", "-c", "\n".join(program), SPOOLNODE_VIA="memory:").splitlines()
    assert printed == [
        f"{fails} None None", f"{fails} 1 None", f"{fails} None elsewhere",
        f"{connected} None None", f"{connected} 1 None", f"{connected} 2 None", f"{connected} None tag:video",
        *[f"{connected} None None"] * 3,
    ]  # fmt: skip


def test_a_view_is_polled_for_a_result_as_the_page_says(shop: RunningNode) -> None:
    [example] = blocks("docs/celery.md", "Results and progress", "python")
    (shop.directory / "shop" / "exports.py").write_text(example.text)
    printed = manage(
        shop, "shell", "-v0", "-c",
        "import json\n"
        "from shop.exports import start, state\n"
        "from spoolnode.testing import collected\n"
        "told = lambda answer: json.loads(answer.content)\n"
        "task = told(start(None, 2026))['task']\n"
        "print(told(state(None, task))['state'])\n"
        "collected().run()\n"
        "print(told(state(None, task))['result']['file'], told(state(None, 'a_1_2'))['state'])\n",
        SPOOLNODE_VIA="memory:",
    )  # fmt: skip
    assert printed.splitlines() == ["working", "orders-2026.csv failed"]


def test_only_some_exceptions_are_tried_again_and_the_last_failure_is_told_as_the_page_says(shop: RunningNode) -> None:
    [example] = blocks("docs/celery.md", "Retries", "python")
    (shop.directory / "shop" / "charges.py").write_text(example.text.replace("shop.tasks:charge", "shop.charges:charge"))
    (shop.directory / "shop" / "bank.py").write_text(
        "def charge(order_id, idempotency_key):\n    raise ConnectionError('down') if order_id == 1 else KeyError('odd')\n"
    )
    printed = manage(
        shop, "shell", "-v0", "-c",
        "from shop import charges\n"
        "from spoolnode.testing import collected\n"
        "charges.mail_admins = lambda subject, text: print(text.partition(': ')[2])\n"
        "for order in (1, 2):\n"
        "    charges.charge.spool(order)\n"
        "    try:\n"
        "        collected().run_all()\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__, collected()[-1].attempts)\n",
        SPOOLNODE_VIA="memory:",
    )  # fmt: skip
    assert printed.splitlines() == [
        "it asked to run again after 64 s because of ConnectionError: down", "Retry 6",
        "'odd'", "KeyError 1",
    ]  # fmt: skip


def test_each_call_of_a_timer_begins_without_the_connection_of_the_one_before(shop: RunningNode) -> None:
    shop.start("--app", "site1.settings")
    kinds = ["connection kept: False", "in loop: connection kept: False"]
    told = "print(min(Tick.objects.filter(text=text).count() for text in %r), Tick.objects.exclude(text__in=%r).count())"
    eventually(lambda: int(shell(shop, told % (kinds, kinds))[0].split()[0]) >= 3, "both have been called some times")
    assert shell(shop, told % (kinds, kinds))[0].split()[1] == "0"


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
        eventually(lambda: node.status()["workers"] == 2, "both are up")
        assert node.stop() == 0
    finally:
        node.clean_up()


def test_wrong_options_are_sentences_of_manage_py_check(shop: RunningNode) -> None:
    options = {"NODES": {"film": "any", "video": "a b"}, "NODE": 1, "VIA": "localhost", "KEEP_RESULTS": "no", "DATABASE": "x"}
    text = f"\nTASKS['default']['OPTIONS'] = {options!r}\n"
    with (shop.directory / "site1/settings.py").open("a") as settings:
        settings.write(text)
    said = manage(shop, "check", code=1)
    for part in (
        "TASKS['default']: there is no option 'NODE'; there are NODES, VIA, KEEP_RESULTS and DATABASE",
        "NODES names the queue 'film', which is not one of QUEUES (default, video)",
        "NODES sends the queue 'video' to 'a b'; it must be a node's name",
        "VIA: ",
        "KEEP_RESULTS is 'no'; it must be True or False",
        "DATABASE is 'x'; it must be one of DATABASES, and a PostgreSQL",
    ):
        assert part in said
