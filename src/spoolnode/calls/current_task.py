"""`current_task()`: the facts that a task may know about itself while it runs."""

from dataclasses import dataclass
from datetime import UTC, datetime

TYPE_CHECKING = False  # as in the package itself: an application imports this
if TYPE_CHECKING:
    from spoolnode.node.work.taskfile import Task


@dataclass(frozen=True, slots=True)
class CurrentTask:
    """One run of one task."""

    id: str
    """The task's id on this node, as `spoolnode show` takes it."""
    origin_id: str
    """The id that it got when it was first accepted. It is the same on every node and for every attempt, so a task
    can look up whether its work is done already."""
    attempt: int
    """Which attempt this is, from 1 (at most 255)."""
    max_attempts: int
    """After so many attempts it goes to `dead/`; 0: never."""
    function: str
    """The `@spool` function that it is for, as `module:qualname`; empty if it names none."""
    node: str
    """The name of the node that runs it."""
    accepted_at: datetime
    """When this node accepted it."""
    deadline: datetime | None
    """When its timeout ends it; None without one."""
    due_at: datetime | None
    """The due time that it is for, if a timer with `cluster=True` made it; else None."""

    def progress(self, done: float, text: str = "") -> None:
        """Says how far the task is: in `spoolnode show`, `ls` and `status`. It costs little, however often it is called.

        Args:
            done: from 0 to 1.
            text: for people, like "page 4 of 10"; 200 characters are shown.
        """
        from spoolnode.node.work import current

        if isinstance(done, bool) or not isinstance(done, int | float) or not 0 <= done <= 1:
            raise ValueError(f"progress({done!r}): it must be a number from 0 to 1")
        current.progress.say(self.id, float(done), str(text))


def current_task() -> CurrentTask | None:
    """The task that runs here, or None. Also works in a thread with a copy of the task's context (`asyncio.to_thread`)."""
    from spoolnode.node.work import current  # a web process runs no tasks and need not load it

    task = current.running.get()
    return None if task is None else _shown(task)


def _shown(task: "Task") -> CurrentTask:
    import time

    from spoolnode.node.work import current
    from spoolnode.protocol import names

    variables = dict(task.variables)
    identity = names.id_of_file(task.file_name)
    left = task.deadline - time.monotonic()
    return CurrentTask(
        id=identity,
        origin_id=task.origin_id,
        attempt=task.attempt,
        max_attempts=current.home.max_attempts if (own := task.retry.max_attempts) is None else own,
        function=variables.get(names.FUNCTION, b"").decode("utf-8", "replace"),
        node=current.home.name,
        accepted_at=datetime.fromtimestamp(task.accepted, UTC),
        deadline=datetime.fromtimestamp(time.time() + left, UTC) if task.deadline else None,
        due_at=datetime.fromtimestamp(int(variables[names.DUE]), UTC) if names.DUE in variables else None,
    )
