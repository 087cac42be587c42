"""Tasks that stay in this process, for tests: the addresses `eager:` and `memory:`, and everything while a test collects it."""

from importlib import import_module
from typing import Any, Protocol

from spoolnode.protocol.answer import Answer
from spoolnode.wire import IN_PROCESS, Address, Message


class Receiver(Protocol):
    """Takes tasks in the place of a node."""

    def take(self, address: Address, message: Message) -> Answer:
        """Takes a task and answers as a node does. Raises what a task raises that runs at once."""
        ...

    async def atake(self, address: Address, message: Message) -> Answer:
        """The same without blocking the loop."""
        ...

    def cancel(self, task_id: str) -> bool:
        """Cancels a task. Raises what `spoolnode.cancel` raises."""
        ...

    def result(self, task_id: str) -> Any:
        """The result of a task. Raises what `spoolnode.result` raises; it does not wait."""
        ...

    def told(self, task_id: str) -> dict[str, Any]:
        """All about a task, as a node tells it (docs/wire-format.md). Raises `ResultMissing`."""
        ...


class Inside:
    """The receiver that gets every task of this process, whatever its address; None outside of tests."""

    def __init__(self) -> None:
        self.everything: Receiver | None = None

    def receiver(self, address: Address) -> Receiver | None:
        """The receiver of a task for this address; None if it leaves the process."""
        if self.everything is not None or address.text not in IN_PROCESS:
            return self.everything
        own: Receiver = import_module("spoolnode.testing.collecting").collected()  # by its name: only tests need it
        return own


INSIDE = Inside()
"""That of this process."""
