"""A Django project on a real PostgreSQL that restarts, or crashes, while a node's workers use it."""

import json
import signal

import pytest
from django_project import PROJECT, shell, write_project
from documents import blocks
from postgres import Postgres
from support import RunningNode, eventually

SETTINGS = """
SECRET_KEY = "x"
USE_TZ = True
DATABASES = {{"default": {{
    "ENGINE": "django.db.backends.postgresql", "NAME": "postgres", "USER": "postgres", "HOST": "{host}", "CONN_MAX_AGE": None,
}}}}
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
INSTALLED_APPS = ["shop", "spoolnode.django"]
TASKS = {{"default": {{"BACKEND": "spoolnode.django.Backend"}}}}
"""
"""Connections are kept for ever, so each worker has one when the server restarts."""

ENTRY = """
class Entry(models.Model):
    order_id = models.IntegerField()
    attempt = models.IntegerField()
"""
"""A row without a unique column: work that is done twice would be seen."""

WORK = "Entry.objects.create(order_id=order_id, attempt=current_task().attempt); work(order_id)"

MORE_TASKS = """
from pathlib import Path
from asgiref.sync import sync_to_async
from django.db import connection
from spoolnode.django.library import tasks
from shop.models import Entry

def work(order_id):
    long = order_id in {LONG} and current_task().attempt == 1
    if long:
        Path(f"long-{order_id}").touch()
    with connection.cursor() as cursor:
        cursor.execute("select pg_sleep(%s)", [600 if long else 0.01])

@spool
async def pay_in_loop(order_id):
    await sync_to_async(pay)(order_id)

@tasks.task
def pay_as_djangos_task(order_id):
    pay(order_id)

def enqueue(order_id):
    [pay.spool, pay_in_loop.spool, pay_as_djangos_task.enqueue][order_id % 3](order_id)
"""

TASKS_BEFORE, TASKS_AFTER = 240, 30
LONG = (97, 99, 101)
"""Orders whose first attempt is still running when the server ends: one of each kind of task. The async one comes first, for the
others hold up their workers."""


@pytest.fixture
def shop(node: RunningNode, postgres: Postgres) -> RunningNode:
    """A node, stopped, in the directory of a project that has the models and the task of docs/django.md."""
    postgres.start()
    models, tasks = [block.text for block in blocks("docs/django.md", "Once, although a task may run twice", "python")]
    settings = SETTINGS.format(host=postgres.socket_directory)
    task = tasks.partition("            ...")[0] + f"            {WORK}\n"
    more = MORE_TASKS.replace("{LONG}", str(LONG))
    write_project(
        node,
        PROJECT | {"site1/settings.py": settings, "shop/models.py": f"{models}\n{ENTRY}", "shop/tasks.py": f"{task}\n{more}"},
    )
    return node


def enqueue(node: RunningNode, orders: range) -> None:
    """Enqueues the payment of each order, as a web process does."""
    shell(node, f"for order_id in {orders}: enqueue(order_id)")


def wait_for(node: RunningNode, count: int) -> None:
    """Returns when so many tasks are done."""
    eventually(lambda: node.status()["done"] == count, f"{count} tasks are done")


def entries(node: RunningNode) -> list[tuple[int, int]]:
    """All rows: order, and attempt that made it."""
    (line,) = shell(
        node, "import json; print(json.dumps(list(Entry.objects.order_by('order_id').values_list('order_id', 'attempt'))))"
    )
    return [(order_id, attempt) for order_id, attempt in json.loads(line)]


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGQUIT], ids=["restart", "crash"])
def test_restart_of_the_database_costs_attempts_only_of_tasks_that_ran_and_each_row_is_there_once(
    shop: RunningNode, postgres: Postgres, end: signal.Signals
) -> None:
    shop.start("--app", "site1.settings", "--workers", "2", "--retry-base", "0.2")
    enqueue(shop, range(TASKS_BEFORE))
    eventually(lambda: len([*shop.directory.glob("long-*")]) == len(LONG), "the long ones run")
    postgres.restart(end)
    for first in (TASKS_BEFORE, TASKS_BEFORE + TASKS_AFTER):
        enqueue(shop, range(first, first + TASKS_AFTER))
        wait_for(shop, first + TASKS_AFTER)
        postgres.restart(end)  # now no task runs, so no worker has noticed when the next ones come
    assert shop.status()["dead"] == 0
    rows = entries(shop)
    assert [order_id for order_id, _ in rows] == list(range(TASKS_BEFORE + 2 * TASKS_AFTER))
    assert all(attempt > 1 for order_id, attempt in rows if order_id in LONG), "they ran when it ended"
    assert {attempt for order_id, attempt in rows if order_id >= TASKS_BEFORE} == {1}, "after it each has a connection that works"
