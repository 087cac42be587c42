"""All that a cluster may use of its node: the other direction of `neighbours`."""

from typing import Any, Protocol

from spoolnode.node.config import Config
from spoolnode.node.ingress.admission import Admission
from spoolnode.node.log import Report
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.work.workers import Hands
from spoolnode.protocol.keys import NodeKey


class Host(Protocol):
    """One node, as its cluster sees it. Only its methods change it."""

    @property
    def config(self) -> Config:
        """Its settings."""

    @property
    def id(self) -> str:
        """The id of its spool directory."""

    @property
    def instance(self) -> str:
        """A token that tells this process from another one with the same id (a copied spool directory)."""

    @property
    def key(self) -> NodeKey | None:
        """The key that proves its id; None if the disk was too full to keep one."""

    @property
    def addresses(self) -> list[str]:
        """The addresses where it listens, with the ports that the system chose for port 0."""

    @property
    def report(self) -> Report:
        """Writes a line to its log."""

    @property
    def storage(self) -> Storage:
        """Its disk: the tasks that wait here and for other nodes, and their moves."""

    def status(self) -> dict[str, Any]:
        """The status that it tells other nodes. Only after it has started."""


class SharingHost(Host, Protocol):
    """One node, as its common store sees it."""

    def is_apart(self, destination: str) -> bool:
        """Whether only a link reaches this destination: a node without the store."""

    @property
    def hands(self) -> Hands:
        """Its workers. Only after it has started."""

    @property
    def admission(self) -> Admission:
        """Takes tasks. Only after it has started."""
