"""Writes the log beside everything else: whatever its reader does, no caller waits or fails.

Lines go into a buffer of bounded size, and a thread writes them. Lines that do not fit (the pipe is not read), or that
the descriptor does not take (the disk is full, the reader is gone), are dropped and counted. The count is logged as soon as a
line can be written again.
"""

import os
import select
import threading
from collections import deque
from collections.abc import Callable

BUFFER_BYTES = 1 << 20
"""Bytes of lines that may wait to be written."""


class LineWriter:
    """Writes lines to a descriptor in a thread of its own."""

    def __init__(self, descriptor: int, dropped_line: Callable[[int], bytes], most: int = BUFFER_BYTES) -> None:
        """
        Args:
            dropped_line: makes the line about dropped lines from their number.
            most: bytes that may wait.
        """
        self._descriptor = descriptor
        self._dropped_line = dropped_line
        self._most = most
        self._lines: deque[bytes] = deque()
        self._held = 0
        """Bytes that wait or are just being written."""
        self._unsaid = 0
        """Lines dropped since their number was last logged."""
        self.dropped = 0
        """Lines dropped since the start."""
        self._is_torn = False
        """Whether a line was written in part; then the next one begins on a new line."""
        self._changed = threading.Condition()
        threading.Thread(target=self._work, name="log", daemon=True).start()

    def put(self, line: bytes) -> None:
        """Takes one line, which ends with a newline. Never waits for its reader, never fails."""
        with self._changed:
            if self._held + len(line) > self._most:
                self._drop(1)
                return
            self._lines.append(line)
            self._held += len(line)
            self._changed.notify_all()

    def flush(self, seconds: float) -> bool:
        """Returns when everything is written or dropped, or after `seconds`. Returns whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._held, seconds)

    def _drop(self, lines: int) -> None:
        self._unsaid += lines
        self.dropped += lines

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                data = b"".join(self._lines)
                self._lines.clear()
                unsaid, self._unsaid = self._unsaid, 0
            said = not unsaid or self._write(self._dropped_line(unsaid)) is None
            left = self._write(data) if said else data
            with self._changed:
                self._held -= len(data)
                if not said:
                    self._unsaid += unsaid
                if left:
                    self._drop(left.count(b"\n"))
                self._changed.notify_all()

    def _write(self, data: bytes) -> bytes | None:
        """Writes all of it. Returns what the descriptor did not take, else None."""
        left = data
        while left:
            try:
                if self._is_torn:
                    os.write(self._descriptor, b"\n")
                    self._is_torn = False
                left = left[os.write(self._descriptor, left[: 64 << 10]) :]
            except BlockingIOError:  # a process that shares it has made it non-blocking
                select.select([], [self._descriptor], [])
            except OSError:
                written = len(data) - len(left)
                self._is_torn |= written > 0 and data[written - 1 : written] != b"\n"
                return left  # counted; the next lines may succeed
        return None
