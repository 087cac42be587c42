"""The finds of discovery: a candidate may be a peer. This is a hint; only the handshake proves which node it is."""

from typing import NamedTuple, Protocol


class Candidate(NamedTuple):
    """A possible peer, as one source knows it."""

    source: str
    """The URI of the source."""
    key: str
    """Its name within the source."""
    id: str
    """Its node id; empty if the source does not know it."""
    name: str
    """Its node name; empty if the source does not know it."""
    addresses: tuple[str, ...]
    """Where it listens, `host:port` each, the best first."""


class Identity(NamedTuple):
    """The facts about this node that a source may tell others."""

    id: str
    name: str
    cluster: str
    """Nodes of another cluster are not candidates."""
    addresses: tuple[str, ...]
    """Where peers reach this node, `host:port` each; empty if they cannot."""
    tls: bool
    """Whether it takes links with TLS only."""


class Sink(Protocol):
    """Hears of candidates; called on the event loop."""

    def found(self, candidate: Candidate) -> None:
        """A candidate is there or has changed; it replaces the one with the same source and key."""

    def gone(self, source: str, key: str) -> None:
        """The source no longer names it."""

    def leaving(self, source: str, key: str) -> None:
        """It said goodbye, or another node said so in its name."""


class Discovery(Protocol):
    """One way to find peers."""

    uri: str

    async def run(self, sink: Sink) -> None:
        """Tells `sink` what it finds, until it is cancelled. Failures are reported and tried again, never raised."""

    async def close(self) -> None:
        """Tells the others that this node leaves, if the source can."""
