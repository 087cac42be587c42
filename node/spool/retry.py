"""Decides when to try again, and when to give up. Pure: the randomness is passed in."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with jitter (each pause is drawn from the upper half of its range, so it is never zero)."""

    max_attempts: int = 20
    """Attempts after which a task is given up; 0 means never."""
    base: float = 1.0
    """The longest pause after the first failed attempt, in seconds."""
    longest: float = 3600.0
    """The longest pause of all, in seconds."""

    def gives_up(self, attempts: int) -> bool:
        """Whether a task that failed `attempts` times is given up."""
        return 0 < self.max_attempts <= attempts

    def pause(self, attempts: int, rng: random.Random) -> float:
        """Seconds to wait after `attempts` failed attempts."""
        bound = min(self.longest, self.base * 2.0 ** (max(attempts, 1) - 1))
        return bound * (0.5 + 0.5 * rng.random())
