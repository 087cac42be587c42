"""The results of tasks with `keep_result`, each in a file of `results/`, until they expire.

A file is named after the id that its task got when it was first accepted, which its sender knows. The worker writes it before
the task ends, so a task that has ended has its result.
"""

import contextlib
import os
import time

from spoolnode.node.disk.layout import Layout


def keep(layout: Layout, origin_id: str, data: bytes) -> None:
    """Writes a result, for its owner alone. Raises OSError."""
    os.makedirs(layout.results, mode=0o700, exist_ok=True)
    temporary = os.path.join(layout.results, f".{os.getpid()}.{time.monotonic_ns()}")
    try:
        with open(temporary, "wb", opener=lambda path, flags: os.open(path, flags | os.O_EXCL, 0o600)) as file:
            file.write(data)
        os.rename(temporary, os.path.join(layout.results, origin_id))
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def read_kept(layout: Layout, origin_id: str) -> bytes | None:
    """The result of a task; None if there is none."""
    try:
        with open(os.path.join(layout.results, origin_id), "rb") as file:
            return file.read()
    except OSError:
        return None


def expire(layout: Layout, seconds: float) -> None:
    """Removes results that are older than that."""
    with contextlib.suppress(FileNotFoundError), os.scandir(layout.results) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.stat(follow_symlinks=False).st_mtime < time.time() - seconds:
                    os.unlink(entry.path)
