"""What tasks print, line by line, with the task that printed it."""

import io
import os
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from spoolnode.node.wire import MAX_TEXT

current_task: ContextVar[str] = ContextVar("current_task", default="")
"""The file name of the task that runs in this context."""
rest: dict[tuple[str, str], str] = {}
"""What was printed without a line end yet, by stream and task."""


class TaskOutput(io.TextIOBase):
    """Stands in for sys.stdout or sys.stderr in a worker: whole lines go to `emit(task, stream, text)`.

    What C code and child processes write to descriptors 1 and 2 does not pass here; the node reads those itself.
    """

    def __init__(self, stream: str, descriptor: int, emit: Callable[[str, str, str], None]) -> None:
        self._stream = stream
        self._descriptor = descriptor
        self._emit = emit
        self._lock = threading.Lock()

    @property
    def encoding(self) -> str:  # type: ignore[override] # a constant where io has an attribute
        return "utf-8"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def write(self, text: str) -> int:
        task = current_task.get()
        with self._lock:
            lines = (rest.pop((self._stream, task), "") + text).split("\n")
            if len(lines[-1]) > MAX_TEXT:
                lines.append("")  # who never ends a line must not fill our memory
            if lines[-1]:
                rest[self._stream, task] = lines[-1]
        for line in lines[:-1]:
            for start in range(0, max(len(line), 1), MAX_TEXT):
                self._emit(task, self._stream, line[start : start + MAX_TEXT])
        return len(text)

    def flush(self) -> None:
        """Sends what the current task has printed without a line end."""
        task = current_task.get()
        with self._lock:
            text = rest.pop((self._stream, task), "")
        for start in range(0, len(text), MAX_TEXT):
            self._emit(task, self._stream, text[start : start + MAX_TEXT])

    def print_to_descriptor(self) -> None:
        """From now on whole lines go to the descriptor."""
        self._lock = threading.Lock()  # another thread may have held it when we were forked
        self._emit = self._write_line

    def _write_line(self, task: str, stream: str, text: str) -> None:
        del task, stream
        os.write(self._descriptor, text.encode("utf-8", "backslashreplace") + b"\n")


_streams: list[TaskOutput] = []


def flush_task() -> None:
    """Sends what the current task has printed without a line end: it has ended, and prints no more."""
    for stream in _streams:
        stream.flush()


def print_to_descriptors() -> None:
    """In a child that a task forked: it prints as any program does, and what the worker has begun to print is the worker's."""
    rest.clear()
    for stream in _streams:
        stream.print_to_descriptor()


def capture_output(emit: Callable[[str, str, str], None]) -> None:
    """From now on Python's output goes to `emit`."""
    stdout: Any = TaskOutput("stdout", 1, emit)
    stderr: Any = TaskOutput("stderr", 2, emit)
    sys.stdout, sys.stderr = stdout, stderr
    _streams[:] = [stdout, stderr]
