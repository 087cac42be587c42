"""Descriptors that are kept free, so that a worker can be replaced when connections hold all others."""

import contextlib
import os
from collections.abc import Iterator

TO_START = 12
"""What the start of a worker takes at its peak: socketpair, memory, pipes, /dev/null, the pipe on which exec fails."""
TO_REPLACE = 8
"""What has to be kept for that: the rest is what the worker held that is replaced."""


class Reserve:
    """Descriptors that lead nowhere, given back to the system for a moment."""

    def __init__(self) -> None:
        self._held: list[int] = []
        self._fill(TO_REPLACE)

    def take_over(self) -> None:
        """A worker has ended: keeps what it held, before anybody else takes that."""
        self._fill(TO_START)

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Within it they are free."""
        while self._held:
            os.close(self._held.pop())
        try:
            yield
        finally:
            self._fill(TO_REPLACE)

    def _fill(self, count: int) -> None:
        with contextlib.suppress(OSError):  # there are no more; those that end will be taken over
            while len(self._held) < count:
                self._held.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
