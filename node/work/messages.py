"""The messages between a node and its workers: msgpack lists, one in each packet, over a SOCK_SEQPACKET socketpair.

node -> worker
    ["run", chunk, number | None, refs]   run these tasks: offsets (u32 array) in batch `number`, or paths of spool files
    ["timer", timer]                      call this timer of the application: [name, seconds, cron, times], as `ready` told it
    ["return"]                            give back tasks that have not started
    ["stop"]                              give back tasks that have not started, end running ones, exit

worker -> node
    ["ready", pid, timers, warning]       the application is loaded; timers as [name, seconds, cron, times], and a sentence
                                          about it for the log, or an empty one
    ["broken", text, is_sentence]         it does not load; the traceback, or one sentence that says it all
    ["ended", chunk, positions, others, seconds]
                                          tasks that ended well (u16 array of positions in the chunk), those that did not
                                          as [position, verdict, detail, delay, function], and the time that all took
    ["returned", chunk, positions]        these have not started (u16 array)
    ["async", count, seconds]             async tasks that run; the time of one that has just ended, else 0
    ["timer", timer | name, error | None] a timer, or a call that the application asked for, has ended
    ["spoilt", reason]                    a task has left this process in a state that cannot be undone; no more tasks start
    ["print", task name, stream, text]    a line that a task printed
"""

import socket
from array import array
from collections.abc import Iterable, Iterator, MutableSequence, Sequence
from typing import Any

import msgpack

MAX_PACKET = 160 << 10
"""The largest packet, in bytes; Linux lets 208 KiB through by default."""
MAX_CHUNK = 512
"""Most tasks of a batch in one `run`."""
MAX_REFS = 128 << 10
"""Most bytes of paths of spool files in one `run`."""
MAX_TEXT = 32 << 10
"""The longest text in a message, in characters."""

# Verdicts about tasks that did not end well, besides the values of `outcome.Kind`.
GONE = "gone"
"""It was gone."""
EARLY = "early"
"""Its file's time lies in the future; detail is that time."""
LOCKED = "locked"
"""Another process holds its file locked."""
SHORT = "short"
"""The file ends before its variables do; detail is its age in seconds."""
UNREADABLE = "unreadable"
"""It cannot be read now: we may not read it, or the disk fails; detail is the reason."""
CORRUPT = "corrupt"
"""It can never be read; detail is the reason."""
NOT_RUN = frozenset({GONE, EARLY, LOCKED, SHORT, UNREADABLE, CORRUPT})
"""Verdicts about tasks that did not even start."""


def send_message(sock: socket.socket, message: list[Any]) -> None:
    """Sends one message. Blocks if the other side does not read (unless the socket is non-blocking)."""
    sock.send(msgpack.packb(message, unicode_errors="surrogatepass"))


def receive(sock: socket.socket) -> list[Any] | None:
    """The next message; None if the other side is gone."""
    data = sock.recv(MAX_PACKET + 4096)
    return msgpack.unpackb(data, unicode_errors="surrogatepass", strict_map_key=False) if data else None


def pack_refs(batch: int | None, refs: MutableSequence[Any]) -> Iterator[tuple[MutableSequence[Any], Any]]:
    """Tasks of a batch, or spool files, in groups that each fit into a `run`, as they are and as they are sent."""
    if batch is None:
        for files in split_files(refs):
            yield files, files
    else:
        yield refs, pack_offsets(refs)


def split_files(refs: Sequence[str]) -> Iterator[list[str]]:
    """Paths of spool files, in groups that each fit into one packet."""
    if 4 * len("".join(refs)) + 3 * len(refs) <= MAX_REFS:  # for any characters
        yield list(refs)
        return
    group: list[str] = []
    room = MAX_REFS
    for ref in refs:
        size = len(ref.encode("utf-8", "surrogatepass")) + 3  # msgpack's prefix of a text
        if size > room:
            yield group
            group, room = [], MAX_REFS
        group.append(ref)
        room -= size
    yield group


def pack_offsets(offsets: Iterable[int]) -> bytes:
    """Offsets as bytes."""
    return (offsets if isinstance(offsets, array) else array("I", offsets)).tobytes()


def unpack_offsets(data: bytes) -> "array[int]":
    """The offsets in these bytes."""
    offsets = array("I")
    offsets.frombytes(data)
    return offsets


def pack_positions(positions: Iterable[int]) -> bytes:
    """Positions in a chunk as bytes."""
    return array("H", positions).tobytes()


def unpack_positions(data: bytes) -> "array[int]":
    """The positions in these bytes."""
    positions = array("H")
    positions.frombytes(data)
    return positions
