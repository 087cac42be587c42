"""What Django asks of a backend of tasks, flag by flag. Neither Django nor django-tasks installs its own tests of this, so these
follow them: Django's `tests/tasks/test_dummy_backend.py` where tasks are enqueued, `test_immediate_backend.py` where they run."""

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from django_project import PROJECT, manage, shell, write_project
from support import RunningNode, eventually

import spoolnode

FILES = PROJECT | {
    "site1/settings.py": """
SECRET_KEY = "x"
USE_TZ = True
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
INSTALLED_APPS = ["shop", "spoolnode.django"]
TASKS = {
    "default": {"BACKEND": "spoolnode.django.Backend", "QUEUES": ["default", "queue_1"]},
    "open": {"BACKEND": "spoolnode.django.Backend", "QUEUES": []},
    "forgets": {"BACKEND": "spoolnode.django.Backend", "OPTIONS": {"KEEP_RESULTS": False}},
}
""",
    "shop/tasks.py": """
import json
import os
from datetime import timedelta

from django.dispatch import receiver
from django.utils import timezone

from spoolnode import spool
from spoolnode.django.library import signals, tasks

@tasks.task
def noop(*args, **kwargs):
    pass

@tasks.task
async def noop_async(*args, **kwargs):
    pass

@tasks.task
def meaning_of_life():
    return 42

@tasks.task
def raises_value_error():
    raise ValueError("This Task failed due to ValueError")

@tasks.task
def raises_system_exit():
    raise SystemExit("This Task failed due to SystemExit")

@tasks.task
async def raises_in_loop():
    raise ValueError(ValueError("This task failed"))

@tasks.task
def returns_no_json():
    return lambda: True

@spool
def spooled():
    pass

@tasks.task
def fails_once(path):
    if not os.path.exists(path):
        open(path, "w").close()
        raise LookupError("not yet")
    return "now"

@tasks.task(takes_context=True)
def task_id(context, attempt):
    return [context.task_result.id, context.attempt == attempt, type(context).__name__]

@tasks.task(priority=100)
def waits_for(pipe):
    open(pipe).close()

@receiver([signals.task_started, signals.task_finished])
def hear(sender, task_result, **_):
    times = ("enqueued_at", "started_at", "last_attempted_at", "finished_at")
    told = {name: value.isoformat() for name in times if (value := getattr(task_result, name))}
    told |= {name: getattr(task_result, name) for name in ("id", "args", "kwargs", "attempts", "is_finished", "backend")}
    told |= {"status": str(task_result.status), "name": task_result.task.name, "sender": sender.__name__}
    told["errors"] = [[error.exception_class.__name__, error.traceback[-60:]] for error in task_result.errors]
    if told["status"] == "SUCCESSFUL":
        told["return_value"] = task_result.return_value
    print(json.dumps(told))
""",
    "shop/broken.py": "import nowhere",
    "shop/tests.py": """
from datetime import datetime, timedelta

from django.db import transaction
from django.test import SimpleTestCase, TransactionTestCase, override_settings
from django.utils import timezone

from shop.tasks import meaning_of_life, noop, noop_async, spooled, task_id, tasks
from spoolnode.django.library import signals

InvalidTask = getattr(tasks.exceptions, "InvalidTask", None) or tasks.exceptions.InvalidTaskError
backend = tasks.default_task_backend


class ContractTest(SimpleTestCase):
    def check_waits(self, result, task, args, kwargs):
        self.assertEqual(result.status, tasks.TaskResultStatus.READY)
        self.assertFalse(result.is_finished)
        self.assertIsNotNone(result.enqueued_at)
        self.assertEqual((result.started_at, result.last_attempted_at, result.finished_at), (None, None, None))
        with self.assertRaisesMessage(ValueError, "Task has not finished yet"):
            result.return_value
        self.assertEqual((result.task, result.args, result.kwargs), (task, args, kwargs))
        self.assertEqual((result.attempts, result.errors, result.backend), (0, [], "default"))

    def test_enqueue(self):
        for task in (noop, noop_async):
            with self.assertLogs("django.tasks" if tasks.__name__ == "django.tasks" else "django_tasks", "DEBUG") as logs:
                result = task.enqueue(1, two=(3, 4))
            self.check_waits(result, task, [1], {"two": [3, 4]})
            self.assertIn(result.id, logs.output[0])

    async def test_aenqueue(self):
        for task in (noop, noop_async):
            self.check_waits(await task.aenqueue(1, two=(3, 4)), task, [1], {"two": [3, 4]})

    async def test_arguments_that_are_no_json(self):
        with self.assertRaisesMessage(TypeError, "Unsupported type"):
            noop.enqueue(datetime.now())
        with self.assertRaisesMessage(TypeError, "Unsupported type"):
            await noop.aenqueue(datetime.now())

    def test_signal(self):
        heard = []
        signals.task_enqueued.connect(lambda sender, task_result, **_: heard.append((sender, task_result)), weak=False)
        result = noop.enqueue()
        self.assertEqual(heard, [(type(backend._wrapped if hasattr(backend, "_wrapped") else noop.get_backend()), result)])

    def test_flags(self):
        flags = ("supports_defer", "supports_async_task", "supports_priority", "supports_get_result")
        self.assertEqual([getattr(backend, flag) for flag in flags], [True] * 4)
        self.assertEqual([getattr(tasks.task_backends["forgets"], flag) for flag in flags], [True] * 3 + [False])

    def test_defer(self):
        now = timezone.now()
        self.assertEqual(noop.using(run_after=now).run_after, now)
        with self.assertRaisesMessage(InvalidTask, "run_after must be an aware datetime."):
            noop.using(run_after=datetime.now())

    def test_priority(self):
        for priority in (-100, 0, 100):
            self.assertEqual(noop.using(priority=priority).priority, priority)
        for priority in (-101, 101, 3.1):
            with self.assertRaisesMessage(InvalidTask, "priority must be a whole number between -100 and 100."):
                noop.using(priority=priority)

    def test_queues(self):
        self.assertEqual(noop.using(queue_name="queue_1").queue_name, "queue_1")
        self.assertEqual(noop.using(queue_name="any", backend="open").queue_name, "any")
        with self.assertRaisesMessage(InvalidTask, "Queue 'queue-2' is not valid for backend."):
            noop.using(queue_name="queue-2")

    def test_functions_that_no_worker_could_run(self):
        for function in (any, self.test_queues):
            with self.assertRaisesMessage(InvalidTask, "Task function must be defined at a module level."):
                tasks.task()(function)
        with self.assertRaisesMessage(InvalidTask, "Task takes context but does not have a first argument of 'context'."):
            tasks.task(takes_context=True)(meaning_of_life.func)

    async def test_task_is_validated_again_when_it_is_enqueued(self):
        task = noop.using(queue_name="queue_1")
        with override_settings(TASKS={"default": {"BACKEND": "spoolnode.django.Backend", "QUEUES": ["default"]}}):
            with self.assertRaisesMessage(InvalidTask, "Queue 'queue_1' is not valid for backend"):
                task.enqueue()
            with self.assertRaisesMessage(InvalidTask, "Queue 'queue_1' is not valid for backend"):
                await task.aenqueue()

    def test_get_result(self):
        later = timezone.now() + timedelta(hours=1)
        result = noop.using(run_after=later).enqueue(1, two=3)
        found = noop.get_result(result.id)
        self.check_waits(found, noop, [1], {"two": 3})
        self.assertEqual((found.id, backend.get_result(result.id)), (result.id, found))

    async def test_aget_result(self):
        later = timezone.now() + timedelta(hours=1)
        result = await noop_async.using(run_after=later).aenqueue(1, two=3)
        found = await noop_async.aget_result(result.id)
        self.check_waits(found, noop_async, [1], {"two": 3})
        self.assertEqual(await backend.aget_result(result.id), found)

    async def test_refresh(self):
        result = noop.using(run_after=timezone.now() + timedelta(hours=1)).enqueue()
        for name, value in {"status": "FAILED", "errors": [1]}.items():
            object.__setattr__(result, name, value)
        result.refresh()
        self.check_waits(result, result.task, [], {})
        object.__setattr__(result, "status", "FAILED")
        await result.arefresh()
        self.check_waits(result, result.task, [], {})

    async def test_unknown_results(self):
        for identity in ("0123456789ab_1790000000000000_64", "../node.key", "123"):
            with self.assertRaises(tasks.exceptions.TaskResultDoesNotExist):
                noop.get_result(identity)
            with self.assertRaises(tasks.exceptions.TaskResultDoesNotExist):
                await noop.aget_result(identity)

    def test_result_of_another_task(self):
        result = noop.enqueue()
        with self.assertRaises(tasks.exceptions.TaskResultMismatch):
            meaning_of_life.get_result(result.id)

    def test_result_of_another_call(self):
        with self.assertRaisesMessage(tasks.exceptions.TaskResultDoesNotExist, "not one of Django's tasks"):
            backend.get_result(spooled.options(at=timezone.now() + timedelta(hours=1)).spool())

    def test_results_that_are_not_kept(self):
        result = noop.using(backend="forgets").enqueue()
        with self.assertRaisesMessage(NotImplementedError, "does not support retrieving or refreshing results."):
            result.refresh()

    def test_check(self):
        self.assertEqual(list(backend.check()), [])


class TransactionTest(TransactionTestCase):
    def test_enqueue_does_not_wait_for_the_commit(self):
        with transaction.atomic():
            self.assertTrue(noop.enqueue().id)
""",
}


@pytest.fixture
def contract(node: RunningNode) -> RunningNode:
    """A node, stopped, in the directory of a project."""
    write_project(node, FILES)
    return node


def start(node: RunningNode, *options: str) -> None:
    """Starts a node that runs the project; a task that fails is dead."""
    node.start("--app", "site1.settings", "--max-attempts", "1", *options)


def wait_until_ended(node: RunningNode, count: int) -> None:
    """Returns when so many tasks have ended."""
    eventually(lambda: node.status()["done"] + len(node.lines("dead")) == count, f"{count} tasks have ended")


def heard(node: RunningNode, count: int) -> list[dict[str, Any]]:
    """What Django's signals told in the workers, once so many tasks have ended."""

    def told() -> list[dict[str, Any]]:
        return [json.loads(line["text"]) for line in node.lines("print") if line["text"].startswith("{")]

    wait_until_ended(node, count)
    eventually(lambda: len(told()) >= 2 * count, "both signals of each")
    return told()


def ends(node: RunningNode, count: int) -> dict[str, dict[str, Any]]:
    """What `task_finished` told, by the name of the task."""
    return {told["name"]: told for told in heard(node, count) if told["is_finished"]}


@pytest.mark.slow
def test_backend_accepts_and_refuses_what_the_contract_says(contract: RunningNode) -> None:
    start(contract)
    said = manage(contract, "test", "shop", SPOOLNODE_VIA=contract.via)
    assert "Ran 19 tests" in said
    assert "OK" in said


def test_task_that_ends_well_is_running_and_then_successful_with_its_times_and_value(contract: RunningNode) -> None:
    start(contract)
    (identity,) = shell(
        contract, "noop.enqueue(1, two=3); noop_async.enqueue(); meaning_of_life.enqueue(); print(task_id.enqueue(1).id)"
    )
    for told in heard(contract, 4):
        assert [told["sender"], told["backend"], told["attempts"], told["errors"]] == ["Backend", "default", 1, []]
        assert told["status"] == ("SUCCESSFUL" if told["is_finished"] else "RUNNING")
    ended = ends(contract, 4)
    for told in ended.values():
        assert told["enqueued_at"] <= told["started_at"] == told["last_attempted_at"] <= told["finished_at"]
    assert [ended["noop"]["args"], ended["noop"]["kwargs"]] == [[1], {"two": 3}]
    assert {name: told["return_value"] for name, told in ended.items()} == {
        "noop": None, "noop_async": None, "meaning_of_life": 42, "task_id": [identity, True, "TaskContext"],
    }  # fmt: skip


def test_task_that_raises_has_failed_with_its_class_and_traceback(contract: RunningNode) -> None:
    start(contract)
    shell(contract, "for task in (raises_value_error, raises_system_exit, raises_in_loop, returns_no_json): task.enqueue()")
    ended = ends(contract, 4)
    assert {told["status"] for told in ended.values()} == {"FAILED"}
    ((kind, traceback),) = ended["raises_value_error"]["errors"]
    assert [kind, traceback.endswith("ValueError: This Task failed due to ValueError\n")] == ["ValueError", True]
    ((kind, traceback),) = ended["raises_system_exit"]["errors"]
    assert [kind, traceback.endswith("SystemExit: This Task failed due to SystemExit\n")] == ["SystemExit", True]
    assert ended["raises_in_loop"]["errors"][0][0] == "ValueError"
    ((kind, traceback),) = ended["returns_no_json"]["errors"]
    assert [kind, "Unsupported type" in traceback] == ["TypeError", True]


TELL = """
import sys
def tell(identity):
    result = tasks.default_task_backend.get_result(identity)
    times = [result.enqueued_at, result.started_at, result.last_attempted_at, result.finished_at]
    print(json.dumps({
        "status": str(result.status), "name": result.task.name, "args": result.args, "kwargs": result.kwargs,
        "errors": [[error.exception_class.__name__, error.traceback] for error in result.errors],
        "workers": result.worker_ids, "times": [time and time.isoformat() for time in times],
        "value": result.return_value if result.status == "SUCCESSFUL" else None,
    }))
"""
"""A function for a shell that prints what a result has."""


def results(node: RunningNode, *identities: str) -> list[dict[str, Any]]:
    """What `get_result` tells in another process."""
    calls = "\n".join(f"tell({identity!r})" for identity in identities)
    return [json.loads(line) for line in shell(node, f"{TELL}\n{calls}")]


def test_result_of_a_task_that_ended_well_has_its_value_its_arguments_and_its_times(contract: RunningNode) -> None:
    start(contract)
    large = 70_000
    identities = shell(
        contract,
        f"print(noop.enqueue(1, two=3).id); print(noop_async.enqueue('x' * {large}).id); print(meaning_of_life.enqueue().id)",
    )
    wait_until_ended(contract, 3)
    found = results(contract, *identities)
    assert [told["status"] for told in found] == ["SUCCESSFUL"] * 3
    assert [[told["args"], told["kwargs"]] for told in found] == [[[1], {"two": 3}], [["x" * large], {}], [[], {}]]
    assert [told["value"] for told in found] == [None, None, 42]
    for told in found:
        assert told["times"] == sorted(told["times"])
        assert [told["workers"], told["errors"]] == [["testnode"], []]
    assert spoolnode.result(identities[2], via=contract.via) == 42


def test_result_of_a_task_that_failed_has_its_errors_as_python_shows_them(contract: RunningNode) -> None:
    start(contract)
    programs = ("raises_value_error", "raises_system_exit", "raises_in_loop", "returns_no_json")
    identities = shell(contract, "\n".join(f"print({name}.enqueue().id)" for name in programs))
    wait_until_ended(contract, 4)
    for told, kind in zip(results(contract, *identities), ("ValueError", "SystemExit", "ValueError", "TypeError"), strict=True):
        assert [told["status"], told["workers"]] == ["FAILED", ["testnode"]]
        assert told["times"] == sorted(told["times"])
        ((name, text),) = told["errors"]
        assert name == kind
        assert text.startswith("Traceback (most recent call last):\n")
    ((_, text),) = results(contract, identities[0])[0]["errors"]
    assert text.endswith("ValueError: This Task failed due to ValueError\n")
    assert "in raises_value_error" in text


def test_result_of_a_task_that_runs_says_so_and_that_it_ended_afterwards(contract: RunningNode) -> None:
    pipe = contract.directory / "pipe"
    os.mkfifo(pipe)
    start(contract)
    (identity,) = shell(contract, f"print(waits_for.enqueue({str(pipe)!r}).id)")
    eventually(lambda: contract.lines("print"), "it runs")
    (told,) = results(contract, identity)
    assert [told["status"], told["args"], told["workers"]] == ["RUNNING", [str(pipe)], ["testnode"]]
    assert [bool(time) for time in told["times"]] == [True, True, True, False]
    eventually(lambda: has_opened(pipe), "it waits for the pipe")
    eventually(lambda: results(contract, identity)[0]["status"] == "SUCCESSFUL", "it has ended")


def test_result_of_a_task_that_failed_once_waits_and_then_has_the_error_and_the_value(contract: RunningNode) -> None:
    contract.start("--app", "site1.settings", "--retry-base", "3600", "--retry-max", "7200")
    (identity,) = shell(contract, f"print(fails_once.enqueue({str(contract.directory / 'failed')!r}).id)")
    contract.wait_for_log("retry")
    (told,) = results(contract, identity)
    assert [told["status"], told["workers"]] == ["READY", ["testnode"]]
    assert [bool(time) for time in told["times"]] == [True, True, True, False]
    contract.command("retry", identity)
    wait_until_ended(contract, 1)
    (told,) = results(contract, identity)
    assert [told["status"], told["workers"], told["value"]] == ["SUCCESSFUL", ["testnode"] * 2, "now"]
    assert [name for name, _ in told["errors"]] == ["LookupError"]
    assert told["times"] == sorted(told["times"])


def test_result_of_a_task_that_was_removed_or_whose_value_is_too_large_does_not_exist(contract: RunningNode) -> None:
    start(contract)
    program = "from datetime import timedelta; print(noop.using(run_after=timezone.now() + timedelta(hours=1)).enqueue().id)"
    (removed,) = shell(contract, program)
    contract.command("rm", removed)
    (large,) = shell(contract, f"print(noop.enqueue('x' * {1 << 20}).id)")
    wait_until_ended(contract, 1)
    for identity, reason in ((removed, "it was removed by hand"), (large, "its result cannot be kept: it takes")):
        program = f"try: noop.get_result({identity!r})\nexcept tasks.exceptions.TaskResultDoesNotExist as error: print(error)"
        (said,) = shell(contract, program)
        assert reason in said


def test_task_is_found_by_the_name_that_operators_see(contract: RunningNode) -> None:
    names = ["shop.tasks:noop", "shop.tasks:hear", "shop.tasks:nothing", "shop.nothing:noop", "nowhere", ""]
    program = (
        f"from spoolnode.django.running import find\nprint([getattr(find(name), 'name', None) for name in {names!r}])\n"
        "try:\n    find('shop.broken:noop')\nexcept ModuleNotFoundError as error:\n    print(error.name)"
    )
    assert shell(contract, program) == ["['shop.tasks:noop', None, None, None, None, None]", "nowhere"]


def test_task_does_not_run_before_its_time(contract: RunningNode) -> None:
    start(contract)
    (line,) = shell(
        contract, "due = timezone.now() + timedelta(seconds=1.5); noop.using(run_after=due).enqueue(); print(due.isoformat())"
    )
    assert datetime.fromisoformat(ends(contract, 1)["noop"]["started_at"]) >= datetime.fromisoformat(line)


def has_opened(pipe: Path) -> bool:
    """Whether a reader waits for the other end of a pipe; then it waits no longer."""
    try:
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def test_higher_priority_runs_sooner(contract: RunningNode) -> None:
    pipe = contract.directory / "pipe"
    os.mkfifo(pipe)
    start(contract, "--workers", "1")
    shell(contract, f"waits_for.enqueue({str(pipe)!r})")
    eventually(lambda: contract.lines("print"), "it runs")
    shell(contract, "for priority in (-100, 0, 100, -1, 1): noop.using(priority=priority).enqueue(priority)")
    eventually(lambda: has_opened(pipe), "it waits for the pipe")
    ran = [told["args"] for told in heard(contract, 6) if told["name"] == "noop" and not told["is_finished"]]
    assert ran == [[100], [1], [0], [-1], [-100]]
