"""The output of tasks, line by line, with the task that printed it."""

import codecs
import contextlib
import io
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from spoolnode.node.work import current
from spoolnode.node.work.messages import MAX_TEXT

rest: dict[tuple[str, str], str] = {}
"""Printed text without a line end yet, by stream and task."""
cut: dict[tuple[str, str], bytes] = {}
"""The beginning of a character whose end was not written to `buffer` yet, by stream and task."""


class TaskOutput(io.TextIOBase):
    """Stands in for sys.stdout or sys.stderr in a worker: whole lines go to `emit(task, stream, text)`.

    Output of C code and child processes on descriptors 1 and 2 does not pass here; the node reads that itself.
    """

    def __init__(self, stream: str, descriptor: int, emit: Callable[[str, str, str], None]) -> None:
        self._stream = stream
        self._descriptor = descriptor
        self._emit = emit
        self._lock = threading.Lock()
        self.name = f"<{stream}>"
        self.mode = "w"
        self.buffer: io.BufferedIOBase | io.RawIOBase = TaskBytes(self, stream)

    @property
    def encoding(self) -> str:  # type: ignore[override] # a constant where io has an attribute
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override] # as above
        return "backslashreplace"

    @property
    def line_buffering(self) -> bool:
        """Whole lines are sent at once."""
        return True

    @property
    def write_through(self) -> bool:
        """Text waits for its line end."""
        return False

    def reconfigure(
        self, *, encoding: str | None = None, errors: str | None = None, newline: str | None = None,
        line_buffering: bool | None = None, write_through: bool | None = None,
    ) -> None:  # fmt: skip
        """Only flushes: lines go to the log as text, so an encoding does not matter."""
        del encoding, errors, newline, line_buffering, write_through
        self.flush()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def detach(self) -> Any:
        """The stream to wrap again; unlike other streams, this one goes on working."""
        self.flush()
        return self.buffer

    def close(self) -> None:
        """Sends the printed text. The stream stays open, because other tasks use it, too."""
        self.flush()

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        task = current.running_file()
        with self._lock:
            lines = (rest.pop((self._stream, task), "") + text).split("\n")
            if len(lines[-1]) > MAX_TEXT:
                lines.append("")  # a line without end must not fill our memory
            if lines[-1]:
                rest[self._stream, task] = lines[-1]
        for line in lines[:-1]:
            for start in range(0, max(len(line), 1), MAX_TEXT):
                self._emit(task, self._stream, line[start : start + MAX_TEXT])
        return len(text)

    def flush(self) -> None:
        """Sends the current task's text without a line end."""
        task = current.running_file()
        with self._lock:
            text = rest.pop((self._stream, task), "") + cut.pop((self._stream, task), b"").decode("utf-8", "replace")
        for start in range(0, len(text), MAX_TEXT):
            self._emit(task, self._stream, text[start : start + MAX_TEXT])

    def print_to_descriptor(self) -> None:
        """Sends whole lines to the descriptor from now on."""
        self._lock = threading.Lock()  # another thread may have held it when we were forked
        self._emit = self._write_line
        self.buffer = open(self._descriptor, "wb", 0, closefd=False)  # noqa: SIM115  # as long as the process lives

    def _write_line(self, task: str, stream: str, text: str) -> None:
        del task, stream
        os.write(self._descriptor, text.encode("utf-8", "backslashreplace") + b"\n")


class TaskBytes(io.BufferedIOBase):
    """`sys.stdout.buffer` in a worker: UTF-8 is printed as text; other bytes are shown as U+FFFD."""

    def __init__(self, text: TaskOutput, stream: str) -> None:
        self._text = text
        self._stream = stream
        self.name = text.name
        self.mode = "wb"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._text.fileno()

    def isatty(self) -> bool:
        return False

    def write(self, data: Any) -> int:
        given = bytes(memoryview(data))
        place = (self._stream, current.running_file())
        whole = cut.pop(place, b"") + given
        text, length = codecs.utf_8_decode(whole, "replace", False)
        if length < len(whole):
            cut[place] = whole[length:]
        self._text.write(text)
        return len(given)

    def flush(self) -> None:
        self._text.flush()

    def close(self) -> None:
        """Does what the text stream's `close` does."""
        self.flush()


_streams: list[TaskOutput] = []


def flush_task() -> None:
    """Sends the rest of the current task's output, because the task has ended."""
    if [sys.stdout, sys.stderr] != _streams:
        for other, ours in zip((sys.stdout, sys.stderr), _streams, strict=False):
            if other is not ours:
                _flush_other(other)
    if rest or cut:
        for stream in _streams:
            stream.flush()


def _flush_other(stream: Any) -> None:
    """Flushes a stream that the application, or the task, has put in the place of one of ours."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # it is closed, None, or not a stream
        stream.flush()


def print_to_descriptors() -> None:
    """In a child that a task forked: prints like any program. A line that the worker has begun stays the worker's."""
    rest.clear()
    cut.clear()
    for stream in _streams:
        stream.print_to_descriptor()


def capture_output(emit: Callable[[str, str, str], None]) -> None:
    """Sends Python's output to `emit` from now on."""
    stdout: Any = TaskOutput("stdout", 1, emit)
    stderr: Any = TaskOutput("stderr", 2, emit)
    sys.stdout, sys.stderr = stdout, stderr
    _streams[:] = [stdout, stderr]
