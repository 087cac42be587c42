"""The messages between a node and its workers: msgpack lists, one in each packet, over a SOCK_SEQPACKET socketpair.

node -> worker
    ["run", chunk, number | None, refs, held, leased]
                                          run these tasks: offsets (u32 array) in batch `number`, or paths of spool files; give
                                          back those of the functions `held`; `leased`: only while the leases hold (see
                                          `slots`), and they may be spots in a batch (see `held_place`)
    ["timer", timer]                      call this timer of the application: `list(Timer)`, as `ready` told it
    ["return"]                            give back tasks that have not started
    ["cancel", chunk, position, reason]   end this task, which runs or will run soon; it is not tried again
    ["forget", chunk, position]           that task has ended, and perhaps before it heard of the `cancel`
    ["stop"]                              give back tasks that have not started, end running ones, exit

worker -> node
    ["ready", pid, timers, warning, limits]
                                          the application is loaded; timers as `list(Timer)`, and a sentence
                                          about it for the log, or an empty one
    ["broken", text, is_sentence]         it does not load; the traceback, or one sentence that says it all
    ["ended", chunk, positions, lengths, others, seconds, waited]
                                          tasks that ended well (u16 array of positions in the chunk) and how long each ran
                                          (f32 array of seconds), those that did not as [position, verdict, detail, delay,
                                          function, seconds, origin id], the time that all took, and how long the
                                          first of them was ready before it started
    ["returned", chunk, positions]        these have not started (u16 array)
    ["started", chunk, position]          this task starts; only sent while the node wants to hear it (see `slots`)
    ["async", count, seconds]             async tasks that run; the time of one that has just ended, else 0
    ["timer", timer | name, error | None] a timer, or a call that the application asked for, has ended
    ["spoilt", reason]                    a task has left this process in a state that cannot be undone; no more tasks start
    ["progress", id, done, text]          a running task says how far it is: done is from 0 to 1
    ["print", task name, stream, text]    a line that a task printed
    ["log", task name, level, logger, text]
                                          a record of the application's logging
"""

import socket
from array import array
from collections.abc import Iterable, Iterator, MutableSequence, Sequence
from typing import Any

import msgpack

from spoolnode.node.story.notes import UNKNOWN_SECONDS

MAX_PACKET = 160 << 10
"""The largest packet, in bytes; Linux lets 208 KiB through by default."""
MAX_CHUNK = 512
"""Most tasks of a batch in one `run`."""
MAX_REFS = 128 << 10
"""Most bytes of paths of spool files in one `run`."""
MAX_TEXT = 32 << 10
"""The longest text in a message, in characters."""

# Verdicts about tasks that did not end well, besides the values of `outcome.Kind`.
WITHHELD = "withheld"
"""Its function is held back; detail is the function's name."""
LAPSED = "lapsed"
"""The leases of the node ran out before it started."""
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
NOT_RUN = frozenset({WITHHELD, LAPSED, GONE, EARLY, LOCKED, SHORT, UNREADABLE, CORRUPT})
"""Verdicts about tasks that did not even start."""


def send_message(sock: socket.socket, message: list[Any]) -> None:
    """Sends one message. Blocks if the other side does not read (unless the socket is non-blocking)."""
    sock.send(msgpack.packb(message, unicode_errors="surrogatepass"))


def receive(sock: socket.socket) -> list[Any] | None:
    """The next message; None if the other side is gone."""
    data = sock.recv(MAX_PACKET + 4096)
    return msgpack.unpackb(data, unicode_errors="surrogatepass", strict_map_key=False) if data else None


def unusual_end(
    position: int,
    verdict: str,
    detail: Any,
    delay: float = 0.0,
    function: str = "",
    seconds: float = UNKNOWN_SECONDS,
    origin_id: str = "",
    error: str = "",
) -> list[Any]:
    """One of the `others` of `ended`: the form that the node takes apart, made in one place."""
    return [position, verdict, detail, delay, function, seconds, origin_id, error]


def pack_refs(
    batch: int | None, refs: MutableSequence[Any], sent: MutableSequence[Any]
) -> Iterator[tuple[MutableSequence[Any], Any]]:  # fmt: skip
    """Tasks of a batch, or spool files, in groups that each fit into a `run`, as they are and as they are `sent`."""
    if batch is None:
        start = 0
        for files in split_files(sent):
            yield refs[start : start + len(files)], files
            start += len(files)
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


def pack_lengths(seconds: Iterable[float]) -> bytes:
    """Lengths of runs, in seconds, as bytes."""
    return array("f", seconds).tobytes()


def unpack_lengths(data: bytes) -> "array[float]":
    """The lengths in these bytes."""
    return array("f", data)


def unpack_positions(data: bytes) -> "array[int]":
    """The positions in these bytes."""
    positions = array("H")
    positions.frombytes(data)
    return positions
