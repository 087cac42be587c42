"""All that a cluster may use of the node it belongs to: the other direction of `neighbours`."""

from typing import Any, Protocol

from spoolnode.node.config import Config
from spoolnode.node.log import Report
from spoolnode.node.outbox.storage import Storage
from spoolnode.protocol.keys import NodeKey


class Host(Protocol):
    """One node, as its cluster sees it. Nothing of it is changed but by its methods."""

    @property
    def config(self) -> Config:
        """Its settings."""

    @property
    def id(self) -> str:
        """The id of its spool directory."""

    @property
    def instance(self) -> str:
        """Tells this process from another one with the same id (a copied spool directory)."""

    @property
    def key(self) -> NodeKey | None:
        """Proves that the id is its own; None when the disk was too full to keep one."""

    @property
    def addresses(self) -> list[str]:
        """Where it listens, with the ports that the system chose for port 0."""

    @property
    def report(self) -> Report:
        """Writes a line of its log."""

    @property
    def storage(self) -> Storage:
        """All that is on its disk: the tasks that wait here and for other nodes, and how they are moved."""

    def status(self) -> dict[str, Any]:
        """How it is, as other nodes are told. Not before it starts."""
