"""Tasks with a key on a real node: however they come, and through kill -9, one of them waits at a time."""

import json
import threading
from collections import Counter

import pytest
from support import RunningNode, eventually
from talk import connect, exchange, raw_request, read_answers
from watch import NOTES, notes, wait_until_idle

from spoolnode import spool
from spoolnode.protocol import names
from spoolnode.protocol.answer import STORED, read_answer, read_copies

APP = (
    NOTES
    + """
def spooler(env):
    note(env["n"])

uwsgi.spooler = spooler
"""
)
CALLS = (
    NOTES
    + """
from spoolnode import spool

@spool(name="index", unique="waiting")
def index(page):
    note(str(page))
"""
)
ROUNDS = 5
DUPLICATES = 50
"""In each round, at least."""
KEYS = 8


def keyed(n: str, key: str, *more: tuple[bytes, bytes], extended: bool = False) -> bytes:
    return raw_request((b"n", n.encode()), (names.KEY, key.encode()), *more, extended=extended)


def paused(node: RunningNode) -> RunningNode:
    assert node.command("pause").returncode == 0
    return node


def send(node: RunningNode, *requests: bytes) -> list[tuple[str, int]]:
    """The ids and the copies in the answers to pipelined requests."""
    with connect(("127.0.0.1", node.port)) as sock:
        sock.sendall(b"".join(requests))
        answers = read_answers(sock, len(requests))
    return [(read_answer(modifier2, block), read_copies(block)) for _, modifier2, block in answers]


def run_all(node: RunningNode) -> list[str]:
    """Everything that ran, after a resume."""
    assert node.command("resume").returncode == 0
    wait_until_idle(node)
    return notes(node)


def test_however_it_comes_a_duplicate_is_answered_with_the_first_one(node: RunningNode) -> None:
    paused(node.start(app=APP))
    (first,) = send(node, keyed("first", "k", extended=True))
    address = ("127.0.0.1", node.port)
    assert exchange(address, keyed("plain", "k")) == STORED
    web = (b"REQUEST_METHOD", b"GET"), (b"SERVER_PROTOCOL", b"HTTP/1.1"), (b"CONTENT_LENGTH", b"")
    head, _, body = exchange(address, keyed("web", "k", *web)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 202 ")
    assert json.loads(body) == {"id": first[0], "copies": 0}
    assert exchange(address, keyed("web without a key", "", *web)).startswith(b"HTTP/1.1 202 ")
    large = keyed("large", "k", (names.BODY_LENGTH, b"300000"), extended=True) + bytes(300_000)
    pipelined = send(node, keyed("second", "k", extended=True), keyed("other", "o", extended=True), large)
    assert [copies for _, copies in pipelined] == [0, 1, 0]
    assert {identity for identity, copies in pipelined if not copies} == {first[0]}
    assert node.status()["duplicates"] == 4
    assert sorted(run_all(node)) == ["first", "other", "web without a key"]


def test_duplicates_that_come_at_once_on_many_connections_are_one(node: RunningNode) -> None:
    paused(node.start(app=APP))
    found: list[tuple[str, int]] = []
    threads = [
        threading.Thread(target=lambda: found.extend(send(node, *[keyed("once", "k", extended=True)] * 50))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(copies for _, copies in found) == {1: 1, 0: 399}
    assert len({identity for identity, _ in found}) == 1
    assert run_all(node) == ["once"]


def test_a_key_that_is_too_long_is_refused_with_a_sentence(node: RunningNode) -> None:
    node.start()
    with connect(("127.0.0.1", node.port)) as sock:
        sock.sendall(keyed("n", "k" * 256, extended=True))
        ((_, modifier2, block),) = read_answers(sock, 1)
    assert modifier2 == 0
    assert b"it must be text in UTF-8 of at most 255 bytes, and has 256" in block


def test_calls_of_a_unique_function_and_those_written_while_the_node_was_down(node: RunningNode) -> None:
    index = spool(name="index", unique="waiting")(lambda page: None)
    paused(node.start(app=CALLS))
    first, again, other = index.options(via=node.via).spool_many([(1,), (1,), (2,)])
    assert first == again != other
    assert index.options(via=node.via, priority=1).spool(page=2) == other
    node.stop()
    via = f"dir:{node.spool}"
    written = [index.options(via=via).spool(page) for page in (1, 3, 3)]
    assert len({first, other, *written}) == 5, "while the node is down all of them are stored"
    node.start(app=CALLS)
    assert index.options(via=node.via).spool(1) in {first, written[0]}
    assert index.options(via=node.via).spool(3) in written[1:]
    assert sorted(run_all(node)) == ["1", "1", "2", "3", "3"]


@pytest.mark.slow
def test_after_each_kill_9_the_keys_still_hold(node: RunningNode) -> None:
    """Senders never stop; what waits is never taken, so each key leads to one task for ever."""
    paused(node.start(app=APP))
    waiting: dict[str, set[str]] = {f"k{number}": set() for number in range(KEYS)}
    is_over = threading.Event()

    def go_on() -> None:
        while not is_over.is_set():
            for key, ids in waiting.items():
                try:
                    ids.update(identity for identity, _ in send(node, *[keyed(key, key, extended=True)] * 5))
                except OSError:  # it is down
                    is_over.wait(0.01)

    sender = threading.Thread(target=go_on)
    sender.start()
    try:
        for _ in range(ROUNDS):
            before = node.status()["duplicates"]
            eventually(lambda before=before: node.status()["duplicates"] > before + DUPLICATES, "duplicates come")
            node.kill9()
            node.start(app=APP)
    finally:
        is_over.set()
        sender.join()
    assert {key: len(ids) for key, ids in waiting.items()} == dict.fromkeys(waiting, 1)
    ran = Counter(run_all(node))
    assert ran.keys() == waiting.keys()
    assert sum(ran.values()) < KEYS + ROUNDS * DUPLICATES, "a kill leaves those that were just being ended, and not all"
