"""`spoolnode store retry`, `store rm` and `store ls`: what is done with tasks in a store, and what is said about it."""

import asyncio
import json
import time
from collections.abc import Iterable

import pytest
from click.testing import CliRunner, Result
from store_tasks import held, ids, new, take
from subjects import InPostgres, Subject

from spoolnode.cli import main, stored_tasks
from spoolnode.cluster.store.interface import Burial, NewTask, TaskState


def typed(subject: InPostgres, *words: str) -> Result:
    return CliRunner().invoke(main, ["store", *words, "--store", subject.url])


@pytest.fixture
def three_dead(in_postgres: InPostgres) -> InPostgres:
    """A store with three dead tasks and one that waits."""

    async def story(subject: Subject) -> None:
        await bury(subject, (new(name, to="mail1", attempts=20) for name in ("a", "b", "c")))
        await subject.store.publish([new("waits")])

    in_postgres.run(story)
    return in_postgres


async def bury(subject: Subject, tasks: Iterable[NewTask]) -> None:
    for task in tasks:
        await subject.store.bury([Burial(await held(subject.store, task), "KeyError: 7\nTraceback")])


def states(subject: InPostgres) -> dict[str, tuple[str, str, int]]:
    """Of each task its state, its destination and its attempts."""
    rows = subject.server.sql("SELECT id, state, dest, attempts FROM spoolnode.task", subject.database)
    return {row[0]: row[1:] for row in rows}


def test_dead_tasks_are_listed_with_the_first_line_of_their_reason(three_dead: InPostgres) -> None:
    said = typed(three_dead, "ls", "--state", "dead").stdout
    assert said.count("KeyError: 7") == 3
    assert "Traceback" not in said


def test_held_tasks_are_listed_with_the_node_that_holds_them(in_postgres: InPostgres) -> None:
    async def story(subject: Subject) -> None:
        await subject.store.publish([new("a")])
        await subject.store.take(1, ["any"], 60.0, "0123456789ab mail1")

    in_postgres.run(story)
    header, row = typed(in_postgres, "ls", "--state", "held").stdout.splitlines()
    assert (header.split()[:3], row.split()[:3]) == (["ID", "TO", "NODE"], ["a", "any", "mail1"])
    (listed,) = json.loads(typed(in_postgres, "ls", "--state", "held", "--json").stdout)["tasks"]
    assert (listed["node"], listed["node_id"]) == ("mail1", "0123456789ab")


def test_ended_tasks_are_listed_with_how_and_where_and_when_they_ended(in_postgres: InPostgres) -> None:
    async def story(subject: Subject) -> None:
        await subject.store.publish([new("a")])
        ((lease, _),) = await subject.store.take(1, ["any"], 60.0, "0123456789ab mail1")
        await subject.store.end([lease])

    before = time.time()
    in_postgres.run(story)
    header, row = typed(in_postgres, "ls", "--state", "ended").stdout.splitlines()
    assert (header.split(), row.split()[:4]) == (["ID", "TO", "NODE", "END", "ENDED"], ["a", "any", "mail1", "done"])
    (listed,) = json.loads(typed(in_postgres, "ls", "--state", "ended", "--json").stdout)["tasks"]
    assert (listed["end"], before - 1 <= listed["ended"] <= time.time() + 1) == ("done", True)


def test_one_task_whose_variables_cannot_be_read_does_not_hide_the_others(three_dead: InPostgres) -> None:
    three_dead.server.sql("UPDATE spoolnode.task SET block = 'nonsense' WHERE id = 'b'", three_dead.database)
    said = typed(three_dead, "ls", "--state", "dead")
    assert said.exit_code == 0
    assert said.stdout.count("KeyError: 7") == 3


def test_retry_makes_the_dead_ones_of_these_ready_and_says_of_each_other_why_not(three_dead: InPostgres) -> None:
    done = typed(three_dead, "retry", "a", "waits", "never", "c")
    assert (done.exit_code, done.stdout) == (1, "a is ready\nc is ready\n")
    assert done.stderr == (
        "Error: the task waits is not dead but ready\n"
        "Error: the store has no task never\n"
    )  # fmt: skip
    assert states(three_dead) == {
        "a": ("ready", "mail1", 0), "b": ("dead", "mail1", 20), "c": ("ready", "mail1", 0), "waits": ("ready", "any", 0),
    }  # fmt: skip


def test_retry_sends_them_elsewhere(three_dead: InPostgres) -> None:
    done = typed(three_dead, "retry", "a", "--to", "tag:gpu", "--json")
    assert (done.exit_code, json.loads(done.stdout)) == (0, [{"id": "a", "ready": True}])
    assert states(three_dead)["a"] == ("ready", "tag:gpu", 0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "name the tasks by their ids, or all of them with --all"),
        (("a", "--all"), "name the tasks by their ids, or all of them with --all"),
        (("a", "--to", "all"), "it is 'all'; it must be a node's name"),
        (("a", "--to", "a b"), "it is 'a b'; it must be a node's name"),
    ],
)
def test_a_line_that_makes_no_sense_changes_nothing(three_dead: InPostgres, words: tuple[str, ...], said: str) -> None:
    done = typed(three_dead, "retry", *words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in " ".join(done.stderr.split())
    assert states(three_dead)["a"] == ("dead", "mail1", 20)


def test_retry_of_all_retries_each_once_however_many_there_are(three_dead: InPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_tasks, "AT_ONCE", 2)
    assert typed(three_dead, "retry", "--all").stdout == "3 tasks are ready\n"
    assert {states(three_dead)[name][0] for name in "abc"} == {"ready"}
    assert typed(three_dead, "retry", "--all").stdout == "0 tasks are ready\n"


def test_rm_removes_what_waits_or_is_dead_and_nothing_that_a_node_has(three_dead: InPostgres) -> None:
    async def story(subject: Subject) -> None:
        assert ids(await take(subject.store)) == ["waits"]
        done = await asyncio.to_thread(typed, three_dead, "rm", "a", "waits", "never")
        assert (done.exit_code, done.stdout) == (1, "a removed\n")
        assert done.stderr == (
            "Error: a node has taken the task waits, and may be running it\n"
            "Error: the store has no task never\n"
        )  # fmt: skip

    three_dead.run(story)
    assert (states(three_dead)["a"][0], states(three_dead)["waits"][0]) == (TaskState.ENDED, TaskState.HELD)


def test_what_waits_for_a_node_that_is_gone_moves_to_another_destination(in_postgres: InPostgres) -> None:
    far = 4_000_000_000.0

    async def story(subject: Subject) -> None:
        await bury(subject, [new("dead", to="mail3")])
        taken = await held(subject.store, new("taken", to="mail3"))
        tasks = [
            new("ready", b"body", to="mail3", rank=3, attempts=2), new("by_address", to="10.0.0.7:3031"),
            new("later", to="mail3", due=far), new("other_later", due=far), new("other", to="mail4"),
        ]  # fmt: skip
        await subject.store.publish(tasks)
        done = await asyncio.to_thread(typed, in_postgres, "move", "--from", "mail3", "--from", "10.0.0.7:3031", "--to", "any")
        assert (done.exit_code, done.output) == (0, "3 tasks wait for any now\n")
        assert states(in_postgres) == {
            "ready": ("ready", "any", 2), "by_address": ("ready", "any", 0), "later": ("later", "any", 0),
            "other_later": ("later", "any", 0), "other": ("ready", "mail4", 0),
            "taken": ("held", "mail3", 0), "dead": ("dead", "mail3", 0),
        }  # fmt: skip
        found = await subject.store.find("later")
        assert found is not None
        assert found.task.due == far
        assert await subject.store.end([taken]) == frozenset(), "its lease holds"
        again = await asyncio.to_thread(typed, in_postgres, "move", "--from", "mail3", "--to", "any", "--json")
        assert json.loads(again.output) == {"moved": 0}

    in_postgres.run(story)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--from", "mail3", "--to", "all"], "--to: it is 'all'; it must be"),
        (["--from", "a b", "--to", "any"], "--from: it is 'a b'; it must be"),
        (["--from", "mail3", "--to", "mail3"], "--from and --to both name mail3"),
        (["--to", "any"], "Missing option '--from'"),
    ],
)
def test_a_move_that_makes_no_sense_is_refused(words: list[str], said: str) -> None:
    done = CliRunner().invoke(main, ["store", "move", *words, "--store", "postgresql://nowhere/none"])
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())
