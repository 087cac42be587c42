"""`spoolnode store retry`, `store rm` and `store ls`: what is done with tasks in a store, and what is said about it."""

import asyncio
import json
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
