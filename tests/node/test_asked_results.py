"""A question about a task is answered right also if the task ends while the node looks for it."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spoolnode.node.control.asked_results import AskedResults
from spoolnode.node.disk.layout import Layout
from spoolnode.node.spool import inspect
from spoolnode.node.spool.kept import keep
from spoolnode.node.story.watchers import Watchers
from spoolnode.protocol.fetch import Question

ID = "0123456789ab_1790000000000000_64"


class NoHistory:
    """The stories of a node with `--history 0`."""

    async def steps(self, identity: str) -> list[Any]:
        """None."""
        del identity
        return []


class StoreThread:
    """Does at once what is handed to it."""

    async def run(self, job: Any) -> Any:
        """Returns what `job` returns."""
        return job()


@pytest.mark.parametrize("wait", [0.0, 20.0])
def test_the_result_of_a_task_that_ends_during_the_look_is_found_without_a_story(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait: float
) -> None:
    layout = Layout(str(tmp_path))

    def ended(*_: Any) -> None:
        """The task has left the disk; just before, its worker has kept its result."""
        keep(layout, ID, b"the result")

    monkeypatch.setattr(inspect, "find_place", ended)
    journal = SimpleNamespace(
        layout=layout, moves=StoreThread(), reader=SimpleNamespace(layout=layout), story=NoHistory(), watchers=Watchers()
    )
    nothing: Any = None
    storage: Any = SimpleNamespace(journal=journal)
    results = AskedResults(storage, nothing, nothing, nothing, nothing, keep_results=60.0)
    assert asyncio.run(results.answer(Question(ID, wait))).piece == b"the result"
