"""Reads what requests to `/api/v1` say in their paths and queries; what makes no sense is a 400 with a sentence."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Protocol, TypeVar

from aiohttp import web
from multidict import MultiMapping

from spoolnode.node.control import ages
from spoolnode.node.control.choice import Choice
from spoolnode.node.control.dead_kinds import BY, MOST_AT_ONCE
from spoolnode.node.control.ended_page import ENDED, WantedEnds, place_in
from spoolnode.node.control.pages import DEFAULT_ROWS, HERE, MOST_ROWS, STATES, Cursor, Wanted
from spoolnode.node.control.store_pages import StorePlace
from spoolnode.protocol.names import SPOOL_PREFIX, is_task_id

T = TypeVar("T")

LONGEST_WAIT = 86400.0
"""The longest wait that a request may ask for, in seconds."""
asked_by: ContextVar[str] = ContextVar("asked_by")
"""The sender of the request that is being handled, for the log and for reasons."""


class Asked(Protocol):
    """A request as its handler sees it: one of aiohttp, or one that another node has passed on."""

    @property
    def match_info(self) -> Mapping[str, str]:
        """The parts of its path that differ."""

    @property
    def query(self) -> MultiMapping[str]:
        """Its parameters."""


def task_of(request: Asked) -> str:
    """The id of a task."""
    identity = request.match_info["id"].removeprefix(SPOOL_PREFIX)
    if not is_task_id(identity):
        raise web.HTTPBadRequest(text=f"{identity[:80]!r} is not a task id")
    return identity


def seconds_of(request: Asked, name: str, default: float) -> float:
    """A length of time, brought within what is allowed."""
    seconds = _number_of(request, name, "a number of seconds") if name in request.query else default
    return min(max(seconds, 0.0), LONGEST_WAIT)


def _number_of(request: Asked, name: str, what: str) -> float:
    text = request.query[name]
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise web.HTTPBadRequest(text=f"{name} is {text[:80]!r}; it must be {what}")
    return number


def wanted_of(request: Asked) -> Wanted:
    """The tasks that a page is to have."""
    query = request.query
    states = tuple(query["state"].split(",")) if "state" in query else HERE
    if ENDED in states:
        raise web.HTTPBadRequest(
            text=f"state is {query['state'][:80]!r}; {ENDED} stands alone: its tasks have an order of their own"
        )
    if wrong := [state for state in states if state not in STATES]:
        raise web.HTTPBadRequest(text=f"state has {wrong[0][:80]!r}; each must be one of {', '.join(STATES)}, or {ENDED} alone")
    limit = _limit_of(request, DEFAULT_ROWS, MOST_ROWS)
    place = _cursor_of(request, StorePlace.decode)
    return Wanted(states, choice_of(request), limit, None if place else _cursor_of(request, Cursor.decode), place)


def begin_of(request: Asked) -> StorePlace | None:
    """The place in the common store where an action goes on; None: it begins, on the disk."""
    place = _cursor_of(request, StorePlace.decode)
    if place is None and "cursor" in request.query:
        raise web.HTTPBadRequest(text=f"cursor is {request.query['cursor'][:80]!r}; it must be `next` of the answer before")
    return place


def ends_of(request: Asked) -> WantedEnds | None:
    """The ends that a page is to have; None if other tasks are asked for."""
    if request.query.get("state") != ENDED:
        return None
    return WantedEnds(choice_of(request), _limit_of(request, DEFAULT_ROWS, MOST_ROWS), _cursor_of(request, place_in))


def _cursor_of(request: Asked, decode: Callable[[str], T]) -> T | None:
    """The place where the page before ended."""
    text = request.query.get("cursor")
    try:
        return None if text is None else decode(text)
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"cursor is {text[:80]!r}; {error}") from None  # type: ignore[index]  # there is a text


def choice_of(request: Asked) -> Choice:
    """The tasks that are meant."""
    query = request.query
    since_at, until_at = (
        _number_of(request, name, "a moment in seconds since 1970") if name in query else None
        for name in ("since_at", "until_at")
    )
    return Choice(query.get("function"), query.get("error"), query.get("reason"), since_at, until_at)


def by_of(request: Asked) -> str:
    """The facts that the dead tasks of a group share."""
    return _one_of(request, "by", list(BY))


def ages_by_of(request: Asked) -> str:
    """The fact that the waiting tasks of a group share."""
    return _one_of(request, "by", ages.BY)


def _one_of(request: Asked, name: str, allowed: Sequence[str]) -> str:
    """A word out of these; the first one if none is given."""
    word = request.query.get(name, allowed[0])
    if word not in allowed:
        raise web.HTTPBadRequest(text=f"{name} is {word[:80]!r}; it must be one of {', '.join(allowed)}")
    return word


def part_of(request: Asked) -> int | None:
    """The most tasks to act on; None if it is all."""
    return _limit_of(request, 1, MOST_AT_ONCE) if "limit" in request.query else None


def _limit_of(request: Asked, default: int, most: int) -> int:
    limit = request.query.get("limit", f"{default}")
    if not (limit.isascii() and limit.isdecimal() and len(limit) < 10 and 1 <= int(limit) <= most):
        raise web.HTTPBadRequest(text=f"limit is {limit[:80]!r}; it must be a number from 1 to {most}")
    return int(limit)
