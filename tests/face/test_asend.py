"""The asynchronous client, on asyncio and on uvloop: the promises of the synchronous one, and that tasks do not disturb
each other."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from smallnode import Farewell, Hangup, StartNode
from support import PATIENCE

from spoolnode import BadTask, Reason, Refused, TimedOut, Unanswered, Unreachable, asend_to_spooler
from spoolnode.protocol import answer, names

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """`asyncio.run`, on each of the loops."""

    def run(main: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(main)

    return run


def test_returns_the_id_and_shares_a_connection_among_tasks(start_node: StartNode, run: Run) -> None:
    node = start_node()

    async def main() -> list[str]:
        return await asyncio.gather(*(asend_to_spooler({"n": n}, via=node.address) for n in range(200)))

    assert sorted(run(main())) == sorted(f"small_1_{n}" for n in range(1, 201))
    assert len(node.connections) == 1


def test_each_loop_has_its_own_connection_and_closes_it(start_node: StartNode, run: Run) -> None:
    node = start_node(unix=True)
    for _ in range(3):
        run(asend_to_spooler({"a": "b"}, via=node.address))
    assert len(node.connections) == 3


def test_destination_becomes_the_variable_spool_node(start_node: StartNode, run: Run) -> None:
    node = start_node()
    run(asend_to_spooler({"a": "b"}, "tag:gpu", via=node.address))
    assert (names.NODE, b"tag:gpu") in node.tasks[0][0]


def test_each_caller_gets_its_own_answer_whatever_the_size_of_the_bodies(start_node: StartNode, run: Run) -> None:
    def echo(number: int, node: Any) -> bytes:
        variables, body = node.tasks[number - 1]
        return answer.stored(f"for_{dict(variables)[b'me'].decode()}_{len(body)}")

    node = start_node(echo)

    async def one(me: int) -> None:
        body = bytes(me * me * 300)
        assert await asend_to_spooler({"me": str(me), "body": body}, via=node.address) == f"for_{me}_{len(body)}"

    async def main() -> None:
        await asyncio.gather(*(one(me) for me in range(40)))

    run(main())
    assert len(node.tasks) == 40


def test_cancelled_caller_does_not_disturb_the_others(start_node: StartNode, run: Run) -> None:
    go = threading.Event()

    def hold(number: int, node: Any) -> bytes:
        go.wait(PATIENCE)
        return answer.stored("for_" + dict(node.tasks[number - 1][0])[b"me"].decode())

    node = start_node(hold)

    async def main() -> list[Any]:
        callers = [asyncio.create_task(asend_to_spooler({"me": str(me)}, via=node.address)) for me in range(5)]
        await asyncio.to_thread(node.wait_for_tasks, 1)
        callers[0].cancel()
        callers[3].cancel()
        asyncio.get_running_loop().call_soon(go.set)
        return await asyncio.gather(*callers, return_exceptions=True)

    answers = run(main())
    assert [answers[me] for me in (1, 2, 4)] == ["for_1", "for_2", "for_4"]
    assert all(isinstance(answers[me], asyncio.CancelledError) for me in (0, 3))
    assert len(node.connections) == 1


def test_timeout_of_one_caller_does_not_disturb_the_others(start_node: StartNode, run: Run) -> None:
    go = threading.Event()

    def hold(number: int, node: Any) -> bytes:
        go.wait(PATIENCE)
        return answer.stored("for_" + dict(node.tasks[number - 1][0])[b"me"].decode())

    node = start_node(hold)

    async def main() -> str:
        patient = asyncio.create_task(asend_to_spooler({"me": "patient"}, via=node.address))
        await asyncio.to_thread(node.wait_for_tasks, 1)
        with pytest.raises(TimedOut, match="may or may not have been stored"):
            await asend_to_spooler({"me": "hasty"}, via=node.address, send_timeout=1)
        go.set()
        return await patient

    assert run(main()) == "for_patient"


def test_node_that_restarted_while_idle_costs_no_error(start_node: StartNode, run: Run) -> None:
    node = start_node()

    async def main() -> None:
        for _ in range(5):
            await asend_to_spooler({"a": "b"}, via=node.address)
            node.hang_up()  # blocks the loop, so that the loop cannot have told the client

    run(main())
    assert len(node.tasks) == 5


def test_connection_that_ends_before_the_answer_leaves_it_open_whether_it_was_stored(start_node: StartNode, run: Run) -> None:
    def hang_up(number: int, node: Any) -> None:
        if number == 1:
            raise Hangup

    node = start_node(hang_up)

    async def main() -> None:
        with pytest.raises(Unanswered, match="may or may not have been stored"):
            await asend_to_spooler({"a": "1"}, via=node.address)
        await asend_to_spooler({"a": "2"}, via=node.address)

    run(main())


def test_nobody_there_is_unreachable(tmp_path: Any, run: Run) -> None:
    for address in ("127.0.0.1:1", str(tmp_path / "none.sock")):
        with pytest.raises(Unreachable, match="nothing was stored") as caught:
            run(asend_to_spooler({"a": "b"}, via=address))
        assert str(caught.value).startswith(address)


def test_refusal_carries_reason_and_address(start_node: StartNode, run: Run) -> None:
    node = start_node(lambda *_: answer.refused(Refused(Reason.FULL, "the disk is full")))
    with pytest.raises(Refused, match=f"{node.address}: .*the disk is full; nothing was stored"):
        run(asend_to_spooler({"a": "b"}, via=node.address))


def test_plain_server_stores_without_an_id_and_never_gets_a_body(run: Run) -> None:
    requests = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.read(65536)
        requests.append(request[0])
        writer.write(answer.PONG if request[0] == 100 else answer.STORED)
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            address = "{}:{}".format(*server.sockets[0].getsockname())
            assert await asyncio.gather(*(asend_to_spooler({"a": "b"}, via=address) for _ in range(10))) == [""] * 10
            with pytest.raises(BadTask, match="drops the `body`"):
                await asend_to_spooler({"a": "b", "body": b"x"}, via=address)

    run(main())
    assert requests.count(17) == 10


def test_refusal_that_ends_the_connection_costs_the_next_task_nothing(start_node: StartNode, run: Run) -> None:
    def refuse_the_first(number: int, node: Any) -> bytes | None:
        if number == 1:
            raise Farewell(answer.refused(Refused(Reason.MALFORMED, "no")))
        return None

    node = start_node(refuse_the_first)

    async def main() -> list[str]:
        with pytest.raises(Refused):
            await asend_to_spooler({"a": "bad"}, via=node.address)
        return await asyncio.gather(*(asend_to_spooler({"n": n}, via=node.address) for n in range(20)))

    assert sorted(run(main())) == sorted(f"small_1_{n}" for n in range(2, 22))


def test_refusal_leaves_a_connection_that_the_node_keeps(start_node: StartNode, run: Run) -> None:
    node = start_node(lambda number, _: answer.refused(Refused(Reason.FULL, "no")) if number % 2 else None)

    async def main() -> None:
        for _ in range(5):
            with pytest.raises(Refused):
                await asend_to_spooler({"a": "bad"}, via=node.address)
            await asend_to_spooler({"a": "good"}, via=node.address)

    run(main())
    assert len(node.connections) == 1


@pytest.mark.parametrize("reads_on", [True, False], ids=["slow", "stopped"])
def test_large_body_has_time_while_the_node_takes_more_of_it(run: Run, tmp_path: Path, reads_on: bool) -> None:
    path, size = str(tmp_path / "slow.sock"), 4_000_000  # a unix socket, whose buffers in the kernel are small
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(4)
        writer.write(answer.status_pong({"name": "slow"}))
        got = 0
        while got < size and (reads_on or not got):
            got += len(await reader.read(1 << 17))
            await asyncio.sleep(0.05)
        if reads_on:
            writer.write(answer.stored("slow_1_1"))
        await done.wait()
        writer.close()

    async def main() -> None:
        async with await asyncio.start_unix_server(serve, path):
            clock = asyncio.get_running_loop().time
            started = clock()
            sending = asend_to_spooler(
                {"body": bytes(size)}, via=path, send_timeout=1.0
            )  # longer than a busy machine holds us up
            if reads_on:
                assert await sending == "slow_1_1"
                assert clock() - started > 1.0
            else:
                with pytest.raises(Unreachable, match="nothing was stored"):
                    await sending
            done.set()

    run(main())
