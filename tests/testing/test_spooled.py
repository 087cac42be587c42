"""`spoolnode.testing`: what a test spools stays in its process, is looked at, and runs as in a worker."""

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from unittest.mock import call

import pytest

from spoolnode import (
    SPOOL_IGNORE,
    SPOOL_RETRY,
    BadTask,
    GiveUp,
    ResultMissing,
    Retry,
    Unreachable,
    after_task,
    aresult,
    asend_many,
    asend_to_spooler,
    before_task,
    cancel,
    cron,
    current_task,
    result,
    send_many,
    send_to_spooler,
    spool,
    spoolforever,
    timer,
    uwsgi,
)
from spoolnode.calls.hooks import HOOKS
from spoolnode.calls.registry import REGISTRY
from spoolnode.errors import NotCancelled
from spoolnode.testing import Spooled, TaskFailed, collect, collected

ran: list[Any] = []


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test begins without functions, hooks, callables and calls of the one before."""
    monkeypatch.delenv("SPOOLNODE_VIA", raising=False)
    monkeypatch.setattr(uwsgi, "spooler", None)
    for held in (REGISTRY, HOOKS, ran):
        held.clear()  # type: ignore[attr-defined]  # each has it
    yield
    for held in (REGISTRY, HOOKS):
        held.clear()
    collected().clear()


def recorder(**options: Any) -> Any:
    """A spooled function that notes its arguments."""

    def record(*args: Any, **kwargs: Any) -> None:
        ran.append((args, kwargs))

    return spool(name="app:record", **options)(record)


def failing(times: int, name: str = "app:failing") -> Any:
    """A spooled function that fails so many times, and then runs."""

    def record(*args: Any) -> None:
        ran.append(current_task().attempt)  # type: ignore[union-attr]  # it runs in a task
        if len(ran) <= times:
            raise ConnectionError(f"attempt {len(ran)}")

    return spool(name=name)(record)


# --- what was spooled ---


def test_tasks_are_kept_with_their_arguments_and_options_and_do_not_run(spooled: Spooled) -> None:
    record = recorder(timeout=60)
    when = datetime.now(UTC) + timedelta(hours=1)
    first = record.spool(1, to=["a"])
    record.options(at=when, priority=5, node="tag:gpu", via="10.0.0.1:3031").spool(Decimal("1.5"), {2}, (3,))
    one, two = spooled
    assert (one.id, one.function, one.args, one.kwargs) == (first, "app:record", (1,), {"to": ["a"]})
    assert (one.at, one.priority, one.node, one.timeout) == (None, None, None, 60)
    assert (two.args, two.at, two.priority, two.node) == ((Decimal("1.5"), {2}, (3,)), when, 5, "tag:gpu")
    assert two.via == "10.0.0.1:3031"
    assert (len(spooled), ran, spooled.waiting) == (2, [], [one, two])


def test_tasks_of_a_function_are_found_by_it_and_compared_as_calls(spooled: Spooled) -> None:
    record, other = recorder(), spool(name="app:other")(print)
    record.spool(1)
    other.spool()
    record.spool(2, to="b")
    assert spooled.calls(record) == [call(1), call(2, to="b")]
    assert spooled.of("app:other") == [spooled[1]]
    assert repr(spooled[2]) == "<waiting: app:record(2, to='b')>"


def test_many_at_once_are_kept_one_by_one(spooled: Spooled) -> None:
    record = recorder()
    ids = [*record.spool_many([(1,), {"to": "b"}]), *asyncio.run(record.aspool_many([(2,)]))]
    assert spooled.calls(record) == [call(1), call(to="b"), call(2)]
    ids += [*send_many([{"n": 1}]), *asyncio.run(asend_many([{"n": 2}]))]
    assert ids == [task.id for task in spooled]


def test_dictionaries_are_kept_as_their_callable_gets_them(spooled: Spooled) -> None:
    send_to_spooler({"ToGroup": "customers", "n": 3, "body": b"x", "priority": 2})
    asyncio.run(asend_to_spooler({"n": None}))
    uwsgi.spool(Name="Serena")
    assert [task.values for task in spooled] == [
        {"ToGroup": "customers", "n": 3, "body": b"x", "priority": "2"}, {"n": None}, {"Name": "Serena"},
    ]  # fmt: skip
    assert (spooled[0].priority, spooled[0].function, spooled[0].args) == (2, "", ())


def test_every_thread_and_loop_of_the_process_is_collected(spooled: Spooled) -> None:
    record = recorder()
    thread = threading.Thread(target=record.spool, args=(1,))
    thread.start()
    thread.join()
    asyncio.run(record.aspool(2))
    assert spooled.calls(record) == [call(1), call(2)]


@pytest.mark.parametrize("via", ["memory:", "eager:", "10.0.0.1:3031"])
def test_what_cannot_travel_is_refused_as_it_would_be_by_a_node(spooled: Spooled, via: str) -> None:
    with pytest.raises(BadTask, match="the argument `args"):
        recorder().options(via=via).spool(object())
    assert len(spooled) == 0


def test_collecting_ends_with_the_block_and_an_inner_one_collects_for_itself() -> None:
    record = recorder()
    with collect() as outer:
        record.spool(1)
        with collect() as inner:
            record.spool(2)
        record.spool(3)
    assert (outer.calls(record), inner.calls(record)) == ([call(1), call(3)], [call(2)])
    with pytest.raises(Unreachable):
        record.options(via="/nowhere.sock").spool(4)


def test_memory_and_eager_are_addresses_of_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    record = recorder()
    monkeypatch.setenv("SPOOLNODE_VIA", "memory:")
    record.spool(1)
    assert collected().calls(record) == [call(1)]
    monkeypatch.setenv("SPOOLNODE_VIA", "eager:")
    record.spool(2)
    assert ran == [((2,), {})]
    assert len(collected()) == 1, "a task that has run at once is not kept"
    with pytest.raises(Unreachable):
        record.options(via="/nowhere.sock").spool(4)


# --- at once ---


def test_an_eager_call_gets_its_arguments_as_they_arrive_and_has_run_when_it_returns() -> None:
    sent = {"list": [1], "tuple": (1,), "when": datetime(2026, 11, 28, tzinfo=UTC)}
    identity = recorder().options(via="eager:").spool(sent)
    [((arrived,), _)] = ran
    assert (arrived, arrived["list"] is sent["list"]) == (sent, False)
    assert identity


def test_an_eager_call_knows_its_task_and_its_caller_does_not() -> None:
    @spool(name="app:look", timeout=9)
    def look() -> None:
        ran.append(current_task())

    identity = look.options(via="eager:").spool()
    [task] = ran
    assert (task.id, task.origin_id, task.attempt, task.max_attempts) == (identity, identity, 1, 20)
    assert (task.function, task.node) == ("app:look", "test")
    assert abs(task.accepted_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert timedelta(0) < task.deadline - datetime.now(UTC) < timedelta(seconds=9)
    assert current_task() is None


def test_an_exception_of_an_eager_call_comes_out_of_spool_after_the_hooks() -> None:
    @before_task
    def begin(task: Any) -> None:
        ran.append(("begins", task.attempt))

    @after_task
    async def end(task: Any, outcome: str, error: BaseException | None) -> None:
        ran.append((outcome, error))

    problem = ValueError("no")

    @spool(name="app:fails")
    def fails() -> None:
        raise problem

    with collect(eager=True) as spooled, pytest.raises(ValueError, match="no") as raised:
        fails.spool()
    assert raised.value is problem
    assert ran == [("begins", 1), ("failed", problem)]
    assert spooled[0].error is problem
    assert spooled.waiting == [spooled[0]], "a node would try it again"


@pytest.mark.parametrize("is_async", [False, True])
def test_a_hook_after_a_task_that_exits_changes_nothing_of_its_end(
    spooled: Spooled, capsys: pytest.CaptureFixture[str], is_async: bool
) -> None:
    after_task(lambda _task, outcome, _error: ran.append(outcome))

    @after_task
    def exits(*_: object) -> None:
        raise SystemExit("a hook")

    def works() -> None: ...

    async def works_async() -> None: ...

    spool(name="app:works")(works_async if is_async else works).spool()
    spooled.run()
    assert (ran, spooled[0].state) == (["done"], "done")
    assert "SystemExit: a hook" in capsys.readouterr().err


def test_a_failure_without_an_exception_comes_out_as_one() -> None:
    with pytest.raises(TaskFailed, match="not its own"):
        spool(name="app:ignores")(lambda: SPOOL_IGNORE).options(via="eager:").spool()
    with pytest.raises(TaskFailed, match="no callable for this task"):
        send_to_spooler({"a": "b"}, via="eager:")


def test_an_eager_task_for_later_waits_for_its_time() -> None:
    record = recorder()
    with collect(eager=True) as spooled:
        record.options(at=spooled.now + 60).spool(1)
        assert ran == []
        spooled.advance(60)
    assert ran == [((1,), {})]


def test_a_task_that_spools_another_one_eagerly_stays_itself() -> None:
    @spool(name="app:outer")
    def outer() -> None:
        inner.spool()
        ran.append(current_task().function)  # type: ignore[union-attr]  # it runs in a task

    inner = spool(name="app:inner")(lambda: ran.append(current_task().function))  # type: ignore[union-attr]  # the same
    with collect(eager=True):
        outer.spool()
    assert ran == ["app:inner", "app:outer"]


# --- sync and async ---


async def where() -> None:
    ran.append((asyncio.get_running_loop(), current_task().function))  # type: ignore[union-attr]  # it runs in a task


def test_an_async_function_runs_in_a_test_without_a_loop() -> None:
    spool(name="app:where")(where).options(via="eager:").spool()
    assert [function for _, function in ran] == ["app:where"]


def test_in_a_test_that_is_a_coroutine_async_functions_run_in_its_loop_and_others_in_a_thread_without_one() -> None:
    asynchronous = spool(name="app:where")(where)
    record = spool(name="app:thread")(lambda: ran.append(asyncio.run(nothing())))

    async def nothing() -> str:
        return current_task().function  # type: ignore[union-attr]  # it runs in a task

    async def test() -> None:
        await asynchronous.options(via="eager:").aspool()
        await record.options(via="eager:").aspool()
        with collect() as spooled:
            await asynchronous.aspool()
            await record.aspool()
            await spooled.arun()
            record.options(at=spooled.now + 5).spool()
            await spooled.aadvance(5)
            record.spool()
            await spooled.arun_all()
        loop = (asyncio.get_running_loop(), "app:where")
        assert ran == [loop, "app:thread", loop, "app:thread", "app:thread", "app:thread"]
        assert current_task() is None

    asyncio.run(test())


def test_blocking_calls_in_a_coroutine_run_their_tasks_in_a_thread_without_a_loop() -> None:
    record = spool(name="app:thread")(lambda: ran.append(threading.current_thread()))

    async def test() -> None:
        record.options(via="eager:").spool()
        with pytest.raises(ZeroDivisionError):
            spool(name="app:divides")(lambda: 1 // 0).options(via="eager:").spool()

    asyncio.run(test())
    assert ran != [threading.current_thread()]


def test_an_async_function_is_stopped_at_its_timeout() -> None:
    @spool(name="app:sleeps", timeout=0.01)
    async def sleeps() -> None:
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        sleeps.options(via="eager:").spool()


# --- running ---


def test_run_runs_what_is_due_by_priority_and_what_that_spools(spooled: Spooled) -> None:
    record = recorder()

    @spool(name="app:more")
    def more() -> None:
        record.spool("more")

    more.spool()
    record.spool("late")
    record.options(priority=1).spool("first")
    record.options(at=spooled.now + 1000).spool("tomorrow")
    spooled.run()
    assert [args for args, _ in ran] == [("first",), ("late",), ("more",)]
    assert [task.state for task in spooled] == ["done", "done", "done", "waiting", "done"]


def test_run_raises_what_a_function_raises_and_the_next_attempt_waits_for_its_time(spooled: Spooled) -> None:
    failing(2).spool()
    with pytest.raises(ConnectionError, match="attempt 1"):
        spooled.run()
    spooled.run()
    assert ran == [1], "it is not due yet"
    spooled.advance(0.9)
    assert ran == [1]
    with pytest.raises(ConnectionError, match="attempt 2"):
        spooled.advance(0.1)
    spooled.advance(2)
    assert (ran, spooled[0].state) == ([1, 2, 3], "done")


def test_run_all_tries_again_as_a_node_does_and_raises_only_for_a_task_that_is_given_up(spooled: Spooled) -> None:
    failing(2).spool()
    spooled.run_all()
    assert (ran, spooled[0].state) == ([1, 2, 3], "done")
    ran.clear()
    failing(100, "app:fails").spool()
    before = spooled.now
    with pytest.raises(ConnectionError, match="attempt 20"):
        spooled.run_all()
    assert (ran, spooled.dead) == (list(range(1, 21)), [spooled[1]])
    assert spooled.now - before > 8 * 3600, "the clock has moved through all pauses"


def test_run_all_takes_an_exit_for_a_failed_attempt_as_a_worker_does(spooled: Spooled) -> None:
    @spool(name="app:exits")
    def exits() -> None:
        ran.append(current_task().attempt)  # type: ignore[union-attr]  # it runs as a task
        if len(ran) < 3:
            raise SystemExit

    exits.spool()
    spooled.run_all()
    assert (ran, spooled[0].state) == ([1, 2, 3], "done")


def test_run_all_raises_a_mistake_about_the_end_of_an_attempt(spooled: Spooled, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(*_: object) -> None:
        raise ZeroDivisionError

    failing(1).spool()
    monkeypatch.setattr("spoolnode.runtime.handler.Dispatcher.judge", mistaken)
    with pytest.raises(ZeroDivisionError):
        spooled.run_all()


def raising(error: Exception, **options: Any) -> Any:
    """A spooled function that always raises this."""

    def raises() -> None:
        ran.append(current_task().attempt)  # type: ignore[union-attr]  # it runs as a task
        raise error

    return spool(name=f"app:raises_{type(error).__name__}", **options)(raises)


def test_a_task_is_given_up_when_it_says_so_and_after_its_own_number_of_attempts(spooled: Spooled) -> None:
    raising(ValueError("no"), max_attempts=3, retry_base=5).spool()
    with pytest.raises(ValueError, match="no"):
        spooled.run_all()
    assert (ran, spooled[0].attempts, spooled[0].state) == ([1, 2, 3], 3, "dead")
    ran.clear()
    for error in (GiveUp("why"), KeyError("x")):
        raising(error, give_up_on=KeyError).spool()
        with pytest.raises(type(error)):
            spooled.run()
    assert (ran, [task.state for task in spooled[1:]]) == ([1, 1], ["dead", "dead"])


def test_a_task_that_asked_for_another_attempt_has_not_failed_until_it_is_given_up(spooled: Spooled) -> None:
    raising(Retry(after=300), max_attempts=2).spool()
    spooled.run()
    spooled.advance(299)
    assert ran == [1]
    with pytest.raises(Retry):
        spooled.advance(1)
    assert (ran, spooled[0].state) == ([1, 2], "dead")


def test_an_attempt_that_does_not_count_is_made_again(spooled: Spooled) -> None:
    raising(Retry(after=1, counts=False), max_attempts=1).spool()
    spooled.advance(2.5)
    assert (ran, spooled[0].state) == ([1, 1, 1], "waiting")


def test_run_all_does_not_run_for_ever(spooled: Spooled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spoolnode.testing.spooled.MOST_RUNS", 10)
    spoolforever(name="app:forever")(lambda: ran.append(1)).spool()
    with pytest.raises(AssertionError, match=r"still wait after 10 runs.*app:forever"):
        spooled.run_all()
    assert len(ran) == 11


def test_thousands_of_tasks_run_in_one_call_in_the_order_in_which_they_were_spooled(spooled: Spooled) -> None:
    recorder().spool_many([(number,) for number in range(12_000)])
    spooled.run()
    assert [args for args, _ in ran] == [(number,) for number in range(12_000)]


def test_spool_retry_asks_for_another_run_which_is_not_a_failure(spooled: Spooled) -> None:
    @spool(name="app:again")
    def again() -> object:
        ran.append(current_task().attempt)  # type: ignore[union-attr]  # it runs in a task
        return SPOOL_RETRY if len(ran) < 3 else None

    again.spool()
    spooled.run()
    spooled.advance(60)
    assert (ran, spooled[0].state) == ([1, 1, 1], "done")


def test_a_named_callable_and_one_of_uwsgi_get_dictionaries(spooled: Spooled, monkeypatch: pytest.MonkeyPatch) -> None:
    spooled.callable = ran.append
    send_to_spooler({"n": 1})
    spooled.run()
    monkeypatch.setattr(uwsgi, "spooler", lambda task: ran.append(task["n"]))
    send_to_spooler({"n": 2})
    spooled.run()
    assert (ran[0]["n"], ran[1]) == (1, 2)


def test_pytest_fail_in_a_task_fails_the_test_and_leaves_the_task_where_it_was(spooled: Spooled) -> None:
    @spool(name="app:gives_up")
    def gives_up() -> None:
        pytest.fail("this is about the test")

    gives_up.spool()
    with pytest.raises(pytest.fail.Exception, match="about the test"):
        spooled.run()
    assert spooled[0].state == "waiting"


# --- the clock ---


def test_advance_runs_tasks_and_timers_in_the_order_of_their_times(spooled: Spooled) -> None:
    record = recorder()

    @timer(20)
    def tick() -> None:
        ran.append("tick")

    @timer(30)
    async def tock() -> None:
        ran.append("tock")

    record.options(at=spooled.now + 35).spool()
    spooled.advance(45)
    assert ran == ["tick", "tock", ((), {}), "tick"]


def test_advance_calls_cron_entries_at_their_local_times(spooled: Spooled) -> None:
    @cron(30, -1, -1, -1, -1)
    def half_past() -> None:
        ran.append(datetime.fromtimestamp(spooled.now).minute)  # noqa: DTZ006  # cron speaks of local time

    spooled.advance(24 * 3600)
    assert ran == [30] * 24


def test_what_a_timer_raises_comes_out_and_the_clock_stays_there(spooled: Spooled) -> None:
    before = spooled.now

    @timer(60)
    def fails() -> None:
        raise LookupError("nothing")

    with pytest.raises(LookupError, match="nothing"):
        spooled.advance(3600)
    assert 60 <= spooled.now - before < 120


def test_a_due_time_of_a_timer_of_the_whole_cluster_is_a_task(spooled: Spooled) -> None:
    def note_due() -> None:
        ran.append(current_task().due_at)  # type: ignore[union-attr]  # it runs in a task

    cron("0 3 * * *", tz="UTC", cluster=True)(spool(name="app:note_due", timeout=9)(note_due))
    spooled.advance(2 * 24 * 3600)
    assert [(task.function, task.timeout, task.state) for task in spooled] == [("app:note_due", 9, "done")] * 2
    assert [(due.hour, due.minute, due.second) for due in ran] == [(3, 0, 0)] * 2


# --- keys ---


def test_a_call_of_a_unique_function_is_kept_once_while_it_waits(spooled: Spooled) -> None:
    function = recorder(unique="waiting")
    first = function.spool(1)
    assert function.spool(1) == first
    assert function.options(at=spooled.now + 60).spool(1) == first
    assert function.spool_many([(1,), (2,), (2,)]) == [first, spooled[1].id, spooled[1].id]
    assert [task.args for task in spooled] == [(1,), (2,)]
    spooled.run()
    assert function.spool(1) != first, "the first one has run"


def test_a_task_that_will_be_tried_again_waits_and_one_that_was_given_up_does_not(spooled: Spooled) -> None:
    function = failing(100).options(key="k", max_attempts=2)
    first = function.spool()
    with pytest.raises(ConnectionError):
        spooled.run()
    assert function.spool() == first
    with pytest.raises(ConnectionError):
        spooled.run_all()
    assert function.spool() != first


def test_a_key_counts_among_the_tasks_of_its_function(spooled: Spooled) -> None:
    ids = [
        recorder().options(key="k").spool(),
        spool(name="app:other")(ran.append).options(key="k").spool(1),
        send_to_spooler({"a": "b", "spool_key": "k"}),
        send_to_spooler({"a": "c"}),
        send_to_spooler({"a": "c"}),
    ]
    assert len({*ids}) == len(spooled) == 5
    assert send_to_spooler({"a": "d", "spool_key": "k"}) == ids[2]


def test_eager_calls_of_a_unique_function_all_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPOOLNODE_VIA", "eager:")
    function = recorder(unique="waiting")
    assert function.spool(1) != function.spool(1)
    assert len(ran) == 2


# --- results ---


def test_a_result_is_there_when_the_task_has_run(spooled: Spooled) -> None:
    add = spool(name="app:add", keep_result=True)(lambda a, b: (a, b))
    identity = add.spool(1, {2})
    with pytest.raises(TimeoutError, match=r"has not ended: a test runs it"):
        result(identity, timeout=10)
    spooled.run()
    assert result(identity) == asyncio.run(aresult(identity)) == spooled[0].result() == (1, {2})


def test_an_eager_call_has_its_result_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPOOLNODE_VIA", "eager:")
    assert result(spool(name="app:add", keep_result=True)(lambda a, b: a + b).spool(1, 2)) == 3


def test_a_missing_result_says_why(spooled: Spooled) -> None:
    gone = recorder().spool()
    dead = failing(100).options(max_attempts=1).spool()
    with pytest.raises(ConnectionError):
        spooled.run_all()
    for identity, kind, why in (
        (gone, "not_kept", "its result was not kept"),
        (dead, "given_up", "it was given up: ConnectionError"),
        ("a_1_2", "unknown", "it was not spooled here"),
    ):
        with pytest.raises(ResultMissing, match=why) as raised:
            result(identity)
        assert raised.value.kind == kind


def test_a_cancelled_task_does_not_run(spooled: Spooled) -> None:
    record = recorder()
    first, later, last = record.spool(1), record.options(at=spooled.now + 60).spool(2), record.spool(3)
    assert [cancel(first), cancel(later)] == [True, True]
    spooled.run_all()
    assert [task.state for task in spooled] == ["dead", "dead", "done"]
    assert [cancel(first), cancel(last)] == [True, False], "as a node answers: it is cancelled, it had ended well"
    with pytest.raises(NotCancelled, match="the task a_1_2 was not spooled here"):
        cancel("a_1_2")


def test_a_task_that_was_given_up_cannot_be_cancelled(spooled: Spooled) -> None:
    identity = raising(ConnectionError("no"), max_attempts=1).spool()
    with pytest.raises(ConnectionError):
        spooled.run()
    with pytest.raises(NotCancelled, match="is dead; it has ended, and was not cancelled"):
        cancel(identity)
