"""The nodes that are there, as a common store knows them: each signs in again and again, and is told of the others.

An entry holds for a time. A node that dies is named no more after that.
"""

from abc import ABC, abstractmethod

MOST_SAID = 4096
"""Bytes of the longest entry."""


class Roll(ABC):
    """The list of them. Both verbs may raise `StoreAway` and `StoreUnfit`, and are safe to repeat."""

    @abstractmethod
    async def sign_in(self, node: str, said: bytes, seconds: float) -> dict[str, bytes]:
        """Writes that a node is there, in place of its earlier entry. Returns the entries of the others, by id.

        It is asked every few seconds, so it is one request or two, and the tasks in the store do not matter for it.

        Args:
            node: its id.
            said: its entry, at most `MOST_SAID` bytes. Only nodes read it.
            seconds: the time for which it holds.
        """

    @abstractmethod
    async def sign_out(self, node: str) -> None:
        """Takes the entry of a node away."""
