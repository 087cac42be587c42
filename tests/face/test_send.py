"""The synchronous client against real sockets: one connection, shared and kept; errors that say what was stored."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgpack
import pytest
from smallnode import Farewell, Hangup, SmallNode, StartNode
from support import PATIENCE

from spoolnode import (
    BadTask,
    Reason,
    Refused,
    SpoolnodeError,
    TimedOut,
    Unanswered,
    Unreachable,
    asend_to_spooler,
    client,
    send_to_spooler,
    wire,
)
from spoolnode.client import aio
from spoolnode.node.badconfig import BadConfig
from spoolnode.protocol import answer, names


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def in_child(work: Callable[[], Any]) -> int:
    """Runs `work` in a forked child; 0 when it raised nothing."""
    pid = os.fork()
    if not pid:
        try:
            work()
        except BaseException:  # noqa: BLE001 - a child must not run the parent's tests
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def in_a_thread(work: Callable[[], Any]) -> None:
    """Where no loop runs; raises what it raised."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result(PATIENCE)


# --- what is sent ---


def test_returns_the_id_that_the_node_gave(start_node: StartNode) -> None:
    node = start_node()
    assert send_to_spooler({"ToGroup": "customers"}, via=node.address) == "small_1_1"
    assert node.tasks == [([(b"ToGroup", b"customers")], b"")]


def test_types_travel_as_msgpack_and_the_body_behind_the_variables(start_node: StartNode) -> None:
    node = start_node(unix=True)
    send_to_spooler({"n": 1, "s": "x", "body": b"\x00\xff", "at": 5, "priority": 3}, via=node.address)
    variables, body = node.tasks[0]
    sent = dict(variables)
    assert msgpack.unpackb(sent.pop(names.VALUES)) == {"n": 1}
    assert sent == {b"s": b"x", b"at": b"5", b"priority": b"3", names.BODY_LENGTH: b"2"}
    assert body == b"\x00\xff"


@pytest.mark.parametrize("node_name", ["alpha", "10.0.0.7:3031", "[::1]:3031", "tag:gpu", "any", "all"])
def test_destination_becomes_the_variable_spool_node(start_node: StartNode, node_name: str) -> None:
    node = start_node()
    send_to_spooler({"a": "b"}, node=node_name, via=node.address)
    assert (names.NODE, node_name.encode()) in node.tasks[0][0]


@pytest.mark.parametrize("node_name", ["", "../x", "a b", ".hidden", "host:99999"])
def test_bad_destination_is_the_callers_error_and_nothing_is_sent(node_name: str) -> None:
    with pytest.raises(BadTask, match="node="):
        send_to_spooler({"a": "b"}, node=node_name, via=f"127.0.0.1:{closed_port()}")


def test_address_comes_from_the_environment(start_node: StartNode, monkeypatch: pytest.MonkeyPatch) -> None:
    node = start_node()
    monkeypatch.setenv("SPOOLNODE_VIA", node.address)
    assert send_to_spooler({"a": "b"}) == "small_1_1"


def test_bad_address_says_what_an_address_is() -> None:
    with pytest.raises(BadConfig, match="host:port"):
        send_to_spooler({"a": "b"}, via="localhost:http")


# --- one connection ---


def test_tasks_one_after_the_other_share_a_connection(start_node: StartNode) -> None:
    node = start_node()
    for number in range(50):
        assert send_to_spooler({"a": "b"}, via=node.address) == f"small_1_{number + 1}"
    assert len(node.connections) == node.pings == 1


def test_threads_share_a_connection_and_each_gets_its_own_answer(start_node: StartNode) -> None:
    def echo(number: int, node: Any) -> bytes:
        variables, body = node.tasks[number - 1]
        return answer.stored(f"for_{dict(variables)[b'me'].decode()}_{len(body)}")

    node = start_node(echo)

    def work(me: int) -> None:
        for turn in range(40):
            body = b"x" * (me * turn * 37)
            assert send_to_spooler({"me": str(me), "body": body}, via=node.address) == f"for_{me}_{len(body)}"

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    assert len(node.tasks) == 16 * 40
    assert len(node.connections) == 1


def test_requests_are_pipelined_while_an_answer_is_awaited(start_node: StartNode) -> None:
    go = threading.Event()

    def hold(number: int, node: Any) -> None:
        if number == 1:
            go.wait(PATIENCE)

    node = start_node(hold)
    with ThreadPoolExecutor(8) as pool:
        sent = [pool.submit(send_to_spooler, {"n": n}, via=node.address) for n in range(8)]
        node.wait_for_tasks(1)
        assert not any(one.done() for one in sent)
        go.set()
        assert sorted(one.result(PATIENCE) for one in sent) == [f"small_1_{n}" for n in range(1, 9)]
    assert len(node.connections) == 1


def test_large_body_has_a_connection_of_its_own(start_node: StartNode) -> None:
    node = start_node()
    body = os.urandom(3_000_000)
    send_to_spooler({"a": "b"}, via=node.address)
    send_to_spooler({"a": "b", "body": body}, via=node.address)
    send_to_spooler({"a": "b"}, via=node.address)
    assert node.tasks[1][1] == body
    assert len(node.connections) == 2


# --- forks ---


def test_forked_child_opens_its_own_connection(start_node: StartNode) -> None:
    node = start_node()
    send_to_spooler({"who": "parent"}, via=node.address)
    assert in_child(lambda: send_to_spooler({"who": "child"}, via=node.address)) == 0
    send_to_spooler({"who": "parent"}, via=node.address)
    assert [dict(variables)[b"who"] for variables, _ in node.tasks] == [b"parent", b"child", b"parent"]
    assert len(node.connections) == 2


def test_fork_while_threads_are_sending_disturbs_nobody(start_node: StartNode) -> None:
    node = start_node()
    stop = threading.Event()
    sent = [0] * 4

    def work(me: int) -> None:
        while not stop.is_set():
            send_to_spooler({"me": me}, via=node.address)
            sent[me] += 1

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(work, me) for me in range(4)]
        try:
            node.wait_for_tasks(20)
            codes = [in_child(lambda: send_to_spooler({"who": "child"}, via=node.address)) for _ in range(8)]
        finally:
            stop.set()
        for one in running:
            one.result(PATIENCE)
    assert codes == [0] * 8
    assert len(node.tasks) == sum(sent) + 8


def test_child_forked_by_a_thread_sends_while_the_other_threads_do(start_node: StartNode) -> None:
    node = start_node()

    def work(me: int) -> int:
        send_to_spooler({"who": "thread"}, via=node.address)
        return in_child(lambda: send_to_spooler({"who": "child"}, via=node.address))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(8))) == [0] * 8
    assert len(node.tasks) == 16


def test_child_that_was_forked_in_a_running_loop_has_its_own_connections(start_node: StartNode) -> None:
    node = start_node()

    async def main() -> int:
        await asend_to_spooler({"who": "parent"}, via=node.address)
        code = in_child(lambda: in_a_thread(lambda: asyncio.run(asend_to_spooler({"who": "child"}, via=node.address))))
        await asend_to_spooler({"who": "parent"}, via=node.address)
        return code

    assert asyncio.run(main()) == 0
    assert [dict(variables)[b"who"] for variables, _ in node.tasks] == [b"parent", b"child", b"parent"]
    assert len(node.connections) == 2


# --- the node goes away ---


def test_node_that_restarted_while_idle_costs_no_error(start_node: StartNode) -> None:
    node = start_node()
    port = int(node.address.rpartition(":")[2])
    send_to_spooler({"a": "1"}, via=node.address)
    node.stop()
    again = start_node(port=port)
    assert send_to_spooler({"a": "2"}, via=again.address) == "small_1_1"


def test_node_that_closes_idle_connections_costs_no_error(start_node: StartNode) -> None:
    node = start_node()
    for _ in range(5):
        send_to_spooler({"a": "b"}, via=node.address)
        node.hang_up()
    assert len(node.tasks) == 5


def test_nobody_there_is_unreachable_and_nothing_was_stored(tmp_path: Any) -> None:
    for address in (f"127.0.0.1:{closed_port()}", str(tmp_path / "none.sock")):
        with pytest.raises(Unreachable, match="nothing was stored") as caught:
            send_to_spooler({"a": "b"}, via=address)
        assert str(caught.value).startswith(address)
        assert isinstance(caught.value, ConnectionError)
        assert isinstance(caught.value, SpoolnodeError)


def test_connection_that_ends_before_the_answer_leaves_it_open_whether_it_was_stored(start_node: StartNode) -> None:
    def hang_up(number: int, node: Any) -> None:
        if number == 2:
            raise Hangup

    node = start_node(hang_up)
    send_to_spooler({"a": "1"}, via=node.address)
    with pytest.raises(Unanswered, match="may or may not have been stored") as caught:
        send_to_spooler({"a": "2"}, via=node.address)
    assert isinstance(caught.value, ConnectionError)
    assert not isinstance(caught.value, TimedOut)
    assert send_to_spooler({"a": "3"}, via=node.address) == "small_1_3"
    assert [variables[0][1] for variables, _ in node.tasks] == [b"1", b"2", b"3"], "nothing was sent twice"


def test_all_who_wait_learn_that_the_connection_ended(start_node: StartNode) -> None:
    go = threading.Event()

    def hang_up(number: int, node: Any) -> None:
        go.wait(PATIENCE)
        raise Hangup

    node = start_node(hang_up)
    with ThreadPoolExecutor(4) as pool:
        sent = [pool.submit(send_to_spooler, {"n": n}, via=node.address) for n in range(4)]
        node.wait_for_tasks(1)
        go.set()
        errors = [one.exception(PATIENCE) for one in sent]
    # Those whose request came after the end opened another connection, and learned the same there.
    assert all(isinstance(error, Unanswered) for error in errors)


def test_no_answer_in_time_is_a_timeout_and_later_tasks_do_not_wait_behind_it(start_node: StartNode) -> None:
    go = threading.Event()

    def hold(number: int, node: Any) -> None:
        if number == 2:
            go.wait(PATIENCE)

    node = start_node(hold)
    send_to_spooler({"a": "1"}, via=node.address)  # so that none of the time passes before there is a connection
    with pytest.raises(TimedOut, match="may or may not have been stored") as caught:
        send_to_spooler({"a": "2"}, via=node.address, send_timeout=1)
    assert isinstance(caught.value, TimeoutError)
    assert send_to_spooler({"a": "3"}, via=node.address) == "small_1_3"
    go.set()


def test_one_callers_timeout_does_not_disturb_another(start_node: StartNode) -> None:
    go = threading.Event()

    def hold(number: int, node: Any) -> bytes:
        go.wait(PATIENCE)
        return answer.stored("for_" + dict(node.tasks[number - 1][0])[b"me"].decode())

    node = start_node(hold)
    with ThreadPoolExecutor(2) as pool:
        patient = pool.submit(send_to_spooler, {"me": "patient"}, via=node.address)
        node.wait_for_tasks(1)
        with pytest.raises(TimedOut):
            send_to_spooler({"me": "hasty"}, via=node.address, send_timeout=1)
        go.set()
        assert patient.result(PATIENCE) == "for_patient"


def test_leader_that_gives_up_hands_the_reading_on(start_node: StartNode) -> None:
    go = threading.Event()

    def hold(number: int, node: Any) -> bytes:
        go.wait(PATIENCE)
        return answer.stored("for_" + dict(node.tasks[number - 1][0])[b"me"].decode())

    node = start_node(hold)
    with ThreadPoolExecutor(2) as pool:
        hasty = pool.submit(send_to_spooler, {"me": "hasty"}, via=node.address, send_timeout=3)  # until it has a connection, too
        node.wait_for_tasks(1)
        patient = pool.submit(send_to_spooler, {"me": "patient"}, via=node.address)
        assert isinstance(hasty.exception(PATIENCE), TimedOut)
        go.set()
        assert patient.result(PATIENCE) == "for_patient"


def test_server_that_accepts_and_says_nothing_is_unreachable(start_node: StartNode) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        with pytest.raises(Unreachable, match="nothing was stored"):
            send_to_spooler({"a": "b"}, via=f"{host}:{port}", send_timeout=0.1)


def test_full_backlog_of_a_unix_socket_is_waited_for(tmp_path: Any) -> None:
    path = str(tmp_path / "full.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(path)
            with pytest.raises(Unreachable, match="cannot connect: timed out; nothing was stored"):
                send_to_spooler({"a": "b"}, via=path, send_timeout=0.1)


def test_body_cut_by_a_timeout_was_not_stored(start_node: StartNode) -> None:
    """The server reads the head and then nothing: an incomplete task is not stored, and the error says so."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = "{}:{}".format(*listener.getsockname())

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4)
                connection.sendall(answer.status_pong({"name": "x"}))
                connection.recv(100)
                done.wait(PATIENCE)

        server = threading.Thread(target=serve)
        server.start()
        with pytest.raises(Unreachable, match="nothing was stored"):
            send_to_spooler({"body": bytes(50_000_000)}, via=address, send_timeout=2)
        done.set()
        server.join()


def test_nobody_there_says_what_was_tried_and_how_to_start_a_node() -> None:
    address = f"127.0.0.1:{closed_port()}"
    with pytest.raises(Unreachable, match=f"{address}: cannot connect: Connection refused; .* running there .`spoolnode join`"):
        send_to_spooler({"a": "b"}, via=address)
    untold = wire.resolve(None)
    assert str(untold) == "127.0.0.1:3031 or [::1]:3031"
    assert "start a node with `spoolnode join`, or name another address with SPOOLNODE_VIA" in untold.hint


@pytest.mark.parametrize("send", [client.send, lambda *args: asyncio.run(aio.asend(*args))], ids=["sync", "async"])
def test_client_that_is_told_nothing_tries_both_families(send: Callable[..., str]) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        port = listener.getsockname()[1]
        untold = wire.Address("untold", (("127.0.0.1", port), ("::1", port)), chosen=False)
        node = SmallNode(listener)
        assert send(untold, wire.task_message({"a": "b"}, None), 5.0) == "small_1_1"
        client.close()
        node.stop()


# --- refusals ---


def test_refusal_carries_reason_address_and_text_and_the_connection_lives(start_node: StartNode) -> None:
    def refuse(number: int, node: Any) -> bytes | None:
        return answer.refused(Refused(Reason.FULL, "the disk is full")) if number == 1 else None

    node = start_node(refuse)
    with pytest.raises(Refused, match=f"{node.address}: .*the disk is full; nothing was stored") as caught:
        send_to_spooler({"a": "b"}, via=node.address)
    assert caught.value.reason is Reason.FULL
    send_to_spooler({"a": "b"}, via=node.address)
    assert len(node.connections) == 1


def test_refusal_that_ends_the_connection_costs_nobody_anything(start_node: StartNode) -> None:
    """Neither who was refused, in the next task, nor the other threads that share the connection."""

    def refuse_some(number: int, node: Any) -> bytes | None:
        if dict(node.tasks[number - 1][0])[b"kind"] == b"bad":
            raise Farewell(answer.refused(Refused(Reason.MALFORMED, "no")))
        return None

    node = start_node(refuse_some)
    for turn in range(20):
        with pytest.raises(Refused):
            send_to_spooler({"kind": "bad"}, via=node.address)
        with ThreadPoolExecutor(4) as pool:
            for sent in [
                pool.submit(send_to_spooler, {"kind": "good", "n": f"{turn}.{me}"}, via=node.address) for me in range(4)
            ]:
                sent.result(PATIENCE)
    assert len(node.tasks) == 20 * 5, "and nothing was sent twice"


@pytest.mark.parametrize("leaves_unread", [True, False])
def test_body_refused_while_it_is_being_sent_is_a_refusal(leaves_unread: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = "{}:{}".format(*listener.getsockname())
        client_has_answer = threading.Event()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4)
                connection.sendall(answer.status_pong({"name": "x"}))
                connection.recv(4)
                connection.sendall(answer.refused(Refused(Reason.TOO_LARGE, "too large")))
                if leaves_unread:
                    client_has_answer.wait(PATIENCE)
                while not leaves_unread and connection.recv(1 << 20):
                    pass

        server = threading.Thread(target=serve)
        server.start()
        with pytest.raises(Refused, match="too large") as caught:
            send_to_spooler({"body": bytes(50_000_000)}, via=address, send_timeout=PATIENCE)
        client_has_answer.set()
        assert caught.value.reason is Reason.TOO_LARGE
        server.join()


def test_answer_that_is_none_is_an_unanswered_task(start_node: StartNode) -> None:
    node = start_node(lambda *_: b"HTTP/1.0 404 Not Found\r\n\r\n")
    with pytest.raises(Unanswered, match="may or may not have been stored"):
        send_to_spooler({"a": "b"}, via=node.address)


# --- a server that speaks only uWSGI's dialect ---


def plain_server(verdict: bytes, stop: threading.Event) -> tuple[str, list[bytes], threading.Thread]:
    listener = socket.create_server(("127.0.0.1", 0))
    requests: list[bytes] = []

    def serve() -> None:
        listener.settimeout(0.05)
        with listener:
            while not stop.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                with connection:
                    request = connection.recv(65536)
                    if request[0] == 17:
                        requests.append(request)
                    connection.sendall(answer.PONG if request[0] == 100 else verdict)

    thread = threading.Thread(target=serve)
    thread.start()
    return "{}:{}".format(*listener.getsockname()), requests, thread


@pytest.mark.parametrize("threads", [1, 8])
def test_plain_server_stores_without_an_id(threads: int) -> None:
    stop = threading.Event()
    address, requests, server = plain_server(answer.STORED, stop)
    with ThreadPoolExecutor(threads) as pool:
        sent = [pool.submit(send_to_spooler, {"a": "b"}, via=address) for _ in range(20)]
        assert [one.result(PATIENCE) for one in sent] == [""] * 20
    stop.set()
    server.join()
    assert len(requests) == 20


def test_plain_server_refuses_without_a_reason() -> None:
    stop = threading.Event()
    address, _, server = plain_server(answer.REFUSED, stop)
    with pytest.raises(Refused, match="without a reason"):
        send_to_spooler({"a": "b"}, via=address)
    stop.set()
    server.join()


def test_body_is_never_sent_to_a_server_that_would_drop_it() -> None:
    stop = threading.Event()
    address, requests, server = plain_server(answer.STORED, stop)
    for body in (b"small", bytes(200_000)):
        with pytest.raises(BadTask, match=r"drops the `body`.*nothing was stored"):
            send_to_spooler({"a": "b", "body": body}, via=address)
    stop.set()
    server.join()
    assert requests == []


# --- the process ---


def test_interrupted_caller_leaves_the_client_usable(start_node: StartNode) -> None:
    go = threading.Event()
    # A shell that runs something in the background lets it ignore SIGINT, and Python leaves it so.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def hold(number: int, node: Any) -> None:
        if number == 1:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            go.wait(PATIENCE)

    node = start_node(hold)
    try:
        with pytest.raises(KeyboardInterrupt):
            send_to_spooler({"a": "1"}, via=node.address)
    finally:
        signal.signal(signal.SIGINT, before)
    assert send_to_spooler({"a": "2"}, via=node.address) == "small_1_2"
    go.set()


def test_close_is_for_good_manners_not_for_good(start_node: StartNode) -> None:
    node = start_node()
    send_to_spooler({"a": "b"}, via=node.address)
    client.close()
    send_to_spooler({"a": "b"}, via=node.address)
    assert len(node.connections) == 2


def test_import_and_first_send_stay_light() -> None:
    program = (
        "import sys, spoolnode; few = set(sys.modules);"
        "from spoolnode import send_to_spooler, spool, uwsgi;"
        "heavy = {'asyncio', 'aiohttp', 'click', 'rich', 'structlog', 'ssl', 'http.client'} & set(sys.modules);"
        "few -= {'spoolnode.protocol', 'spoolnode.protocol.version'};"
        "assert not heavy, heavy; assert not any(name.startswith('spoolnode.') for name in few), few"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
