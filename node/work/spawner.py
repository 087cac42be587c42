"""Starts worker processes: even if connections hold all other descriptors, and so that none outlives the node."""

import itertools
from collections.abc import Callable
from typing import Any

from spoolnode.node.work.process import WorkerProcess, worker_command
from spoolnode.node.work.reserve import Reserve
from spoolnode.node.work.strays import mark_of
from spoolnode.node.work.warden import Warden


class Spawner:
    """Starts the workers of a node, and notices their deaths first."""

    def __init__(
        self,
        facts: dict[str, Any],
        concurrency: int,
        warden: Warden,
        on_message: Callable[[WorkerProcess, list[Any]], None],
        on_print: Callable[[WorkerProcess, str, str], None],
        on_death: Callable[[WorkerProcess], None],
    ) -> None:
        self._facts = facts
        self._concurrency = concurrency
        self._warden = warden
        self._on_message, self._on_print, self._on_death = on_message, on_print, on_death
        self._reserve = Reserve()
        self._serial = itertools.count(1)

    def start(self, index: int, *, is_first: bool, is_reload: bool) -> WorkerProcess:
        """A new worker. Raises OSError if the machine has no room for it."""
        worker = WorkerProcess(
            index, worker_command(), {**self._facts, "is_first": is_first, "is_reload": is_reload},
            mark_of(self._warden.instance, next(self._serial)), self._concurrency, self._on_message, self._on_print, self._died,
        )  # fmt: skip
        with self._reserve.lent():
            worker.start()
        self._warden.watch(worker.pid)
        return worker

    def _died(self, worker: WorkerProcess) -> None:
        self._reserve.take_over()
        self._warden.forget(worker.pid)
        self._on_death(worker)
