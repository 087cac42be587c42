"""How quickly counters rise: over the last minute, or the part of it that is known. Pure: the time is passed in."""

from collections import deque
from dataclasses import dataclass, field

WINDOW = 60.0
"""Seconds over which a rate is taken."""


@dataclass(slots=True)
class Rates:
    """Samples of some counters, oldest first."""

    _samples: deque[tuple[float, dict[str, float]]] = field(default_factory=deque)

    def sample(self, now: float, counters: dict[str, float]) -> None:
        """Notes the counters; called from time to time. `now` is monotonic, in seconds."""
        self._samples.append((now, counters))
        while len(self._samples) > 1 and self._samples[1][0] <= now - WINDOW:
            self._samples.popleft()

    def per_second(self, now: float, counters: dict[str, float]) -> dict[str, float]:
        """The rates up to now."""
        if not self._samples or now <= self._samples[0][0]:
            return dict.fromkeys(counters, 0.0)
        since, before = self._samples[0]
        return {name: round((count - before.get(name, 0)) / (now - since), 3) for name, count in counters.items()}
