"""Many tasks in one call: stored in order, and when something fails it is known of each task whether it was stored. The same
for threads, asyncio and uvloop."""

import asyncio
import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from smallnode import Farewell, Hangup, SmallNode, StartNode, context
from support import PATIENCE

from spoolnode import (
    BadTask,
    NotAllStored,
    Reason,
    Refused,
    TimedOut,
    Unanswered,
    Unreachable,
    asend_many,
    client,
    send_many,
    send_to_spooler,
    spool,
    wire,
)
from spoolnode.node.outcome import DONE, Call
from spoolnode.protocol import answer, names
from spoolnode.runtime.handler import Dispatcher

SendMany = Callable[..., list[str]]
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
FULL = answer.refused(Refused(Reason.FULL, "the disk is full"))


@pytest.fixture(params=["threads", *LOOPS])
def send(request: pytest.FixtureRequest) -> Iterator[SendMany]:
    """`send_many`, or the same in one loop."""
    if request.param == "threads":
        yield send_many
        client.close()
        return
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        yield lambda *args, **kwargs: runner.run(asend_many(*args, **kwargs))


def numbered(count: int) -> list[dict[str, str]]:
    return [{"n": str(number)} for number in range(count)]


def stored(node: SmallNode) -> list[int]:
    """The numbers of the tasks that the node has got, in order."""
    return [int(dict(variables)[b"n"]) for variables, _ in node.tasks]


# --- all goes well ---


def test_tasks_are_stored_in_order_on_one_connection_and_so_are_their_ids(start_node: StartNode, send: SendMany) -> None:
    node = start_node()
    assert send(numbered(5000), via=node.address, send_timeout=PATIENCE) == [f"small_1_{n}" for n in range(1, 5001)]
    assert stored(node) == list(range(5000))
    assert len(node.connections) == 1


def test_a_generator_is_as_good_as_a_list_and_nothing_is_nothing(start_node: StartNode, send: SendMany) -> None:
    node = start_node(unix=True)
    assert send(({"n": str(n)} for n in range(3)), via=node.address) == ["small_1_1", "small_1_2", "small_1_3"]
    assert send([], via=node.address) == []
    assert len(node.connections) == 1


def test_large_bodies_among_them_travel_too(start_node: StartNode, send: SendMany) -> None:
    sizes = [0, 300_000, 10, wire.LARGE - 1, 0, 2_000_000, 20_000]
    node = start_node(lambda number, node: answer.stored("for_" + dict(node.tasks[number - 1][0])[b"n"].decode()))
    ids = send([{"n": str(n), "body": bytes(size)} for n, size in enumerate(sizes)], via=node.address)
    assert ids == [f"for_{n}" for n in range(len(sizes))]
    assert sorted((dict(variables)[b"n"], len(body)) for variables, body in node.tasks) == [
        (str(n).encode(), size) for n, size in enumerate(sizes)
    ]


def test_destination_holds_for_all_of_them(start_node: StartNode, send: SendMany) -> None:
    node = start_node()
    send(numbered(2), "tag:gpu", via=node.address)
    assert [dict(variables)[names.NODE] for variables, _ in node.tasks] == [b"tag:gpu"] * 2


def test_a_single_task_need_not_wait_behind_many(start_node: StartNode) -> None:
    go = threading.Event()

    def hold(number: int, node: SmallNode) -> bytes | None:
        if b"n" in dict(node.tasks[number - 1][0]):
            go.wait(PATIENCE)
        return None

    node = start_node(hold)
    ids: list[str] = []
    many = threading.Thread(target=lambda: ids.extend(send_many(numbered(100), via=node.address, send_timeout=PATIENCE)))
    many.start()
    node.wait_for_tasks(1)
    assert send_to_spooler({"quick": "1"}, via=node.address)
    go.set()
    many.join(PATIENCE)
    assert len(ids) == 100


# --- what cannot travel ---


def test_nothing_is_sent_if_one_of_them_cannot_travel(start_node: StartNode, send: SendMany) -> None:
    node = start_node()
    with pytest.raises(BadTask, match=r"^number 2, counted from 0: .*nothing was sent"):
        send([{"a": 1}, {"a": 2}, {"a": object()}], via=node.address)
    assert node.connections == []


# --- what is known of each when something fails ---


def test_refused_ones_are_named_and_the_others_are_stored(start_node: StartNode, send: SendMany) -> None:
    node = start_node(lambda number, _: FULL if number % 3 == 0 else None)
    with pytest.raises(NotAllStored) as caught:
        send(numbered(9), via=node.address)
    error = caught.value
    assert error.stored == {n: f"small_1_{n + 1}" for n in (0, 1, 3, 4, 6, 7)}
    assert {number: type(why) for number, why in error.not_stored.items()} == {2: Refused, 5: Refused, 8: Refused}
    assert error.in_doubt == {}
    assert str(error) == (
        f"6 of 9 tasks were stored, 3 not stored (the first is number 2, counted from 0: {node.address}: "
        "refused the task: the disk is full; nothing was stored)"
    )


def test_connection_that_breaks_leaves_in_doubt_what_was_sent_and_not_answered(start_node: StartNode, send: SendMany) -> None:
    def leave(number: int, _: SmallNode) -> None:
        if number == 4:
            raise Hangup

    node = start_node(leave)
    with pytest.raises(NotAllStored) as caught:
        send(numbered(10), via=node.address)
    error = caught.value
    assert error.stored == {n: f"small_1_{n + 1}" for n in range(3)}
    assert sorted(error.in_doubt) == list(range(3, 10))
    assert all(isinstance(why, Unanswered) for why in error.in_doubt.values())
    assert stored(node) == [0, 1, 2, 3]  # none is sent twice


def test_what_the_kernel_had_not_taken_is_sent_on_another_connection(start_node: StartNode, send: SendMany) -> None:
    """The node answers one and hangs up, while far more than the buffers take is on its way."""
    count = 4000

    def leave(number: int, node: SmallNode) -> bytes | None:
        if number == 2 and len(node.connections) == 1:
            raise Farewell(answer.stored("small_1_2"))
        return None

    node = start_node(leave, unix=True)
    with pytest.raises(NotAllStored) as caught:
        send([{"n": str(n), "fill": "x" * 2000} for n in range(count)], via=node.address)
    error = caught.value
    assert not error.not_stored
    assert {*error.stored} | {*error.in_doubt} == set(range(count))
    assert len(error.in_doubt) < count // 2
    assert sorted(stored(node)) == sorted(error.stored)
    assert len(node.connections) == 2


def test_node_that_is_not_there_is_unreachable_and_nothing_was_stored(send: SendMany, tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"cannot connect: .*nothing was stored"):
        send(numbered(3), via=str(tmp_path / "nothing listens"))


def test_node_that_says_nothing_for_too_long_leaves_them_in_doubt(start_node: StartNode, send: SendMany) -> None:
    go = threading.Event()

    def stall(number: int, _: SmallNode) -> None:
        if number == 3:
            go.wait(PATIENCE)

    node = start_node(stall)
    with pytest.raises(NotAllStored) as caught:
        send(numbered(5), via=node.address, send_timeout=3)  # also for the connection and two answers
    go.set()
    assert sorted(caught.value.stored) == [0, 1]
    assert {number: type(why) for number, why in caught.value.in_doubt.items()} == dict.fromkeys((2, 3, 4), TimedOut)


@pytest.mark.slow
def test_time_starts_again_with_each_answer(start_node: StartNode, send: SendMany) -> None:
    pause = threading.Event()

    def slowly(*_: object) -> None:
        pause.wait(0.5)

    node = start_node(slowly)
    assert len(send(numbered(5), via=node.address, send_timeout=2)) == 5


def test_cancelled_caller_closes_its_connection(start_node: StartNode) -> None:
    go = threading.Event()
    node = start_node(lambda *_: go.wait(PATIENCE) and None)

    async def main() -> None:
        sending = asyncio.create_task(asend_many(numbered(10), via=node.address))
        await asyncio.to_thread(node.wait_for_tasks, 1)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending

    asyncio.run(main())
    go.set()


def test_error_survives_a_copy_and_a_pickle() -> None:
    error = NotAllStored(["n_1_1", Refused(Reason.FULL, "full"), TimedOut("late")])
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert str(other) == str(error)
        assert other.stored == {0: "n_1_1"}
        assert [*other.not_stored] == [1]
        assert [*other.in_doubt] == [2]


# --- functions ---

calls: list[Any] = []


def mail(number: int, to: str = "nobody") -> None:
    calls.append((number, to))


def test_calls_are_made_with_the_arguments_of_each(start_node: StartNode, monkeypatch: pytest.MonkeyPatch) -> None:
    node = start_node()
    monkeypatch.setenv("SPOOLNODE_VIA", node.address)
    function = spool(mail)
    assert function.spool_many([(1, "ada"), {"number": 2, "to": "bob"}, (3,)]) == [f"small_1_{n}" for n in (1, 2, 3)]
    calls.clear()
    for variables, body in node.tasks:
        assert Dispatcher(context(), None)(Call.of(variables, body, "uwsgi_spoolfile_on_x")) == DONE
    assert calls == [(1, "ada"), (2, "bob"), (3, "nobody")]


def test_options_hold_for_all_calls(start_node: StartNode) -> None:
    node = start_node()
    call = spool(mail).options(via=node.address, priority=3, node="beta")

    async def main() -> list[str]:
        return await call.aspool_many([(1,), (2,)])

    assert [*call.spool_many([(0,)]), *asyncio.run(main())] == ["small_1_1", "small_1_2", "small_1_3"]
    assert [(dict(task)[names.NODE], dict(task)[b"priority"]) for task, _ in node.tasks] == [(b"beta", b"3")] * 3


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ([(1,), 2], "number 1, counted from 0: .*a tuple, like .*; this is a int; nothing was sent"),
        ([["ab"]], "this is a list; nothing was sent"),
        ([(1,), (1, 2, 3)], "number 1, counted from 0: .* does not take these arguments: too many"),
        ([{"nunber": 1}], "does not take these arguments"),
        ([(object(),)], "the argument `number`"),
    ],
)
def test_arguments_that_do_not_fit_are_named_and_nothing_is_sent(wrong: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(BadTask, match=said):
        spool(mail).options(via=str(tmp_path / "nothing listens")).spool_many(wrong)


def test_a_method_cannot_be_spooled_many_times_either() -> None:
    class Shop:
        @spool(name="shop:sell")
        def sell(self) -> None: ...

    with pytest.raises(BadTask, match="is a method"):
        Shop().sell.spool_many([()])
    with pytest.raises(BadTask, match="is a method"):
        asyncio.run(Shop().sell.aspool_many([()]))
