"""A request that comes whole takes a short way in. It gets there what it gets on the long way: the same answer, the same task."""

import json
import os
import pickle
import signal

import pytest
from support import RunningNode
from talk import Address, connect, exchange, raw_request, read_all

from spoolnode.protocol.answer import STORED
from spoolnode.protocol.values import pack

PICKLE = pickle.dumps(((), {}))
SPECIAL: dict[str, tuple[tuple[bytes, bytes], ...]] = {
    "nothing special": ((b"n", b"1"),),
    "our function": ((b"spool_func", b"ours"), (b"n", b"1")),
    "uWSGI's function": ((b"ud_spool_func", b"theirs"), (b"n", b"1")),
    "priority": ((b"priority", b"3"),),
    "time": ((b"at", b"4000000000"),),
    "a time that is none": ((b"at", b"soon"),),
    "pickles": ((b"ud_spool_func", b"theirs"), (b"args", PICKLE)),
    "pickles beside": ((b"ud_spool_func", b"theirs"), (b"kwargs", PICKLE)),
    "pickles among typed values": ((b"spool_values", pack({"args": PICKLE})),),
    "typed values twice": ((b"spool_values", pack({"a": 1})), (b"spool_values", pack({"args": PICKLE}))),
    "another spooler": ((b"spooler", b"/elsewhere"),),
    "a number of a link": ((b"n", b"1"), (b"spool_seq", b"4294967297")),
    "an id of another node": ((b"spool_id", b"0123456789ab_1_80"),),
    "a destination of a copy": ((b"spool_to", b"beta"),),
    "an operator's request": ((b"spool_operate", b"POST /stop"), (b"spool_query", b""), (b"spool_by", b"me")),
    "an operator's request, later": ((b"n", b"1"), (b"spool_operate", b"POST /stop")),
    "a timeout that is none": ((b"spool_timeout", b"-1"),),
    "a destination that is none": ((b"spool_node", b"../x"),),
    "no variable": (),
}
TAKEN = {"nothing special", "our function", "uWSGI's function", "priority", "time"}
SAME = ("state", "function", "priority", "due_at", "destination", "sequence_number", "paused", "size_bytes")


def on_the_short_way(node: RunningNode, address: Address, data: bytes) -> bytes:
    """The answer to a request that is there as a whole when the node sees the connection."""
    os.kill(node.pid, signal.SIGSTOP)
    try:
        sock = connect(address)
        sock.sendall(data)
    finally:
        os.kill(node.pid, signal.SIGCONT)
    with sock:
        return read_all(sock)


@pytest.mark.parametrize("place", ["tcp", "unix"])
def test_the_short_way_gives_what_the_long_one_gives(node: RunningNode, place: str) -> None:
    node.start()
    node.command("pause")
    host, _, port = node.via.rpartition(":")
    address: Address = (host, int(port)) if place == "tcp" else str(node.spool / "spool.sock")
    taken = []
    for what, said in SPECIAL.items():
        request = raw_request(*said)
        answer = on_the_short_way(node, address, request)
        assert answer == exchange(address, request + b"\0"), "what follows a request makes it take the long way"
        taken += [what] if answer == STORED else []
    pickles = {"pickles", "pickles beside", "pickles among typed values"} if place == "unix" else set()
    assert set(taken) == TAKEN | pickles
    rows = json.loads(node.command("ls", "--json").stdout)
    rows.sort(key=lambda row: [int(number) for number in row["id"].split("_")[1:]])  # batch and offset
    same = [tuple(row[name] for name in SAME) for row in rows]
    assert sorted(map(str, same[::2])) == sorted(map(str, same[1::2])), "the two of each kind"
    assert len(same) == 2 * len(taken)
    assert {row["function"] for row in rows} >= {"", "ours", "theirs"}
    assert {(row["priority"], row["due_at"]) for row in rows} == {(None, None), (3, None), (None, 4e9)}
