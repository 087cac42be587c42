"""The requests of both clients, and the meaning of the answers. No socket here: the package `client` has those.

On a new connection, a client asks with a ping of the extended dialect what is at the other end. A spoolnode answers with
its status, and the connection is shared and kept. A real uWSGI server answers four bytes and closes: it gets one
connection a task, and never a task with a body, because it would drop the body and say "stored".
"""

import os
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple, TypeVar

from spoolnode.errors import NotAllStored, Unanswered, Unreachable
from spoolnode.protocol import names
from spoolnode.protocol.answer import Answer, read_answer, read_copies, read_note
from spoolnode.protocol.errors import BadPacket, BadTask, Reason, Refused, SpoolnodeError
from spoolnode.protocol.packet import ANSWER, EXTENDED, PING, SPOOL_REQUEST, packet
from spoolnode.protocol.values import Encoded, TaskArguments, encode_task
from spoolnode.trace import SOURCES, with_trace

DEFAULT_ADDRESS = "127.0.0.1:3031"
SEND_TIMEOUT = 5.0
"""Seconds that a send may take unless its caller or the environment says otherwise."""
MAX_SEND_TIMEOUT = 86_400.0

LARGE = 128 * 1024
"""A body from this size on, in bytes, gets a connection of its own: small tasks must not wait behind it."""

JOINED = 16 * 1024
"""A body up to this size, in bytes, is joined to its head: one system call and one copy, instead of two calls."""

MAY_BE_STORED = "the task may or may not have been stored"
NOT_STORED = "nothing was stored"

T = TypeVar("T")
Variable = tuple[bytes, bytes]
SocketAddress = tuple[str, int] | str
"""An address as a socket takes it: host and port, or a unix socket's path."""


class Address(NamedTuple):
    """Where a node listens: as it was written, and where to try, one after the other."""

    text: str
    targets: tuple[SocketAddress, ...]
    chosen: bool = True
    """Whether the user has named it."""
    spool: str = ""
    """A spool directory that takes the task as a file while no node listens there."""
    places: "tuple[Address, ...]" = ()
    """Several addresses in one: they are tried in turn."""

    def __str__(self) -> str:
        return self.text

    @property
    def is_alone(self) -> bool:
        """Whether it is one node, with nothing else to try."""
        return not self.places and not self.spool

    @property
    def hint(self) -> str:
        """The end of an error: what to do if nothing listens there."""
        if self.spool:
            return ""
        if self.chosen:
            return ": is a node running there (`spoolnode join`)?"
        return ": start a node with `spoolnode join`, or name another address with SPOOLNODE_VIA, via= or --via"


_UNTOLD = Address(f"{DEFAULT_ADDRESS} or [::1]:3031", (("127.0.0.1", 3031), ("::1", 3031)), chosen=False)
"""The default address: this machine, which may have only one of the two families."""


class Message(NamedTuple):
    """A whole request: header and variables, then the body."""

    head: bytes
    body: bytes = b""

    def pieces(self) -> list[bytes]:
        """The request in the pieces to hand to the kernel."""
        if len(self.body) <= JOINED:
            return [self.head + self.body]
        return [self.head, self.body]


QUESTION = Message(packet(PING, modifier2=EXTENDED))
"""The ping that tells a spoolnode from a real uWSGI server."""


DIRECTORY = "dir:"
"""Begins the address of a spool directory."""
IN_PROCESS = frozenset({"eager:", "memory:"})
"""Addresses of no node, for tests: a task runs at once, or is kept (`spoolnode.testing`)."""


def resolve(via: str | None) -> Address:
    """Where to send: the argument, else the environment's SPOOLNODE_VIA, else port 3031 of this machine.

    Raises:
        BadConfig: it is not an address, or a list of addresses.
    """
    given = via or os.environ.get("SPOOLNODE_VIA")
    return _parse(given) if given else _UNTOLD


@lru_cache(maxsize=256)
def _parse(text: str) -> Address:
    if text in IN_PROCESS:
        return Address(text, ())
    places = tuple(_parse_one(part.strip()) for part in text.split(","))
    if len(places) == 1:
        return places[0]
    return Address(text, tuple(target for place in places for target in place.targets), places=places)


def _parse_one(text: str) -> Address:
    from spoolnode.node.config import parse_address  # its imports cost more than all of ours

    if text.startswith(DIRECTORY):
        return _parse_directory(text)
    return Address(text, (parse_address(text.removeprefix("unix:")),))


def _parse_directory(text: str) -> Address:
    from spoolnode.node.badconfig import BadConfig
    from spoolnode.node.disk.layout import Layout

    directory = text.removeprefix(DIRECTORY)
    if not os.path.isabs(directory):
        raise BadConfig(f"the address {text!r} must name the spool directory by its whole path, like dir:/var/spool/spoolnode")
    return Address(text, (Layout(directory).socket,), spool=directory)


def send_timeout(given: float | None) -> float:
    """Seconds that a send may take: the argument, else the environment's SPOOLNODE_SEND_TIMEOUT, else `SEND_TIMEOUT`.

    Raises:
        BadConfig: it is not such a time.
    """
    if given is None:
        text = os.environ.get("SPOOLNODE_SEND_TIMEOUT")
        return _read_timeout(text) if text else SEND_TIMEOUT
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given <= MAX_SEND_TIMEOUT:
        raise _bad_timeout("`send_timeout`", given)
    return float(given)


@lru_cache(maxsize=16)
def _read_timeout(text: str) -> float:
    from spoolnode.node.duration import read_duration  # only if it is set

    try:
        seconds = read_duration(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MAX_SEND_TIMEOUT:
        raise _bad_timeout("SPOOLNODE_SEND_TIMEOUT", text)
    return seconds


def _bad_timeout(name: str, value: object) -> Exception:
    from spoolnode.node.badconfig import BadConfig

    right = f"seconds, more than 0 and at most {MAX_SEND_TIMEOUT:.0f}"
    return BadConfig(f"{name} is {value!r}; it must be {right}")


def message(encoded: Encoded) -> Message:
    """The request that carries an encoded task."""
    block = with_trace(encoded.block) if SOURCES else encoded.block
    return Message(packet(SPOOL_REQUEST, block, modifier2=EXTENDED), encoded.body)


def task_message(task: TaskArguments, node: str | None, extra: Iterable[Variable] = ()) -> Message:
    """The request that carries a task to a destination. Raises `BadTask` if one of them is invalid."""
    return message(encode_task(task, [*destination(node), *extra]))


def messages(items: Iterable[T], make: Callable[[T], Message]) -> Iterator[Message]:
    """The requests that carry many tasks. Raises `BadTask`, which names the item that cannot travel by its position."""
    for number, item in enumerate(items):
        try:
            yield make(item)
        except BadTask as error:
            raise BadTask(f"number {number}, counted from 0: {error}") from error


def destination(node: str | None) -> list[Variable]:
    """The variable that names the destination; empty for the node that is asked. Raises `BadTask` if it is invalid."""
    if node is None:
        return []
    if not isinstance(node, str) or not names.is_destination(node):
        raise BadTask(f"node= is {node!r}; it must be {names.right_destination(str(node))}")
    return [(names.NODE, node.encode("ascii"))]


def is_refusal(answer: Answer) -> bool:
    """Whether a task was refused: some refusals are the last answer on a connection."""
    return answer[0] == ANSWER and answer[1] == 0


def refusal_reason(answer: Answer) -> Reason | None:
    """Why a node refused a task; None if it took it, or says no reason."""
    if not is_refusal(answer) or not answer[2]:
        return None
    try:
        read_answer(*answer[1:])
    except Refused as refusal:
        return refusal.reason
    except BadPacket:
        return None
    return None


def is_spoolnode(answer: Answer) -> bool:
    """Whether this answer to `QUESTION` came from a node that speaks the extended dialect."""
    modifier1, _, block = answer
    return modifier1 == PING and bool(block)


def body_would_be_dropped(address: Address) -> BadTask:
    """The error for a task with a body that its receiver would drop."""
    return BadTask(
        f"{address}: this is not a spoolnode but a uWSGI server, which drops the `body` of a task; {NOT_STORED}: "
        "put the data into variables, or send it to a spoolnode"
    )


def task_id(address: Address, answer: Answer) -> str:
    """The id in an answer; empty from a real uWSGI server.

    Raises:
        Refused: the node declined, with its address and reason.
        Unanswered: this is not an answer to a task.
    """
    modifier1, modifier2, block = answer
    if modifier1 != ANSWER:
        raise Unanswered(f"{address}: answered the task with modifier1 {modifier1}; {MAY_BE_STORED}")
    if not block:
        if modifier2 == 1:
            return ""
        raise Refused(Reason.MALFORMED, f"{address}: refused the task without a reason, as uWSGI does; {NOT_STORED}")
    try:
        return read_answer(modifier2, block)
    except Refused as refusal:
        raise Refused(refusal.reason, f"{address}: refused the task: {refusal.text}; {NOT_STORED}") from None
    except BadPacket as error:
        raise Unanswered(f"{address}: {error}; {MAY_BE_STORED}") from error


def task_ids(address: Address, results: Iterable[Answer | SpoolnodeError]) -> list[str]:
    """The ids in the answers to many tasks, in order.

    Raises:
        Unreachable: none was sent whole, so nothing was stored.
        NotAllStored: some were not stored, or may not have been.
    """
    outcomes = [_outcome(address, result) for result in results]
    ids = [outcome for outcome in outcomes if isinstance(outcome, str)]
    if len(ids) < len(outcomes):
        if isinstance(first := outcomes[0], Unreachable) and all(isinstance(outcome, Unreachable) for outcome in outcomes):
            raise first
        raise NotAllStored(outcomes)
    return ids


def _outcome(address: Address, result: Answer | SpoolnodeError) -> str | SpoolnodeError:
    if isinstance(result, SpoolnodeError):
        return result
    try:
        identity = task_id(address, result)
    except (Refused, Unanswered) as error:
        return error
    tell(result)
    return identity


def tell(answer: Answer) -> None:
    """Logs the note of a node about a task that it has stored (logger `spoolnode`)."""
    if text := note(answer):
        import logging  # rarely needed, and not cheap

        logging.getLogger("spoolnode").warning(text)


def note(answer: Answer) -> str:
    """The note of a node about a task that it has stored: its destination is unknown. Usually empty."""
    block = answer[2]
    return read_note(block) if names.NOTE in block else ""


def copies(answer: Answer) -> int:
    """How many copies of the task were stored, from a good answer."""
    return read_copies(answer[2]) if answer[2] else 1
