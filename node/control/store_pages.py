"""Lists of tasks in the common store, behind those on the disk of this node: page by page, each at the same cost."""

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Container
from typing import NamedTuple

from spoolnode.node.commons import DEAD, HELD, LATER, READY, CommonPage, CommonTask, CommonTasks
from spoolnode.node.control.choice import Choice
from spoolnode.node.control.pages import RETRYING, Listed, Page, Wanted, error_of, first_line
from spoolnode.node.control.resources import IN_STORE
from spoolnode.node.spool import inspect
from spoolnode.node.spool.inspect import Info
from spoolnode.protocol import names
from spoolnode.protocol.errors import BadPacket
from spoolnode.protocol.packet import decode_variables

STATES = {READY: inspect.WAITING_STATE, LATER: inspect.LATER, HELD: HELD, DEAD: inspect.DEAD}
"""The states of tasks, as this node calls them, in the order of a list."""
AT_ONCE = 500
"""Tasks that the store is asked for at a time."""
MOST_LOOKS = 20
"""How often it is asked for one page: of many tasks perhaps none is wanted, and the next page goes on."""
_MARK = "store."
"""The beginning of a cursor."""
_SEAL = secrets.token_bytes(16)
"""Seals the cursors of this process: engines trust theirs."""


class StorePlace(NamedTuple):
    """Where a page ends, or begins."""

    state: str
    """Of the tasks in the store."""
    after: str
    """The cursor of the store; empty: from the beginning."""

    def encode(self) -> str:
        """It as text, for a URL."""
        said = base64.urlsafe_b64encode(json.dumps(self).encode()).decode().rstrip("=")
        return f"{_MARK}{said}.{_sealed(said)}"

    @classmethod
    def decode(cls, text: str) -> "StorePlace | None":
        """The reverse; None if it is a place on the disk. Raises ValueError for one that is not of this process."""
        if not text.startswith(_MARK):
            return None
        said, _, seal = text.removeprefix(_MARK).partition(".")
        if not hmac.compare_digest(seal.encode(), _sealed(said).encode()):
            raise ValueError("it must be `next` of a page before, from this start of the node")
        return cls(*json.loads(base64.urlsafe_b64decode(said + "=" * (-len(said) % 4))))


def _sealed(said: str) -> str:
    return hmac.new(_SEAL, said.encode(), hashlib.sha256).hexdigest()[:16]


async def stored_page(tasks: CommonTasks, wanted: Wanted, items: list[Listed], here: Container[str]) -> Page:
    """The first tasks of the store that are wanted, behind those on the disk. Raises `CommonsAway`.

    Args:
        items: the last ones from the disk.
        here: the ids of those that this node holds, which are listed with those on its disk.
    """
    states = [state for state in STATES if _is_asked(state, wanted)]
    begin = wanted.place or StorePlace(states[0] if states else "", "")
    looks = 0
    for state in states[states.index(begin.state) :] if begin.state in states else ():
        after, is_first = (begin.after if state == begin.state else ""), True
        while is_first or after:
            if looks == MOST_LOOKS or len(items) >= wanted.limit:
                return Page(items, StorePlace(state, after).encode())
            found = await tasks.list(state, min(AT_ONCE, wanted.limit - len(items)), after)
            items += [row for row in await asyncio.to_thread(_rows, found) if _is_wanted(row, state, wanted, here)]
            after, is_first, looks = found.next, False, looks + 1
    return Page(items, None)


def _is_asked(state: str, wanted: Wanted) -> bool:
    """Whether tasks of the store in that state may be wanted. One that waits for another attempt is due later."""
    return STATES[state] in wanted.states or (state == LATER and RETRYING in wanted.states)


def _is_wanted(row: Listed, state: str, wanted: Wanted, here: Container[str]) -> bool:
    if state == HELD and row.info.id in here:
        return False
    if STATES[state] not in wanted.states and not row.info.attempts:
        return False
    return is_chosen(row, wanted.choice)


def is_chosen(row: Listed, choice: Choice) -> bool:
    """Whether a task is meant."""
    is_then = row.info.state != inspect.DEAD or choice.has_time(row.info.changed)
    return is_then and choice.has(row.function, error_of(row.reason), row.reason)


def _rows(found: CommonPage) -> list[Listed]:
    return [listed(task) for task in found.tasks]


def listed(found: CommonTask) -> Listed:
    """A task of the store in a list."""
    return Listed(info_of(found), function_of(found), first_line(found.reason))


def function_of(found: CommonTask) -> str:
    """The function of a task; empty if it names none, or cannot be read."""
    try:
        return names.function_named(dict(decode_variables(found.block))).decode("utf-8", "replace")
    except BadPacket:
        return ""


def info_of(found: CommonTask) -> Info:
    """The facts about a task."""
    priority = None if found.rank == names.LAST else found.rank
    due = (found.due or None) if found.state == LATER else None
    return Info(
        found.id, STATES[found.state], priority, due, found.attempts, found.accepted, found.finished or found.accepted,
        found.size + len(found.block), IN_STORE, found.to,
    )  # fmt: skip
