"""The pool: who loads first, who gets which task, what becomes of a task whose worker dies, what is done by the clock."""

import asyncio
import time

import pytest
from hands import Hands, run
from linked import task

from spoolnode.node.outcome import Timer
from spoolnode.node.work import messages
from spoolnode.node.work.slots import TIMER
from spoolnode.node.work.supervisor import AppBroken, AppUnusable

Patch = pytest.MonkeyPatch

# --- life ---


def test_first_worker_loads_alone_and_the_others_follow_when_it_is_up(monkeypatch: Patch) -> None:
    async def story(hands: Hands) -> None:
        loading = asyncio.get_running_loop().create_task(hands.pool.load())
        await hands.turn()
        (first,) = hands.workers
        assert (first.facts["is_first"], first.facts["is_reload"]) == (True, False)
        first.up(warning="mind this")
        await hands.turn()
        others = hands.workers[1:]
        assert [worker.facts["is_first"] for worker in others] == [False, False]
        for worker in others:
            worker.up(warning="mind this")
        await loading
        assert hands.pool.worker_pids == [worker.pid for worker in hands.workers]
        assert hands.watched == hands.pool.pids() == {worker.pid for worker in hands.workers}
        assert hands.said("app_warning") == [{"reason": "mind this"}], "once for all of them"

    run(monkeypatch, story, workers=3)


@pytest.mark.parametrize(("is_sentence", "kind"), [(False, AppBroken), (True, AppUnusable)])
def test_application_that_does_not_load_is_an_error_with_its_reason_and_changes_nothing(
    monkeypatch: Patch, is_sentence: bool, kind: type[Exception]
) -> None:
    async def story(hands: Hands) -> None:
        await hands.load()
        (old,) = hands.workers
        reload = asyncio.get_running_loop().create_task(hands.pool.load())
        await hands.turn()
        hands.workers[1].say("broken", "ImportError: no", is_sentence)
        hands.workers[1].die()
        with pytest.raises(AppBroken, match="ImportError: no") as raised:
            await reload
        assert type(raised.value) is kind
        assert hands.pool.worker_pids == [old.pid]
        assert old.told == [], "it goes on"

    run(monkeypatch, story)


def test_reload_gives_tasks_to_the_new_workers_and_the_old_ones_end_what_they_run(monkeypatch: Patch) -> None:
    async def story(hands: Hands) -> None:
        await hands.load()
        await hands.admit(1)
        old = hands.workers[0]
        old.begin()
        await hands.load()
        new = hands.workers[1]
        assert old.told[-1] == ["stop"]
        assert hands.pool.leaving == 1
        await hands.admit(2)
        assert (len(old.tasks()), len(new.tasks())) == (1, 1)
        old.finish(0)
        old.die(0)
        await hands.turn()
        assert hands.station.spool.total == 1
        assert hands.pool.worker_pids == [new.pid]
        assert hands.watched == {new.pid}
        assert hands.pool.deaths == 0

    run(monkeypatch, story)


def test_cancelled_reload_changes_nothing(monkeypatch: Patch) -> None:
    async def story(hands: Hands) -> None:
        await hands.load()
        reload = asyncio.get_running_loop().create_task(hands.pool.load())
        await hands.turn()
        reload.cancel()
        await asyncio.wait({reload})
        await hands.turn()
        assert hands.workers[1].is_dead
        assert hands.pool.worker_pids == [hands.workers[0].pid]
        assert hands.pool.leaving == 0

    run(monkeypatch, story)


@pytest.mark.parametrize("how", ["reload", "stop"])
def test_what_runs_when_the_grace_is_over_is_put_back_and_its_attempt_does_not_count(monkeypatch: Patch, how: str) -> None:
    async def story(hands: Hands) -> None:
        await hands.load()
        await hands.admit(1)
        hands.workers[0].begin()
        before = time.monotonic()
        if how == "stop":
            await hands.pool.stop()
            assert time.monotonic() - before == pytest.approx(7.0)
            await asyncio.sleep(5.0)
            assert len(hands.workers) == 1, "none takes its place"
        else:
            await hands.load()
            await asyncio.sleep(7.1)
        await hands.turn()
        assert hands.workers[0].is_dead
        assert len(hands.said("grace_over")) == 1
        assert hands.station.journal.counts.failed == 0
        assert hands.station.spool.total == 1

    run(monkeypatch, story, grace=7.0, reload_grace=7.0)


def test_worker_is_replaced_after_its_number_of_tasks_before_it_has_left(monkeypatch: Patch) -> None:
    async def story(hands: Hands) -> None:
        await hands.load()
        old = hands.workers[0]
        await hands.admit(1)
        old.finish(0)
        await hands.admit(2)
        old.finish(1)
        assert old.told[-1] == ["stop"]
        assert len(hands.workers) == 2
        assert not old.is_dead

    run(monkeypatch, story, max_tasks=2)


# --- deaths ---


def test_death_blames_what_ran_and_gives_back_what_had_not_started(monkeypatch: Patch) -> None:
    async def story(hands: Hands) -> None:
        await hands.load()
        worker = hands.workers[0]
        worker.pace.window = 8
        await hands.admit(1, 2, 3, 4)
        assert len(worker.tasks()) == 4
        worker.has_finished(0)
        worker.begin(1)
        worker.die(-11)
        await hands.turn()
        counts = hands.station.journal.counts
        assert (counts.done, counts.failed) == (1, 1)
        assert [details["reason"] for action, details in hands.station.reports if action == "retry"] == [
            "its worker ended with -11"
        ]
        assert hands.station.spool.waiting.ready.size == 2
        assert len(hands.station.spool.waiting.later) == 1
        assert hands.pool.deaths == 1
        assert hands.said("worker_died")

    run(monkeypatch, story)


def test_task_over_its_time_is_blamed_and_its_worker_killed(monkeypatch: Patch) -> None:
    async def story(hands: Hands) -> None:
        await hands.load()
        worker = hands.workers[0]
        await hands.admit(1)
        worker.begin(limit=5.0)
        await asyncio.sleep(4.9)
        assert not worker.is_dead
        await asyncio.sleep(0.4)
        await hands.turn()
        assert worker.is_dead
        (retry,) = [details for action, details in hands.station.reports if action == "retry"]
        assert retry["reason"] == "it ran longer than 5 s (timeout); its worker was killed"
        assert len(hands.said("timeout")) == 1

    run(monkeypatch, story)


def test_time_in_which_node_and_worker_were_stopped_does_not_count(monkeypatch: Patch) -> None:
    async def story(hands: Hands) -> None:
        await hands.load()
        worker = hands.workers[0]
        await hands.admit(1)
        worker.begin(limit=5.0)
        await asyncio.sleep(1.0)
        asyncio.get_running_loop().now += 100.0  # type: ignore[attr-defined]  # a loop in virtual time
        await asyncio.sleep(3.0)
        assert not worker.is_dead
        await asyncio.sleep(2.0)
        await hands.turn()
        assert worker.is_dead

    run(monkeypatch, story)


@pytest.mark.parametrize(("had_a_task", "pause"), [(False, 1.0), (True, 0.0)])
def test_dead_worker_is_replaced_at_once_unless_it_died_without_a_task(
    monkeypatch: Patch, had_a_task: bool, pause: float
) -> None:
    async def story(hands: Hands) -> None:
        await hands.load()
        if had_a_task:
            await hands.admit(1)
        hands.workers[0].die()
        await asyncio.sleep(pause * 0.9 + 0.01)
        assert len(hands.workers) == (2 if had_a_task else 1)
        await asyncio.sleep(0.2)
        assert len(hands.workers) == 2

    run(monkeypatch, story)


def test_worker_that_does_not_come_up_is_tried_again_after_longer_and_longer_pauses(monkeypatch: Patch) -> None:
    async def story(hands: Hands) -> None:
        await hands.load()
        hands.workers[0].die()
        for _ in range(9):
            started = len(hands.workers)
            while len(hands.workers) == started:
                await asyncio.sleep(0.5)
            hands.workers[-1].die()
        assert [broken["again_in"] for broken in hands.said("worker_broken")] == [1, 2, 4, 8, 16, 32, 60, 60, 60]

    run(monkeypatch, story)


def test_machine_without_room_for_a_worker_is_asked_again(monkeypatch: Patch) -> None:
    async def story(hands: Hands) -> None:
        await hands.load()
        hands.is_full = True
        hands.workers[0].die()
        await asyncio.sleep(20.0)
        assert [line["again_in"] for line in hands.said("worker_not_started")] == [1, 2, 4, 8, 10]
        hands.is_full = False
        await asyncio.sleep(10.0)
        assert len(hands.pool.worker_pids) == 1

    run(monkeypatch, story)


def test_worker_that_speaks_of_tasks_that_it_does_not_have_is_killed_and_not_believed(monkeypatch: Patch) -> None:
    async def story(hands: Hands) -> None:
        await hands.load()
        worker = hands.workers[0]
        await hands.admit(1)
        chunk, _ = worker.tasks()[0]
        for said in ([0, 0], [1]):
            worker.say("ended", chunk, messages.pack_positions(said), b"", [], 0.1, -1.0)
        worker.say("returned", chunk + 1, messages.pack_positions([0]))
        await hands.turn()
        assert worker.is_dead
        assert hands.station.journal.counts.done == 0
        assert hands.station.spool.total == 1

    run(monkeypatch, story)


# --- tasks ---


def test_tasks_go_to_those_that_are_up_in_even_shares(monkeypatch: Patch) -> None:
    async def story(hands: Hands) -> None:
        await hands.load()
        for worker in hands.workers:
            worker.pace.window = 100
        await hands.admit(*range(9))
        assert [len(worker.tasks()) for worker in hands.workers] == [3, 3, 3]
        await hands.admit(*range(9))
        assert hands.pool.held == 18
        assert [len({*worker.tasks()}) for worker in hands.workers] == [6, 6, 6], "each can be told from all others"

    run(monkeypatch, story, workers=3)


def test_what_a_stalled_worker_has_not_started_is_asked_back_for_one_that_is_idle(monkeypatch: Patch) -> None:
    async def story(hands: Hands) -> None:
        await hands.load()
        stalled, idle = hands.workers
        stalled.pace.window = 8
        idle.ready = False
        await hands.admit(1, 2, 3)
        idle.ready = True
        stalled.begin(0)
        await asyncio.sleep(0.3)
        assert ["return"] in stalled.told
        chunk, _ = stalled.tasks()[1]
        stalled.say("returned", chunk, messages.pack_positions([1, 2]))
        hands.pool.dispatch()
        await hands.turn()
        assert idle.tasks()
        assert stalled.held == 1

    run(monkeypatch, story, workers=2)


@pytest.mark.parametrize(
    ("verdict", "detail", "left"),
    [
        ("failed", "why", "later"),
        ("ignored", "why", "later"),
        (messages.LOCKED, "", "later"),
        (messages.EARLY, 2e9, "later"),
        (messages.SHORT, 1.0, "later"),
        (messages.UNREADABLE, "closed to us", "later"),
        (messages.GONE, "", "nowhere"),
        (messages.CORRUPT, "it is damaged", "corrupt"),
        (messages.SHORT, 61.0, "corrupt"),
    ],
)
def test_task_that_did_not_end_well_waits_or_is_put_aside_as_its_worker_says(
    monkeypatch: Patch, verdict: str, detail: str | float, left: str
) -> None:
    async def story(hands: Hands) -> None:
        await hands.load()
        await settled(hands)
        (worker,) = hands.workers
        worker.fail(0, verdict, detail)
        await hands.turn()
        places = {"later": len(hands.station.spool.waiting.later), "corrupt": len(hands.station.files("corrupt"))}
        assert places == {"later": 0, "corrupt": 0, **({left: 1} if left in places else {})}
        assert hands.station.spool.total == places["later"]

    run(monkeypatch, story)


async def settled(hands: Hands) -> None:
    """A task with a file of its own is with the worker."""
    hands.station.admit(task(1), link=None)
    await hands.station.settled()
    hands.station.spool.waiting.wake_due(float("inf"))
    hands.pool.dispatch()
    await hands.turn()


# --- looking, timers, lines ---


def test_line_that_was_printed_past_python_belongs_to_what_runs(monkeypatch: Patch) -> None:
    async def story(hands: Hands) -> None:
        await hands.load()
        worker = hands.workers[0]
        await hands.admit(1)
        worker.on_print(worker, "stdout", "before")
        worker.begin()
        worker.on_print(worker, "stdout", "while")
        (row,) = hands.pool.running()
        assert [line["id"] for line in hands.said("print")] == ["", row["id"]]
        assert (row["worker"], row["pid"]) == (0, worker.pid)

    run(monkeypatch, story)


def test_timer_is_called_in_one_worker_and_not_again_before_that_call_has_ended(monkeypatch: Patch) -> None:
    timer = list(Timer("beat", 10.0, (-1, -1, -1, -1, -1)))

    async def story(hands: Hands) -> None:
        loading = asyncio.get_running_loop().create_task(hands.pool.load())
        await hands.turn()
        hands.workers[0].up(timer)
        await hands.turn()
        hands.workers[1].up(timer)
        await loading
        await asyncio.sleep(35.0)
        calls = [worker for worker in hands.workers if ["timer", timer] in worker.told]
        assert [worker.told.count(["timer", timer]) for worker in calls] == [1]
        calls[0].say("timer", timer, "ValueError: no")
        await asyncio.sleep(10.0)
        assert sum(worker.told.count(["timer", timer]) for worker in hands.workers) == 2
        assert [line["timer"] for line in hands.said("timer_failed")] == ["beat"]

    run(monkeypatch, story, workers=2)


def test_timer_that_runs_too_long_in_a_worker_without_tasks_is_late_too(monkeypatch: Patch) -> None:
    timer = list(Timer("beat", 10.0, (-1, -1, -1, -1, -1)))

    async def story(hands: Hands) -> None:
        loading = asyncio.get_running_loop().create_task(hands.pool.load())
        await hands.turn()
        (worker,) = hands.workers
        worker.up(timer)
        await loading
        await asyncio.sleep(10.05)
        assert ["timer", timer] in worker.told
        worker.slots.begin(0, TIMER, 0, time.monotonic(), time.monotonic() + 3.0)
        await asyncio.sleep(2.9)
        assert not worker.is_dead
        await asyncio.sleep(0.3)
        assert worker.is_dead
        assert len(hands.said("timeout")) == 1

    run(monkeypatch, story)
