"""Lists of tasks in pages. A cursor is a place in the order of tasks, not a number of rows, so it stays right while others come
and go. Blocks; works with and without a running node.
"""

import base64
import json
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

from spoolnode.node.commons import COMMONS, HELD, place_in_store
from spoolnode.node.control.choice import Choice
from spoolnode.node.spool import inspect
from spoolnode.node.spool.inspect import DEAD, LATER, OUTBOX, WAITING_STATE, Info, Order
from spoolnode.node.spool.reader import Reader
from spoolnode.protocol import names
from spoolnode.protocol.cancel import is_cancelled
from spoolnode.protocol.errors import BadPacket
from spoolnode.protocol.forward import UNDELIVERED
from spoolnode.protocol.packet import decode_variables

RUNNING, RETRYING = "running", "retrying"
"""Tasks that are retrying wait, ready or for their time, and were tried before."""
HERE = (RUNNING, WAITING_STATE, LATER, HELD)
"""The states of tasks that wait for workers, or are with them: listed if no state is asked for. Only a store holds some."""
STATES = (*HERE, RETRYING, DEAD, OUTBOX)
DEFAULT_ROWS = 100
MOST_ROWS = 100_000
"""Tasks of one page."""
_CLASS = re.compile(r"((?:\w+\.)*[A-Z]\w*)(?::|$)")
"""The name of an exception at the beginning of its text."""
_UNDELIVERED = UNDELIVERED.decode()
CANCELLED = "cancelled"
"""In place of an error."""


class Cursor(NamedTuple):
    """Where a page ends."""

    now: float
    """When the first page was made. Later ones order by that, too, or a task that becomes due would change its place."""
    last: Order
    """The place of its last task."""

    def encode(self) -> str:
        """It as text, for a URL."""
        return base64.urlsafe_b64encode(json.dumps([self.now, *self.last]).encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> "Cursor":
        """The reverse. Raises ValueError for anything else."""
        try:
            now, is_later, rank, when, identity = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
            return cls(float(now), Order(bool(is_later), int(rank), float(when), str(identity)))
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError("it must be `next` of a page before") from error


class Wanted(NamedTuple):
    """The tasks that a page is to have."""

    states: Sequence[str] = HERE
    choice: Choice = Choice()
    limit: int = DEFAULT_ROWS
    cursor: Cursor | None = None
    place: Any = None
    """The place in the common store where the page begins (see `store_pages`); None: on the disk of this node."""


class Listed(NamedTuple):
    """A task of a page."""

    info: Info
    function: str
    reason: str
    """The first line of why it died."""


class Page(NamedTuple):
    """A part of a list."""

    items: list[Listed]
    next: str | None
    """The cursor of the next page; None if this is the last one."""
    missing: str = ""
    """Why tasks are missing; empty if none is."""


def page(
    reader: Reader, wanted: Wanted, now: float, running: Container[str] = (), has_failed: Callable[[Info], bool] | None = None,
    held: Sequence[str] = (),
) -> Page:  # fmt: skip
    """The first tasks that are wanted, after the cursor.

    Args:
        running: the ids of those that run.
        has_failed: whether a task that waits has failed before; None: its file says so.
        held: the spots of those of the common store that this node holds.
    """
    cursor = wanted.cursor
    now, after = cursor or (now, None)
    items: list[Listed] = []
    last = None
    tried = has_failed or partial(_was_tried, reader)
    for count, (place, listed) in enumerate(_matching(reader, wanted, now, after, running, tried, held)):
        if count == wanted.limit and last is not None:
            return Page(items, Cursor(now, last).encode())
        last = place
        if listed is not None:
            items.append(listed)
    return Page(items, None)


def _matching(
    reader: Reader, wanted: Wanted, now: float, after: Order | None, running: Container[str], tried: Callable[[Info], bool],
    held: Sequence[str],
) -> Iterator[tuple[Order, Listed | None]]:  # fmt: skip
    """The tasks that are wanted, in order, with their places in it; None for one that has gone meanwhile."""
    looks_inside = wanted.choice.is_about_contents()
    most = 0 if wanted.choice.is_narrow() or RETRYING in wanted.states else wanted.limit + 1
    found = (
        info
        for info in _candidates(reader, wanted, now, after, most, held)
        if _is_in(wanted.states, _state(info, running))
        and (after is None or inspect.order(info) > after)
        and (info.state != DEAD or wanted.choice.has_time(info.changed))
    )
    for info in inspect.in_order(found, most):
        if _state(info, running) not in wanted.states and not tried(info):
            continue
        listed = _look_inside(reader, info)
        if not looks_inside or (listed is not None and _is_wanted(listed, wanted)):
            yield inspect.order(info), listed


def _state(info: Info, running: Container[str]) -> str:
    """The state of a task. What is in dead/ is dead, also in the moment before its worker is noted as free."""
    return RUNNING if info.id in running and info.state != DEAD else info.state


def _is_in(states: Sequence[str], state: str) -> bool:
    """Whether tasks of that state may be wanted."""
    return state in states or (RETRYING in states and state in (WAITING_STATE, LATER))


def _was_tried(reader: Reader, info: Info) -> bool:
    read = inspect.with_attempts(reader, info)
    return read is not None and read.attempts > 0


def _candidates(
    reader: Reader, wanted: Wanted, now: float, after: Order | None, most: int, held: Sequence[str]
) -> Iterator[Info]:
    """All tasks in the places where those of these states are."""
    states = set(wanted.states)
    lists = []
    if states & {RUNNING, WAITING_STATE, LATER, RETRYING}:
        lists += [inspect.held_tasks(reader, held, now), inspect.waiting_tasks(reader, now)]
    if DEAD in states:
        alone = states == {DEAD}  # then the first few of many thousands are chosen before more is done with them
        lists.append(inspect.dead_tasks(reader, now, most if alone else 0, after if alone else None))
    if OUTBOX in states:
        lists.append(inspect.outbox_tasks(reader, now))
    return chain.from_iterable(lists)


def _look_inside(reader: Reader, info: Info) -> Listed | None:
    """A task with what its variables say; None if it has gone, or we may not read it."""
    read = inspect.with_attempts(reader, info)
    if read is None:
        return None
    block = variables_of(reader, read)
    return Listed(
        as_in_the_store(read, block),
        names.function_named(block).decode("utf-8", "replace"),
        reason_of(block) if info.state == DEAD else "",
    )


def as_in_the_store(info: Info, block: Mapping[bytes, bytes]) -> Info:
    """A task that waits for the store: with the id that its sender was told, and the destination that it will have there.

    Any other task as it is.
    """
    if info.destination != COMMONS:
        return info
    identity = block.get(names.ID, info.id.encode()).decode("ascii", "replace")
    return info._replace(id=identity, destination=place_in_store(block, "all"))


def _is_wanted(listed: Listed, wanted: Wanted) -> bool:
    return wanted.choice.has(listed.function, error_of(listed.reason), listed.reason)


def variables_of(reader: Reader, info: Info) -> dict[bytes, bytes]:
    """The variables of a task, and the reason if it is dead. Empty if they cannot be read."""
    try:
        block = dict(decode_variables(reader.block_at(inspect.place_of(reader, info))))
    except (OSError, BadPacket):
        return {}
    return with_reason(reader, info.where, block) if info.state == DEAD else block


def with_reason(reader: Reader, where: str, block: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """The variables of a dead task, with its reason if that is in a file of its own."""
    return block if names.REASON in block else block | dict(reader.reason_beside(where))


def reason_of(block: dict[bytes, bytes]) -> str:
    """The first line of the reason why a dead task was given up."""
    first = block.get(names.REASON, b"").partition(b"\n")[0]  # the rest, a traceback, is longer
    return first_line(first.decode("utf-8", "replace"))


def first_line(text: str) -> str:
    """The first line of a reason."""
    lines = text.partition("\n")[0].splitlines()
    return lines[0] if lines else ""


def error_of(reason: str) -> str:
    """The kind of that reason: the class of an exception, `cancelled`, `undelivered`, or empty for any other."""
    if is_cancelled(reason):
        return CANCELLED
    if reason.startswith(_UNDELIVERED):
        return "undelivered"
    found = _CLASS.match(reason)
    return found[1] if found else ""
