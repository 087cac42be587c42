"""Descriptors that are kept free, so that a worker can be started when connections hold all others."""

import contextlib
import os
from collections.abc import Iterator

FOR_A_WORKER = 12
"""What the start of one worker takes at its peak: socketpair, memory, pipes, /dev/null, the pipe on which exec fails."""


class Reserve:
    """Descriptors that lead nowhere, given back to the system for a moment."""

    def __init__(self, count: int = FOR_A_WORKER) -> None:
        self._count = count
        self._held: list[int] = []
        self.refill()

    def refill(self) -> None:
        """Takes what is missing, as far as there is any."""
        with contextlib.suppress(OSError):
            while len(self._held) < self._count:
                self._held.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Within it they are free."""
        self.close()
        try:
            yield
        finally:
            self.refill()

    def close(self) -> None:
        """Gives them back."""
        while self._held:
            os.close(self._held.pop())
