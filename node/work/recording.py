"""Inside a worker: records the end of a run that was more than a plain good one, and words it for the node."""

from typing import Any

from spoolnode.node.disk.layout import Layout
from spoolnode.node.outcome import Ending, Outcome
from spoolnode.node.spool.kept import keep
from spoolnode.node.work import messages
from spoolnode.node.work.taskfile import Task
from spoolnode.protocol import names
from spoolnode.protocol.errors import BadPacket


def describe(task: Task, position: int, outcome: Outcome, seconds: float) -> list[Any]:
    """An outcome in the form for the node."""
    reason = outcome.reason[-messages.MAX_TEXT :]
    function, origin = _function_of(task), task.origin_id
    return messages.unusual_end(position, outcome.kind.value, reason, outcome.delay, function, seconds, origin, outcome.error)


def recorded(layout: Layout, task: Task, position: int, outcome: Outcome, seconds: float) -> list[Any]:
    """Records the end of a run that was more than a plain good one. Returns it in the form for the node."""
    if outcome.kind is not Ending.DONE:
        task.leave()
        return describe(task, position, outcome, seconds)
    if outcome.value is not None:
        try:
            keep(layout, task.origin_id, outcome.value)
        except OSError as error:
            outcome = outcome._replace(reason=f"its result could not be kept: {error.strerror}")
    task.finish()  # not earlier: a task that has ended has its result
    return describe(task, position, outcome, seconds)


def _function_of(task: Task) -> str:
    """The name of the function that a task is for; empty if it names none."""
    try:
        variables = dict(task.variables)
    except BadPacket:
        return ""
    return names.function_named(variables).decode("utf-8", "replace")
