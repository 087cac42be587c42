"""A task in memory: what a test can see of it, and what the handler of a worker gets."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from spoolnode.calls.arguments import arguments_of
from spoolnode.errors import ResultMissing
from spoolnode.node.outcome import Call
from spoolnode.node.work.taskfile import Task
from spoolnode.protocol import names
from spoolnode.protocol.fetch import GIVEN_UP, NOT_KEPT
from spoolnode.protocol.request import Terms
from spoolnode.protocol.values import decode_block, pack, unpack


class Attempt(Task):
    """One attempt of a task, with the facts that a worker reads on the disk."""

    __slots__ = ("_accepted", "_attempt")

    def __init__(self, call: Call, accepted: float, attempt: int) -> None:
        super().__init__(call.block, call.body, call.file_name)
        self._accepted = accepted
        self._attempt = attempt
        self.deadline = time.monotonic() + self.timeout if self.timeout else 0.0

    @property
    def attempt(self) -> int:
        return self._attempt

    @property
    def accepted(self) -> float:
        return self._accepted


@dataclass(eq=False, kw_only=True, repr=False)
class SpooledTask:
    """A task that was spooled in a test."""

    call: Call
    """The task as it travels."""
    terms: Terms
    via: str
    """The address that it was sent to; empty for a due time of a timer with `cluster=True`."""
    accepted: float
    """When it was spooled, in seconds since 1970 by the clock of the test."""
    due: float
    """Not before this time: its `at`, or the end of the pause after an attempt."""
    state: str = "waiting"
    """`waiting`, `done` or `dead` (given up)."""
    is_cancelled: bool = False
    """Whether it is dead because it was cancelled."""
    attempts: int = 0
    """Failed attempts in a row."""
    rounds: int = 0
    """How many times in a row it asked to be called again."""
    error: BaseException | None = None
    """The exception that its function raised last."""
    story: list[dict[str, Any]] = field(default_factory=list)
    """Its attempts, as `spoolnode show --json` tells them."""
    kept: bytes | None = None
    """The value that its function returned, as it is kept for `result`; None if it is not kept."""

    def __repr__(self) -> str:
        name, args, kwargs = self._said()
        shown = [*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())]
        options = {"at": self.at, "priority": self.priority, "node": self.node, "timeout": self.timeout}
        rest = "".join(f", {name}={value}" for name, value in options.items() if value is not None)
        return f"<{self.state}: {name}({', '.join(shown)}){rest}>" if name else f"<{self.state}: {self.values!r}{rest}>"

    @property
    def id(self) -> str:
        """The id that its sender got."""
        return names.id_of_file(self.call.file_name)

    @property
    def function(self) -> str:
        """The function that it is for, as `module:qualname`; else empty."""
        return self._said()[0]

    @property
    def args(self) -> tuple[Any, ...]:
        """The arguments of the call by position, as the function gets them."""
        return tuple(self._said()[1])

    @property
    def kwargs(self) -> dict[str, Any]:
        """The arguments of the call by name, as the function gets them."""
        return self._said()[2]

    @property
    def values(self) -> dict[str, Any]:
        """The dictionary that `send_to_spooler` or `uwsgi.spool` sent, as its callable gets it."""
        values = decode_block(self.call.block, self.call.body, "")
        del values["spooler_task_name"]
        return values

    def result(self) -> Any:
        """The value that its function returned, as `spoolnode.result` gives it.

        Raises:
            ResultMissing: it was given up, or its result is not kept.
            TimeoutError: it has not ended.
        """
        if self.state in ("waiting", "running"):
            raise TimeoutError(f"the task {self.id} has not ended: a test runs it, as with `spooled.run()`")
        if self.kept is None:
            if self.state == "done":
                raise ResultMissing(f"the task {self.id} has no result: its result was not kept", NOT_KEPT)
            raise ResultMissing(f"the task {self.id} has no result: it was given up: {self.error!r}", GIVEN_UP)
        return unpack(self.kept, "the result").get("result")

    def told(self) -> dict[str, Any]:
        """All about it, as a node tells it (docs/wire-format.md).

        Raises:
            ResultMissing: its result is not kept.
        """
        if self.state == "done" and self.kept is None:
            self.result()
        name, args, kwargs = self._said()
        story = [{"at": self.accepted, "event": "accepted"}, *self.story]
        if self.state == "dead":
            story.append({"at": self.story[-1]["at"] if self.story else self.accepted, "event": "dead"})
        kept = {} if self.kept is None else {"kept": self.kept}
        values = pack({"args": list(args), "kwargs": kwargs})
        return {"state": self.state, "function": name, "values": values, "seconds": 0.0, "story": story, **kept}

    @property
    def at(self) -> datetime | None:
        """The option `at`."""
        return datetime.fromtimestamp(self.terms.due, UTC) if self.terms.due else None

    @property
    def priority(self) -> int | None:
        """The option `priority`."""
        return None if self.terms.rank == names.LAST else self.terms.rank

    @property
    def node(self) -> str | None:
        """The option `node`. Whatever it says, the task runs in the process of the test."""
        return self.terms.destination or None

    @property
    def timeout(self) -> float | None:
        """The option `timeout`."""
        said = dict(self.call.variables).get(names.TIMEOUT)
        return None if said is None else names.read_timeout(said)

    def _said(self) -> tuple[str, list[Any], dict[str, Any]]:
        """The function and the arguments of the call."""
        variables = dict(self.call.variables)
        name = names.function_named(variables).decode("utf-8", "replace")
        args, kwargs = arguments_of(self.call) if names.FUNCTION in variables else ([], {})
        return name, args, kwargs
