"""The time of a store in NATS."""

import time
from datetime import datetime

REMEASURE = 60.0
"""Seconds after which the time of the servers is measured again."""


class Clock:
    """The time of the store: that of its servers, as their answers tell it."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._doubt = float("inf")
        """How far off that may be, in seconds."""
        self._since = 0.0

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time() + self._ahead

    def heard(self, told: str, asked: float, answered: float) -> None:
        """The server told its time between two times of ours. The quickest answer of a while counts."""
        doubt = (answered - asked) / 2
        if doubt <= self._doubt or not 0 <= asked - self._since < REMEASURE:
            self._ahead = seconds(told) - (asked + answered) / 2
            self._doubt, self._since = doubt, asked


def seconds(told: str) -> float:
    """A time as servers tell it, in seconds since 1970."""
    return datetime.fromisoformat(told).timestamp()
