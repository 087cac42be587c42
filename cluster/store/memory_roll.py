"""The nodes that are there, in a store in memory."""

from collections.abc import Callable

from spoolnode.cluster.store.roll import Roll


class MemoryRoll(Roll):
    """`now` is the time of the store; `ask` and `answer` may raise `StoreAway`, before and after something was done."""

    def __init__(self, now: Callable[[], float], ask: Callable[[], None], answer: Callable[[], None]) -> None:
        self._now, self._ask, self._answer = now, ask, answer
        self._entries: dict[str, tuple[bytes, float]] = {}

    async def sign_in(self, node: str, said: bytes, seconds: float) -> dict[str, bytes]:
        self._ask()
        self._entries[node] = said, self._now() + seconds
        there = {other: told for other, (told, until) in self._entries.items() if other != node and until > self._now()}
        self._answer()
        return there

    async def sign_out(self, node: str) -> None:
        self._ask()
        self._entries.pop(node, None)
        self._answer()
