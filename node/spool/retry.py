"""Decides when to try again, and when to give up. Pure: the randomness is passed in."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from spoolnode.node.outcome import Ending, Outcome
from spoolnode.protocol import names
from spoolnode.protocol.errors import BadPacket, Refused
from spoolnode.protocol.packet import decode_variables

if TYPE_CHECKING:
    import random

MOST_DOUBLINGS = 64
"""A pause doubles at most so often: it has long reached its bound."""


class NextRun(NamedTuple):
    """Whether and when a task runs again whose run did not end well."""

    attempts: int
    """The attempts that count from now on."""
    pause: float | None
    """Seconds until it runs again; None if it is given up."""


class RetryPolicy(NamedTuple):
    """Exponential backoff with jitter (each pause is drawn from the upper half of its range, so it is never zero)."""

    max_attempts: int = 20
    """Attempts after which a task is given up; 0 means never."""
    base: float = 1.0
    """The longest pause after the first failed attempt, in seconds."""
    longest: float = 3600.0
    """The longest pause of all, in seconds."""

    def of_task(self, block: bytes) -> "RetryPolicy":
        """This policy, with what the task with these variables says itself. What makes no sense in them is passed over."""
        if names.RETRY not in block:  # most say nothing, and need not be decoded to know that
            return self
        try:
            most, base, longest = names.read_retry(dict(decode_variables(block))[names.RETRY])
        except (BadPacket, KeyError, Refused):
            return self
        return RetryPolicy(
            self.max_attempts if most is None else most,
            self.base if base is None else base,
            self.longest if longest is None else longest,
        )

    def after(
        self, outcome: Outcome, attempts: int, rounds: int, of_task: Callable[[], "RetryPolicy"], rng: "random.Random"
    ) -> NextRun:
        """Decides whether and when a task runs again that did not end well.

        Args:
            outcome: how it ended.
            attempts: those that count, this one included.
            rounds: how many times in a row it asked to be called again (`Ending.RETRY`).
            of_task: returns the policy of the task, which counts when it has failed; this one is the node's.
            rng: for the jitter of pauses.
        """
        kind = outcome.kind
        if kind is Ending.RETRY:
            return NextRun(0, min(self.pause(rounds, rng), outcome.delay))
        if kind is Ending.AGAIN:
            return NextRun(0, outcome.delay)
        if kind is Ending.RETRY_UNCOUNTED:
            return NextRun(max(attempts - 1, 0), outcome.delay)
        if kind in (Ending.GIVE_UP, Ending.CANCELLED) or (policy := of_task()).gives_up(attempts):
            return NextRun(attempts, None)
        return NextRun(attempts, outcome.delay if kind is Ending.RETRY_AFTER else policy.pause(attempts, rng))

    def gives_up(self, attempts: int) -> bool:
        """Whether a task that failed `attempts` times is given up."""
        return 0 < self.max_attempts <= attempts

    def pause(self, attempts: int, rng: "random.Random") -> float:
        """Seconds to wait after `attempts` failed attempts."""
        bound = min(self.longest, self.base * 2.0 ** min(max(attempts, 1) - 1, MOST_DOUBLINGS))
        return bound * (0.5 + 0.5 * rng.random())
