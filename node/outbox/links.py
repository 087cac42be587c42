"""The file `links`: the memory of the sending side over restarts."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgpack

from spoolnode.node.spool.recovery import move_aside, read_small
from spoolnode.node.spool.sequence import Intervals
from spoolnode.node.spool.store import Store

Doubts = dict[str, dict[str, Intervals]]
"""Numbers in doubt, by destination and by the id of the node that may have them."""


@dataclass(frozen=True, slots=True)
class Links:
    """The contents of the file."""

    run: int = 0
    """The run of numbers that was given last."""
    boot: str = ""
    """The boot of the machine in which it was written."""
    clean: bool = False
    """Whether all marks were on the medium then."""
    peers: dict[str, str] = field(default_factory=dict)
    """The id of the node that answered last to each destination."""
    doubts: Doubts = field(default_factory=dict)
    """The numbers in doubt, whatever their marks say. A mark alone means the node in `peers`."""

    def encode(self) -> bytes:
        """The bytes of the file."""
        doubts = {to: {owner: numbers.pairs() for owner, numbers in owners.items()} for to, owners in self.doubts.items()}
        content = {
            "version": 1, "run": self.run, "boot": self.boot, "clean": self.clean, "peers": self.peers, "doubts": doubts
        }  # fmt: skip
        packed: bytes = msgpack.packb(content)
        return packed


def read_links(store: Store, boot: str, report: Callable[..., None]) -> Links:
    """The state from an earlier process. If it is damaged it is moved aside, and every task counts as sent.

    Args:
        boot: this boot of the machine; a node that finds no file has sent nothing in an earlier one.
    """
    data = read_small(store, store.layout.links, report)
    if data is None:
        return Links(boot=boot)
    try:
        return _links(msgpack.unpackb(data))
    except (KeyError, TypeError, ValueError, AttributeError, msgpack.UnpackException) as error:
        move_aside(store, "links", f"it is damaged: {error!r}; all tasks in outbox/ count as sent", report)
        return Links()


def write_links(store: Store, links: Links, report: Callable[..., None]) -> bool:
    """Writes the file at a start, which a full disk does not stop: then the clock alone makes the next run a new one.

    Returns whether the disk took it.
    """
    try:
        store.replace(store.layout.links, links.encode())
    except OSError as error:
        report("sync_failed", file="links", reason=str(error))
        return False
    return True


def _links(content: dict[str, Any]) -> Links:
    """Checks the contents of `links`. Raises KeyError, TypeError, ValueError or AttributeError if they are wrong."""
    if content["version"] != 1:
        raise ValueError(f"it has version {content['version']}; this spoolnode reads 1")
    if not isinstance(content["run"], int):
        raise TypeError(f"run is {content['run']!r}")
    doubts = {
        str(name): {str(owner): Intervals([(int(start), int(end)) for start, end in pairs]) for owner, pairs in owners.items()}
        for name, owners in content.get("doubts", {}).items()
    }
    peers = {str(name): str(peer) for name, peer in content.get("peers", {}).items()}
    return Links(content["run"], str(content.get("boot", "")), bool(content.get("clean", False)), peers, doubts)


def boot_id(now: float) -> str:
    """A word for this boot of the machine: it changes when the machine starts, or may have started."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return f"unknown {now}"
