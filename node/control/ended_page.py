"""A page of the tasks that have ended, as the stories on this node tell, the last ones first."""

import base64
import json
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from spoolnode.node.control.choice import Choice
from spoolnode.node.control.pages import DEFAULT_ROWS, error_of
from spoolnode.node.story.ended import EndedTask, EndPlace, IsWanted

ENDED = "ended"

Read = Callable[[EndPlace | None, int, IsWanted], Awaitable[tuple[list[EndedTask], EndPlace | None]]]
"""See `ended.ends`."""


class WantedEnds(NamedTuple):
    """The ends that a page is to have."""

    choice: Choice = Choice()
    limit: int = DEFAULT_ROWS
    after: EndPlace | None = None

    def has(self, task: EndedTask) -> bool:
        """Whether this one is meant."""
        return self.choice.has_time(task.at) and self.choice.has(task.function, error_of(task.reason), task.reason)


async def ended_page(read: Read, wanted: WantedEnds) -> tuple[list[EndedTask], str | None]:
    """The ends that are wanted, and the cursor of the next page; None if this is the last one."""
    found: list[EndedTask] = []
    after = wanted.after
    while len(found) <= wanted.limit:  # one more tells whether there is another page
        more, after = await read(after, wanted.limit + 1 - len(found), wanted.has)
        found += more
        if after is None:
            break
    page = found[: wanted.limit]
    return page, cursor_at(page[-1].place) if len(found) > len(page) else None


def cursor_at(place: EndPlace) -> str:
    """The place as text, for a URL."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def place_in(cursor: str) -> EndPlace:
    """The reverse. Raises ValueError for anything else."""
    try:
        number, position = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        return EndPlace(int(number), min(max(int(position), 0), 1 << 32))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError("it must be `next` of a page before") from error
