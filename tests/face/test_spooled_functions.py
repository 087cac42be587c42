"""Our decorators: a spooled call on the wire, and in a worker."""

import asyncio
import functools
import os
import pickle
import subprocess
import sys
import types
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from smallnode import SmallNode, StartNode, context

import spoolnode
from spoolnode import BadDecoration, BadTask, GiveUp, Retry, cron, spool, spoolforever, spoolraw, timer
from spoolnode.calls.registry import REGISTRY
from spoolnode.node.outcome import DONE, Call, Ending, Outcome, Timer
from spoolnode.node.roster import MOST_TIMERS
from spoolnode.protocol import names
from spoolnode.protocol.errors import BadPacket
from spoolnode.protocol.packet import decode_variables
from spoolnode.protocol.values import pack
from spoolnode.runtime.handler import Dispatcher

calls: list[Any] = []


def note(*args: Any, **kwargs: Any) -> Any:
    calls.append((args, kwargs))
    return kwargs.get("result")


@pytest.fixture(autouse=True)
def no_calls() -> None:
    calls.clear()


@pytest.fixture
def node(start_node: StartNode, monkeypatch: pytest.MonkeyPatch) -> SmallNode:
    started = start_node()
    monkeypatch.setenv("SPOOLNODE_VIA", started.address)
    return started


def run(node: SmallNode, which: int = -1) -> Outcome:
    """Runs a task that the node has got, as a worker would."""
    variables, body = node.tasks[which]
    outcome = Dispatcher(context(), None)(Call.of(variables, body, "uwsgi_spoolfile_on_x"))
    assert isinstance(outcome, Outcome)
    return outcome


def test_calling_it_calls_it_here_and_now() -> None:
    assert spool(note)(1, result=7) == 7
    assert calls == [((1,), {"result": 7})]


def test_spooled_call_is_made_with_the_same_arguments(node: SmallNode) -> None:
    assert spool(note).spool(1, None, [1, 2], {"a": b"\xff"}, to=["x"], flag=True) == "small_1_1"
    assert calls == []
    assert run(node).kind is Ending.DONE
    assert calls == [((1, None, [1, 2], {"a": b"\xff"}), {"to": ["x"], "flag": True})]


def test_names_of_tasks_and_decorators_do_not_take_names_of_arguments(node: SmallNode) -> None:
    spool(note).spool(at=1, priority="x", body="y", node="z", self="s", function="f")
    run(node)
    assert calls == [((), {"at": 1, "priority": "x", "body": "y", "node": "z", "self": "s", "function": "f"})]


def test_arguments_arrive_as_they_were_sent(node: SmallNode) -> None:
    when, number = datetime(2026, 11, 28, 9, tzinfo=UTC), UUID(int=7)
    spool(note).spool((1, [2, (3,)]), when=when, ids={number}, price=Decimal("1.50"), limit=timedelta(minutes=5))
    run(node)
    sent = {"when": when, "ids": {number}, "price": Decimal("1.50"), "limit": timedelta(minutes=5)}
    assert calls == [(((1, [2, (3,)]),), sent)]


def test_arguments_of_any_size_travel(node: SmallNode) -> None:
    large = "x" * 1_000_000
    spool(note).spool(large)
    assert len(node.tasks[0][1]) > 1_000_000
    run(node)
    assert calls == [((large,), {})]


def test_argument_that_cannot_travel_is_refused_when_it_is_spooled(node: SmallNode) -> None:
    with pytest.raises(BadTask, match=r"the argument `args.0.` is of type object, which cannot travel: .*; nothing was sent"):
        spool(note).spool(object())
    with pytest.raises(BadTask, match=r"the argument `to.1.` is of type time, which cannot travel: send value.isoformat"):
        spool(addressed).spool(5, to=["ada", time(1)])
    assert node.tasks == []


def addressed(number: int, to: list[Any]) -> None: ...


def keys(node: SmallNode) -> list[bytes | None]:
    return [dict(variables).get(names.KEY) for variables, _ in node.tasks]


def test_calls_of_a_unique_function_have_one_key_exactly_when_their_arguments_are_the_same(node: SmallNode) -> None:
    index = spool(unique="waiting")(addressed)
    index.spool(1, to=["a"])
    index.spool(number=1, to=["a"])
    index.spool_many([(1, ["b"]), {"to": ["a"], "number": 1}])
    index.options(at=4_000_000_000).spool(1, ["a"])
    first, second, other, fourth, fifth = keys(node)
    assert first
    assert first == second == fourth == fifth != other
    run(node)


def test_a_key_is_sent_as_it_is_given(node: SmallNode) -> None:
    spool(unique="waiting")(addressed).options(key="user 7 é").spool(1, [])
    spool(note).options(key="k").spool()
    spool(note).spool()
    spoolnode.send_to_spooler({"a": "b", "spool_key": "k2"})
    assert keys(node) == ["user 7 é".encode(), b"k", None, b"k2"]


@pytest.mark.parametrize("key", ["", "k" * 256, "\ud800", 7, b"k"])
def test_a_key_that_cannot_travel_is_refused_before_anything_is_sent(node: SmallNode, key: Any) -> None:
    with pytest.raises(BadTask, match=r"`key` .*must be text in UTF-8 of at most 255 bytes"):
        spool(note).options(key=key)
    assert node.tasks == []


@pytest.mark.parametrize("key", ["k" * 256, b"\xff", "\udcff", 7])
def test_a_dictionary_with_such_a_key_is_refused_too(node: SmallNode, key: Any) -> None:
    with pytest.raises(BadTask, match=r"`spool_key` is .*must be text in UTF-8 of at most 255 bytes"):
        spoolnode.send_to_spooler({"a": "b", "spool_key": key})
    assert node.tasks == []


def test_an_argument_of_a_unique_function_that_cannot_travel_is_named(node: SmallNode) -> None:
    with pytest.raises(BadTask, match=r"the argument `to.1.` is of type time, which cannot travel"):
        spool(unique="waiting")(addressed).spool(5, to=["ada", time(1)])
    looped: list[Any] = []
    looped.append(looped)
    with pytest.raises(BadTask, match="nothing was sent"):
        spool(name="addressed", unique="waiting")(addressed).spool(5, to=looped)
    assert node.tasks == []


def test_unique_has_one_meaning() -> None:
    anything: Any = "running"
    with pytest.raises(BadTask, match="`unique` is 'running'; it must be 'waiting'"):
        spool(unique=anything)


def test_asynchronous_spooling_and_function(node: SmallNode) -> None:
    @spool(name="later")
    async def later(n: int) -> None:
        await asyncio.sleep(0)
        calls.append(n)

    assert asyncio.run(later.aspool(5)) == "small_1_1"
    variables, body = node.tasks[0]

    async def work() -> Outcome:
        awaitable = Dispatcher(context(), None)(Call.of(variables, body, "x"))
        assert not isinstance(awaitable, Outcome)
        return await awaitable

    assert asyncio.run(work()).kind is Ending.DONE
    assert calls == [5]


def test_options_of_one_call_add_to_those_of_the_decorator(node: SmallNode) -> None:
    mail = spool(node="alpha", priority=7, timeout=60)(note)
    mail.spool()
    mail.options(at=datetime(2033, 5, 18, 3, 33, 20, tzinfo=UTC), priority=1, timeout=1.5).spool(1)
    first, second = (dict(variables) for variables, _ in node.tasks)
    assert (first[b"priority"], first[names.NODE], first[names.TIMEOUT]) == (b"7", b"alpha", b"60.000000")
    assert (second[b"priority"], second[names.NODE], second[names.TIMEOUT]) == (b"1", b"alpha", b"1.500000")
    assert second[b"at"] == b"2000000000.000000"


def test_attempts_of_a_function_travel_with_its_calls_and_a_call_may_say_otherwise(node: SmallNode) -> None:
    mail = spool(max_attempts=5, retry_base=2)(note)
    mail.spool()
    mail.options(max_attempts=0, retry_max=600).spool()
    spool(addressed).spool(1, [])
    said = [dict(variables).get(names.RETRY) for variables, _ in node.tasks]
    assert said == [b"5,2.000000,", b"0,2.000000,600.000000", None]


class Sudden(LookupError):
    pass


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ValueError("no"), Outcome(Ending.FAILED)),
        (Sudden(), Outcome(Ending.GIVE_UP)),
        (GiveUp("no such customer"), Outcome(Ending.GIVE_UP, "no such customer", error="spoolnode.errors.GiveUp")),
        (
            Retry(after=300),
            Outcome(Ending.RETRY_AFTER, "it asked to run again after 300 s", 300.0, error="spoolnode.errors.Retry"),
        ),
        (
            Retry(0.5, counts=False),
            Outcome(Ending.RETRY_UNCOUNTED, "it asked to run again after 0.5 s", 0.5, error="spoolnode.errors.Retry"),
        ),
        (
            pickle.loads(pickle.dumps(Retry(7, counts=False))),
            Outcome(Ending.RETRY_UNCOUNTED, "it asked to run again after 7 s", 7.0, error="spoolnode.errors.Retry"),
        ),
    ],
)
def test_what_a_function_raises_says_what_becomes_of_its_task(node: SmallNode, error: Exception, outcome: Outcome) -> None:
    spool(give_up_on=LookupError)(note).spool()
    assert Dispatcher(context(), None).judge(Call.of(*node.tasks[0], "x"), error) == outcome


def test_a_retry_says_from_which_exception_it_was_raised() -> None:
    with pytest.raises(Retry, match=r"^it asked to run again after 5 s because of ConnectionError: the bank is down$"):
        raise Retry(after=5) from ConnectionError("the bank is down")


@pytest.mark.parametrize("after", [-1, float("inf"), float("nan"), "5m", True, None])
def test_a_retry_takes_seconds(after: Any) -> None:
    with pytest.raises(ValueError, match=r"^Retry\(after=.*\): it must be seconds from 0, below 100000000$"):
        Retry(after)


@pytest.mark.parametrize("given", [ValueError("no"), "ValueError", [ValueError], (ValueError, 3), (int,)])
def test_anything_but_exceptions_is_refused_where_give_up_on_is_written(given: Any) -> None:
    with pytest.raises(
        BadDecoration, match=r"^`give_up_on` has .*; it must be exceptions, as in give_up_on=\(ValueError, KeyError\)$"
    ):
        spool(give_up_on=given)


@pytest.mark.parametrize("options", [{"node": "../x"}, {"timeout": 0}, {"timeout": -1}, {"priority": -1}])
def test_bad_options_are_an_error_at_the_decorator(options: dict[str, Any]) -> None:
    with pytest.raises(BadTask):
        spool(**options)


@pytest.mark.parametrize(
    ("returned", "kind"),
    [
        (None, Ending.DONE),
        (-2, Ending.DONE),
        ("text", Ending.DONE),
        (-2.0, Ending.DONE),
        (-1, Ending.RETRY),
        (1, Ending.FAILED),
        (True, Ending.FAILED),
        (10**30, Ending.FAILED),
        pytest.param(10**5000, Ending.FAILED, id="more digits than Python shows"),
        (0, Ending.IGNORED),
        (False, Ending.IGNORED),
    ],
)
def test_each_int_that_a_raw_function_returns_counts(node: SmallNode, returned: Any, kind: Ending) -> None:
    spoolraw(name="raw")(lambda: returned).spool()
    assert run(node).kind is kind


@pytest.mark.parametrize(
    ("returned", "kind"),
    [
        (spoolnode.SPOOL_OK, Ending.DONE),
        (spoolnode.SPOOL_RETRY, Ending.RETRY),
        (-1, Ending.RETRY),
        (spoolnode.SPOOL_IGNORE, Ending.IGNORED),
        *[(result, Ending.DONE) for result in (None, 0, False, True, 1, 42, -3, "text", -1.0)],
    ],
)
@pytest.mark.parametrize("kind_of_function", ["plain", "async"])
def test_a_function_may_count_as_it_likes_and_still_ask_to_be_called_again(
    node: SmallNode, returned: Any, kind: Ending, kind_of_function: str
) -> None:
    async def later() -> Any:
        return returned

    spool(name="f")((lambda: returned) if kind_of_function == "plain" else later).spool()
    variables, body = node.tasks[-1]
    outcome = Dispatcher(context(), None)(Call.of(variables, body, "x"))
    assert (outcome if isinstance(outcome, Outcome) else asyncio.run(awaited(outcome))).kind is kind


async def awaited(outcome: Any) -> Outcome:
    return await outcome  # type: ignore[no-any-return]  # the dispatcher's value


def test_a_generator_that_is_returned_is_a_failure_because_nothing_of_it_has_run(node: SmallNode) -> None:
    for make in (lambda: (1 for _ in calls), items):
        spool(name="f")(lambda make=make: make()).spool()
        outcome = run(node)
        assert outcome.kind is Ending.FAILED
        assert "yield" in outcome.reason
        REGISTRY.clear()


async def items() -> Any:
    yield 1


def test_spoolforever_runs_again_after_the_frequency(node: SmallNode) -> None:
    spoolforever(note).spool()
    assert run(node) == Outcome(Ending.AGAIN, delay=30.0)


def test_exception_of_the_function_reaches_the_worker(node: SmallNode) -> None:
    @spoolforever(name="bad")
    def bad() -> None:
        raise ZeroDivisionError

    bad.spool()
    with pytest.raises(ZeroDivisionError):
        run(node)


@pytest.mark.parametrize("values", [b"\xc1", pack({"args": 1}), pack({"args": [], "kwargs": []})])
def test_bad_arguments_from_the_network_fail_the_task(values: bytes) -> None:
    spool(name="f")(note)
    with pytest.raises(BadPacket):
        Dispatcher(context(), None)(Call.of([(names.FUNCTION, b"f"), (names.VALUES, values)], b"", "x"))
    assert calls == []


def test_task_that_names_no_function_of_ours_says_what_there_is() -> None:
    spool(name="known")(note)
    outcome = Dispatcher(context(), None)(Call.of([(names.FUNCTION, b"missing")], b"", "x"))
    assert isinstance(outcome, Outcome)
    assert outcome.kind is Ending.FAILED
    assert "'missing'" in outcome.reason
    assert "known" in outcome.reason


# --- what no worker could run, or find ---


def pieces() -> Any:
    yield 1


class Tasks:
    """Functions in a class, as people write them."""

    @spool
    def method(self, x: int) -> Any:
        return ("method", self, x)

    @staticmethod
    @spool
    def static(x: int) -> Any:
        return ("static", x)

    @spool
    @staticmethod
    def static_inside(x: int) -> Any:
        return ("static inside", x)

    @classmethod
    @spool
    def of_class(cls, x: int) -> Any:
        return ("class", cls, x)


@pytest.mark.parametrize("function", [pieces, items, staticmethod(pieces)])
def test_a_function_with_a_yield_is_refused_where_it_is_decorated(function: Any) -> None:
    with pytest.raises(BadDecoration, match="it contains a `yield`"):
        spool(function)


def test_a_function_without_a_name_of_its_own_is_refused_until_it_gets_one() -> None:
    def nested() -> None: ...

    for function in (lambda: None, nested):
        with pytest.raises(BadDecoration, match="or give it one with name="):
            spool(function)
        assert spool(name=f"f{id(function)}")(function).function is function


def test_of_two_functions_with_one_name_none_runs_for_the_other() -> None:
    source = "from spoolnode import spool\n@spool\ndef job(): return 1\nfirst = job\n@spool\ndef job(): return 2\n"
    with pytest.raises(BadDecoration, match=r"two functions are called 'twice:job': .*:2\) and .*:5\); give one of them another"):
        exec(source, types.ModuleType("twice").__dict__)


def test_a_method_is_called_as_one_and_cannot_be_spooled() -> None:
    tasks = Tasks()
    assert tasks.method(3) == ("method", tasks, 3)
    for way in (tasks.method.spool, tasks.method.options, lambda n: asyncio.run(tasks.method.aspool(n))):
        with pytest.raises(BadTask, match="is a method, and the object that it belongs to cannot travel"):
            way(1)


def test_a_class_method_is_called_as_one_and_cannot_be_spooled() -> None:
    assert Tasks.of_class(3) == ("class", Tasks, 3)
    with pytest.raises(BadTask):
        Tasks.of_class.spool(1)


def test_a_static_method_is_a_function() -> None:
    for holder in (Tasks, Tasks()):
        assert holder.static(1) == ("static", 1)
        assert holder.static_inside(2) == ("static inside", 2)


@pytest.mark.parametrize("name", ["static", "static_inside"])
def test_a_static_method_can_be_spooled(node: SmallNode, name: str) -> None:
    function = getattr(Tasks, name)
    REGISTRY.add(function.name, function)
    assert getattr(Tasks(), name).spool(5)
    assert run(node).kind is Ending.DONE


def test_a_function_typed_into_an_interpreter_is_refused_when_it_is_spooled(tmp_path: Path) -> None:
    code = "from spoolnode import spool\n@spool\ndef f(): pass\n@spool\ndef f(): pass\nf.spool()\n"
    environment = {**os.environ, "PYTHONPATH": str(Path(spoolnode.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-"], input=code, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert "BadTask: f was typed into an interpreter" in done.stderr


# --- mistakes of the caller ---


def two(number: int, /, to: str, *, cc: str = "") -> None:
    calls.append((number, to, cc))


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ((), {}, "missing a required"),
        ((1,), {}, "missing a required argument: 'to'"),
        ((1, "a", "b"), {}, "too many positional arguments"),
        ((1, "a"), {"bcc": "x"}, "unexpected keyword argument 'bcc'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_when_they_are_spooled(node: SmallNode, args: Any, kwargs: Any, says: str) -> None:
    function = spool(name="jobs:two")(two)
    for spooling in (
        lambda: function.spool(*args, **kwargs),
        lambda: function.options(priority=1).spool(*args, **kwargs),
        lambda: asyncio.run(function.aspool(*args, **kwargs)),
        lambda: asyncio.run(function.options(priority=1).aspool(*args, **kwargs)),
    ):
        with pytest.raises(BadTask, match=says) as caught:
            spooling()
        assert str(caught.value).startswith("jobs:two does not take these arguments: ")
        assert "\n" not in str(caught.value)
    assert node.tasks == []
    function.spool(1, to="a", cc="b")
    run(node)
    assert calls == [(1, "a", "b")]


def test_arguments_are_those_of_a_wrapper_not_of_what_it_wraps(node: SmallNode) -> None:
    @functools.wraps(two)
    def wrapper(to: str) -> None:
        two(7, to)

    spool(wrapper).spool("a")
    run(node)
    assert calls == [(7, "a", "")]


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "2"])
def test_a_limit_is_a_number_of_calls(limit: Any) -> None:
    with pytest.raises(BadDecoration, match=r"^`limit` is .*; it must be a whole number greater than 0$"):
        spool(limit=limit)


@pytest.mark.parametrize("rate", ["", "10", "10/", "10/x", "0/m", "10/m ", "100000/s", 10, "-1/s"])
def test_a_rate_is_a_number_of_calls_in_a_time(rate: Any) -> None:
    with pytest.raises(BadDecoration, match=r'^`rate` is .*; it must be like "10/m"'):
        spool(rate=rate)


def test_limits_of_functions_are_what_a_worker_tells_its_node() -> None:
    spool(limit=2, rate="10/m", name="limited")(note)
    spool(rate="3/h", name="rated")(note)
    spool(name="free")(note)
    assert REGISTRY.limits == {"limited": (2, 10, 60.0), "rated": (0, 3, 3600.0)}
    spool(name="rated")(note)
    assert REGISTRY.limits == {"limited": (2, 10, 60.0)}, "the module was changed, and imported again"


def test_function_without_a_signature_takes_any_arguments(node: SmallNode) -> None:
    spool(min).spool(1, 2)
    assert len(node.tasks) == 1


def test_an_option_that_there_is_not_is_one_sentence_with_those_that_there_are() -> None:
    unknown: dict[str, Any] = {"retries": 3}
    with pytest.raises(BadDecoration) as decorated:
        spool(**unknown)
    allowed = (
        "node, priority, timeout, max_attempts, retry_base, retry_max, keep_result, unique, give_up_on, limit, rate and name"
    )
    assert str(decorated.value) == f"@spool takes no option 'retries'; it takes {allowed}"
    with pytest.raises(BadTask) as called:
        spool(note).options(**unknown)
    allowed = "at, priority, node, timeout, max_attempts, retry_base, retry_max, keep_result, key, via and send_timeout"
    assert str(called.value) == f"options() takes no option 'retries'; it takes {allowed}"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (("0 3 * * *", 1), {}),
        (("0 3 * * *",), {"hour": 3}),
        ((0, 3), {}),
        ((0, 3, -1, -1), {"day": 1}),
        ((note,), {}),
        ((), {"hour": 3}),
    ],
)
def test_cron_with_neither_an_expression_nor_five_numbers_is_one_sentence(fields: tuple[Any, ...], named: dict[str, Any]) -> None:
    with pytest.raises(BadDecoration) as caught:
        cron(*fields, **named)
    right = 'an expression like "0 3 * * *", or five numbers: minute, hour, day, month, weekday; -1 is any'
    assert str(caught.value) == f"@cron takes {right}"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"priority": "x"}, "`priority` is 'x'; it must be a whole number from 0 to 9999999999"),
        ({"priority": -1}, "`priority` is -1; "),
        ({"priority": 1.5}, "`priority` is 1.5; "),
        ({"timeout": "a"}, "`timeout` is 'a'; it must be seconds greater than 0, below 100000000"),
        ({"timeout": -5}, "`timeout` is -5; "),
        ({"timeout": True}, "`timeout` is True; "),
        ({"timeout": float("inf")}, "`timeout` is inf; "),
        ({"timeout": 10**400}, "`timeout` is 1000"),
        ({"max_attempts": "a"}, "`max_attempts` is 'a'; it must be a whole number from 0 (no limit) to 255"),
        ({"max_attempts": -1}, "`max_attempts` is -1; "),
        ({"max_attempts": 256}, "`max_attempts` is 256; "),
        ({"max_attempts": 2.0}, "`max_attempts` is 2.0; "),
        ({"max_attempts": True}, "`max_attempts` is True; "),
        ({"retry_base": 0}, "`retry_base` is 0; it must be seconds greater than 0, below 100000000"),
        ({"retry_max": "5m"}, "`retry_max` is '5m'; "),
        ({"at": "tomorrow"}, "`at` is 'tomorrow'; it must be a datetime or seconds since 1970, below 10000000000"),
        ({"at": -5.5}, "`at` is -5.5; "),
        ({"at": float("nan")}, "`at` is nan; "),
        ({"at": [1]}, "`at` is [1]; "),
        ({"node": "../x"}, "node= is '../x'; "),
    ],
)
def test_bad_options_are_one_sentence_with_the_value_as_it_was_written(options: dict[str, Any], says: str) -> None:
    with pytest.raises(BadTask) as caught:
        spool(note).options(**options)
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


# --- names ---


def test_two_functions_of_one_name_are_an_error_where_they_are_decorated() -> None:
    spool(name="job")(note)
    with pytest.raises(BadDecoration, match="two functions are called 'job'"):
        spool(name="job")(lambda: None)


def test_module_imported_again_replaces_its_functions() -> None:
    source = "from spoolnode import spool, timer\n@spool\ndef job(): return {}\n@timer(5)\ndef tick(): return {}\n"
    for turn in (1, 2):
        module = types.ModuleType("reloaded")
        exec(source.format(turn, turn), module.__dict__)
    assert list(REGISTRY.functions) == ["reloaded:job"]
    assert REGISTRY.functions["reloaded:job"].function() == 2
    assert [REGISTRY.call_timer(timer) for timer in REGISTRY.timers] == [2]


@pytest.mark.parametrize("how", ["script", "module"])
def test_function_of_a_script_has_the_name_by_which_a_worker_imports_it(tmp_path: Path, how: str) -> None:
    (tmp_path / "jobs.py").write_text("from spoolnode import spool\n@spool\ndef mail(): pass\nprint(mail.name)\n")
    command = ["jobs.py"] if how == "script" else ["-m", "jobs"]
    environment = {**os.environ, "PYTHONPATH": str(Path(spoolnode.__file__).parents[1])}
    done = subprocess.run([sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "jobs:mail\n"


# --- timers ---


def test_timers_are_called_by_what_they_are() -> None:
    timer(2)(lambda: calls.append("timer"))
    cron(0, 3, -1, -1, -1)(lambda: calls.append("cron"))
    every, nightly = REGISTRY.timers
    assert (every[1:4], nightly[1:4]) == ((2.0, (-1, -1, -1, -1, -1), 0), (0.0, (0, 3, -1, -1, -1), 0))
    REGISTRY.call_timer(nightly)
    REGISTRY.call_timer(every)
    assert calls == ["cron", "timer"]
    with pytest.raises(KeyError):
        REGISTRY.call_timer(Timer("another", 2.0, (-1, -1, -1, -1, -1)))


def test_a_timer_that_returns_a_generator_has_failed() -> None:
    timer(5)(lambda: (piece for piece in pieces()))
    with pytest.raises(BadDecoration, match="contains a `yield`"):
        REGISTRY.call_timer(*REGISTRY.timers)


def test_two_timers_of_one_name_are_both_called() -> None:
    for word in ("one", "two"):
        timer(5)(lambda word=word: calls.append(word))
    for entry in REGISTRY.timers:
        REGISTRY.call_timer(entry)
    assert calls == ["one", "two"]
    assert len({entry.name for entry in REGISTRY.timers}) == 2


@pytest.mark.parametrize("seconds", [0, -1, True, "30", None, note, float("nan"), float("inf")])
def test_timer_needs_a_period(seconds: Any) -> None:
    with pytest.raises(BadDecoration, match=r"it needs a period in seconds, a number greater than 0, like @timer\(30\)"):
        timer(seconds)


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (pieces, "it contains a `yield`"),
        (items, "it contains a `yield`"),
        (lambda self, n=1: None, "it is called without arguments, and needs self$"),
        (7, "it is not a function"),
    ],
)
@pytest.mark.parametrize("decorator", [timer(1), cron(0, 3, -1, -1, -1)])
def test_what_cannot_be_called_at_times_is_refused(decorator: Any, function: Any, problem: str) -> None:
    with pytest.raises(BadDecoration, match=problem):
        decorator(function)
    decorator(lambda n=1: None)


def test_a_name_where_the_function_belongs_says_how_it_is_given() -> None:
    with pytest.raises(BadDecoration, match=r"@spool\(name='mail'\)"):
        spool("mail")  # type: ignore[call-overload]  # the mistake


def nightly() -> None:
    calls.append("nightly")


def test_a_timer_of_the_whole_cluster_is_a_task_of_its_function() -> None:
    assert cron("0 3 * * *", cluster=True, catch_up=True)(nightly) is nightly
    timer(60, cluster=True)(spool(timeout=5)(note))
    first, second = REGISTRY.timers
    assert (first.name, first.catch_up) == ("test_spooled_functions:nightly", True)
    assert (second.seconds, second.catch_up) == (60.0, False)
    assert dict(decode_variables(first.task))[b"spool_func"] == b"test_spooled_functions:nightly"
    assert (b"spool_timeout", b"5.000000") in decode_variables(second.task), "it has the options of @spool"
    outcome = Dispatcher(context(), None)(Call(first.task, b"", "uwsgi_spoolfile_on_x"))
    assert (outcome, calls) == (DONE, ["nightly"])


def test_a_timer_of_the_whole_cluster_names_what_is_wrong() -> None:
    for decorate, problem in (
        (lambda: timer(1.5, cluster=True), "it needs a whole number of seconds"),
        (lambda: timer(60, catch_up=True), "catch_up=True needs cluster=True"),
        (lambda: cron("0 3 * * *", catch_up=True), "catch_up=True needs cluster=True"),
        (lambda: timer(60, cluster=True)(lambda: None), "has no name of its own"),
        (lambda: timer(60, cluster=True)(spool(two)), "it is called without arguments, and needs"),
    ):
        with pytest.raises(BadDecoration, match=problem):
            decorate()


def test_an_application_has_a_limited_number_of_timers_of_the_whole_cluster() -> None:
    for seconds in range(1, MOST_TIMERS + 1):
        timer(seconds, cluster=True)(nightly)
    timer(7)(note)
    with pytest.raises(BadDecoration, match="at most 128 timers with cluster=True"):
        timer(MOST_TIMERS + 1, cluster=True)(nightly)


def test_cron_takes_an_expression_and_a_zone() -> None:
    cron(" 0 3  * * MON-fri ", tz="Europe/Rome")(note)
    cron(0, 3, -1, month=-1, weekday=-1, tz="Asia/Tokyo")(note)
    expression, numbers = REGISTRY.timers
    assert (expression.expression, expression.zone, expression.seconds) == ("0 3 * * MON-fri", "Europe/Rome", 0.0)
    assert (numbers.cron, numbers.zone) == ((0, 3, -1, -1, -1), "Asia/Tokyo")


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("", "it must be five fields"),
        ("@daily", "it must be five fields"),
        ("* * * *", "it must be five fields"),
        ("*/5 * * * * *", "it must be five fields"),
        ("60 3 * * *", "bad minute; it must be five fields"),
        ("0 3 * * funday", "bad day-of-week; it must be five fields"),
        ("0 3 30 2 *", "bad day-of-month; it must be five fields"),
        ("0 3 31 4,6 *", "bad day-of-month; it must be five fields"),
    ],
)
def test_an_expression_that_names_no_times_is_one_sentence(expression: str, problem: str) -> None:
    with pytest.raises(BadDecoration) as caught:
        cron(expression)
    assert str(caught.value).startswith(f"@cron({expression!r}): {problem}")


@pytest.mark.parametrize("zone", ["Europe/Rom", "../etc/passwd", "/etc/localtime", "Europe", None, 1, "\0"])
def test_a_zone_that_there_is_not_is_one_sentence(zone: Any) -> None:
    with pytest.raises(BadDecoration) as caught:
        cron("0 3 * * *", tz=zone)
    assert str(caught.value).startswith(f"@cron: tz is {zone!r}; it must be the name of a time zone that this machine has")


@pytest.mark.parametrize("fields", [(60, 0, 1, 1, 0), (0, 24, 1, 1, 0), (0, 0, 0, 1, 0), (0, 0, 1, 13, 0), (0, 0, 1, 1, 8)])
def test_cron_fields_have_their_ranges(fields: tuple[int, int, int, int, int]) -> None:
    with pytest.raises(BadDecoration, match="@cron"):
        cron(*fields)
