"""A worker process: `python -m spoolnode.worker DESCRIPTOR`, started by the node, never by hand.

This is where the node's machinery (`spoolnode.node.worker`) and the application (`spoolnode.app`) meet.
"""

import os
import time
from typing import Any

from spoolnode.app import load_app
from spoolnode.compat.context import WorkerContext
from spoolnode.control_client import ask
from spoolnode.node import inspect
from spoolnode.node.disk import RealDisk
from spoolnode.node.keeper import Keeper
from spoolnode.node.layout import Layout, ref_id
from spoolnode.node.outcome import App
from spoolnode.node.taskfile import HELD
from spoolnode.node.worker import main
from spoolnode.protocol.names import file_name
from spoolnode.protocol.packet import Variables


def load(facts: dict[str, Any]) -> App:
    """Loads the application with what the node says of itself; what it sends goes to the node's own socket."""
    os.environ["SPOOLNODE_VIA"] = facts["socket"]
    os.environ["SPOOLNODE_SPOOL"] = facts["root"]
    keeper = Keeper(RealDisk(), Layout(facts["root"]), facts["node_id"])

    def pids() -> list[int]:
        return [int(pid) for pid in ask(facts["root"], "GET", "/status")["worker_pids"]]

    def jobs() -> list[str]:
        return [
            keeper.layout.path(info.where if ":" not in info.where else file_name(info.id))
            for info in inspect.waiting_tasks(keeper, time.time())
        ]

    def get_task(path: str) -> tuple[Variables, bytes] | None:
        return _read_task(keeper, path)

    context = WorkerContext(facts["root"], facts["worker"] + 1, facts["node_pid"], pids, jobs, get_task)
    return load_app(facts["app"], context)


def _read_task(keeper: Keeper, path: str) -> tuple[Variables, bytes] | None:
    """A task by the path that its spool file has, or would have; None when there is none."""
    running = HELD.get(path)
    if running is not None:
        return running.variables, running.body
    found = inspect.find_place(keeper, ref_id(path))
    if found is None:
        return None
    file = inspect.read_file(keeper, found[1])
    return file.variables, file.body


if __name__ == "__main__":
    main(load)
