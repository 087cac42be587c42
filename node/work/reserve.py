"""Keeps descriptors free, so that a worker can be replaced even if connections hold all others."""

import contextlib
import os
from collections.abc import Iterator

TO_START = 12
"""Most descriptors that the start of a worker takes: socketpair, memory, pipes, /dev/null, the pipe that tells of exec."""
TO_REPLACE = 8
"""Descriptors that are kept for that; the rest are those of the worker that is replaced."""


class Reserve:
    """Descriptors that lead nowhere, and are freed for a moment when they are needed."""

    def __init__(self) -> None:
        self._held: list[int] = []
        self._fill(TO_REPLACE)

    def take_over(self) -> None:
        """Takes the descriptors of a worker that has ended, before they are used otherwise."""
        self._fill(TO_START)

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Frees them for the code within."""
        while self._held:
            os.close(self._held.pop())
        try:
            yield
        finally:
            self._fill(TO_REPLACE)

    def _fill(self, count: int) -> None:
        with contextlib.suppress(OSError):  # none are free; those of workers that end will be taken over
            while len(self._held) < count:
                self._held.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
