"""What a source of discovery says: a candidate may be a peer. A hint, never an authority: who it is, the handshake tells."""

from typing import NamedTuple, Protocol


class Candidate(NamedTuple):
    """Somebody who may be a peer, as one source knows it."""

    source: str
    """The URI of the source."""
    key: str
    """Its name within the source."""
    id: str
    """Its node id; empty when the source does not know it."""
    name: str
    """Its node name; empty when the source does not know it."""
    addresses: tuple[str, ...]
    """Where it listens, `host:port` each, the best first."""


class Identity(NamedTuple):
    """What a source may tell the others of this node."""

    id: str
    name: str
    cluster: str
    """Nodes of another cluster are no candidates."""
    addresses: tuple[str, ...]
    """Where peers reach this node, `host:port` each; empty when they do not."""
    tls: bool
    """Whether it takes links with TLS only."""


class Sink(Protocol):
    """Whoever hears of candidates; called on the event loop."""

    def found(self, candidate: Candidate) -> None:
        """One is there, or has changed; it replaces what had the same source and key."""

    def gone(self, source: str, key: str) -> None:
        """The source does not name it any more."""

    def leaving(self, source: str, key: str) -> None:
        """It said goodbye; or somebody said so in its name."""


class Discovery(Protocol):
    """One way to find peers."""

    uri: str

    async def run(self, sink: Sink) -> None:
        """Tells `sink` what it finds, until it is cancelled. What goes wrong is reported and tried again, never raised."""

    async def close(self) -> None:
        """Tells the others that this node leaves, where the source can."""
