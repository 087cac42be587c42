"""The spool as an application may look at it: `uwsgi.spooler_jobs` and the like."""

import os
import time
from typing import TYPE_CHECKING

from spoolnode.node.disk.layout import Layout, ref_id
from spoolnode.node.work.taskfile import HELD
from spoolnode.protocol.names import file_name
from spoolnode.protocol.packet import Variables

if TYPE_CHECKING:
    from spoolnode.node.spool.reader import Reader


class SpoolView:
    """Answers an application's questions about its spool. Few ask, so modules are imported with the first question."""

    def __init__(self, root: str, node_id: str) -> None:
        self._root = root
        self._node_id = node_id

    def __repr__(self) -> str:
        return f"<SpoolView of {self._root}>"

    def pids(self) -> list[int]:
        """The process ids of all workers."""
        from spoolnode.client.control import ask  # see the class

        return [int(pid) for pid in ask(self._root, "GET", "/node")["worker_pids"]]

    def jobs(self) -> list[str]:
        """The path of each waiting task: where its spool file is or would be."""
        from spoolnode.node.spool import inspect  # see the class
        from spoolnode.node.spool.recovery import spool_files  # see the class

        # The files are listed, not opened: closing one that this worker runs would drop its lock (see `FileTask`).
        reader = self._reader()
        refs = [file.ref for file in spool_files(reader)]
        refs += [file_name(info.id) for info in inspect.batch_tasks(reader, time.time())]
        return [os.path.join(self._root, ref) for ref in refs]

    def task(self, path: str) -> tuple[Variables, bytes] | None:
        """The task with such a path; None if it does not exist."""
        # By name, because a path may be written in several ways; over a copy, because async tasks come and go.
        running = next((task for held, task in list(HELD.items()) if ref_id(held) == ref_id(path)), None)
        if running is not None:
            return running.variables, running.body
        from spoolnode.node.spool import inspect  # see the class

        found = inspect.find_place(self._reader(), ref_id(path))
        if found is None:
            return None
        file = inspect.read_file(self._reader(), found[1])
        return file.variables, file.body

    def _reader(self) -> "Reader":
        from spoolnode.node.disk.disk import RealDisk  # see the class
        from spoolnode.node.spool.reader import Reader  # see the class

        return Reader(RealDisk(), Layout(self._root), self._node_id)
