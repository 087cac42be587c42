"""Shares the turns of the event loop: one read may bring thousands of requests while other connections wait.

Work that does not fit into this turn goes on in the next one, in the order in which it was put off.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable

TURN_SECONDS = 0.005
"""How long the requests of all connections together may keep the loop in one turn."""


class Turns:
    """The turns of one loop."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or time.monotonic  # not as the default of the argument: a simulation has a clock of its own
        self._end = 0.0
        """When the time of this turn is over."""
        self._has_begun = False
        """Whether work has been done in this turn."""
        self._put_off: deque[Callable[[], None]] = deque()

    def __repr__(self) -> str:
        return f"<turns, {len(self._put_off)} put off>"

    @property
    def is_over(self) -> bool:
        """Whether further work must be put off. The first caller in a turn always has time."""
        now = self._clock()
        if not self._has_begun:
            self._begin(now)
        return now >= self._end

    def put_off(self, work: Callable[[], None]) -> None:
        """Calls `work` in a later turn, after all work that was put off before."""
        self._put_off.append(work)
        if not self._has_begun:
            self._begin(self._clock())

    def _begin(self, now: float) -> None:
        self._has_begun = True
        self._end = now + TURN_SECONDS
        asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self._has_begun = False
        for _ in range(len(self._put_off)):
            if self.is_over:
                break
            self._put_off.popleft()()


class Gate:
    """Lets a few coroutines through in each turn, in their order of arrival, because each has long work to do next."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._left = at_once
        self._is_set = False
        """Whether the next turn lets others through."""
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def passed(self) -> None:
        """Returns in a turn that has room for one more."""
        if not self._is_set:
            self._is_set = True
            asyncio.get_running_loop().call_soon(self._next)
        if self._left and not self._waiting:
            self._left -= 1
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def _next(self) -> None:
        self._left, self._is_set = self._at_once, bool(self._waiting)
        while self._waiting and self._left:
            future = self._waiting.popleft()
            if not future.done():  # it may have been cancelled
                self._left -= 1
                future.set_result(None)
        if self._is_set:
            asyncio.get_running_loop().call_soon(self._next)
