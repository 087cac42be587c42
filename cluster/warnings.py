"""Warnings about peers for the operator: each in one clear line, once, and again only after it was over. Pure."""

from collections.abc import Callable, Hashable
from typing import Any

from spoolnode.cluster.lookup import is_literal
from spoolnode.node.figures import CLOCK_SECONDS

MOST = 1024
"""Most warnings that are remembered. Strangers can cause them, so there is a limit; beyond it no more are given."""

Warn = Callable[..., None]
"""`warn(action, **details)`, as the log's `report`."""


class Once:
    """Gives each warning once."""

    def __init__(self, warn: Warn) -> None:
        self._warn = warn
        self._said: set[tuple[Hashable, ...]] = set()

    def say(self, action: str, *about: Hashable, **details: Any) -> None:
        """Gives a warning, unless it was given about the same thing before."""
        key = (action, *about)
        if key not in self._said and len(self._said) < MOST:
            self._said.add(key)
            self._warn(action, **details)

    def over(self, action: str, *about: Hashable) -> None:
        """Notes that it is over: if it comes back, the warning is given again."""
        self._said.discard((action, *about))


def id_twice(once: Once, node_id: str, address: str) -> None:
    """Warns that another process uses our id."""
    where = address or "an unknown address"
    reason = f"another node, at {where}, has the id {node_id} of this one: one spool directory is a copy of the other"
    remedy = "stop one of the two, and delete the file node.id in the spool directory that is the copy"
    once.say("id_twice", address, id=node_id, address=address, reason=f"{reason}; {remedy}")


def own_name_twice(once: Once, name: str, ids: tuple[str, str], addresses: tuple[str, str]) -> None:
    """Warns of another live node with this one's name; our id and address come first."""
    both = f"this node, {ids[0]} at {addresses[0]}, and the node {ids[1]} at {addresses[1]} are both called {name!r}"
    remedy = "peers that know the other one send nothing here; give one of them another --name"
    once.say("name_twice", name, *sorted(ids), name=name, ids=sorted(ids), reason=f"{both}; {remedy}")


def claimed(once: Once, name: str, holder: str, where: str, node_id: str) -> str:
    """Warns of a node that claims a name of another one, or of several (`holder` is empty). Returns the sentence."""
    whose = f"belongs to the node {holder}{where and f' at {where}'}" if holder else f"is claimed by others too ({where})"
    reason = (
        f"the name {name!r} {whose}, so this node ({node_id}) gets nothing: give one of them another --name, "
        f"or say that it is the right one with spoolnode accept {name} {node_id}"
    )
    once.say("name_twice", name, node_id, name=name, ids=sorted({holder, node_id} - {""}), reason=reason)
    return reason


def copied(once: Once, node_id: str, addresses: tuple[str, str]) -> None:
    """Warns of two processes that answer with one id."""
    reason = f"both {addresses[0]} and {addresses[1]} answer with the id {node_id}: one spool directory is a copy of the other"
    remedy = "the first gets the tasks; stop the copy, and delete the file node.id in its spool directory"
    once.say("id_twice", *sorted(addresses), id=node_id, address=addresses[1], reason=f"{reason}; {remedy}")


def has_id(node_id: str, name: str, address: str) -> str:
    """A clause about a claimed id, with its owner."""
    return f"it has the id {node_id} of the node {name!r}, which answers at {address}"


def claimed_id(once: Once, node_id: str, name: str, addresses: tuple[str, str]) -> str:
    """Warns of a claim at the second address to be the node that answers at the first. Returns the sentence."""
    reason = f"{addresses[1]} says that {has_id(node_id, name, addresses[0])}, so it gets nothing"
    once.say("id_claimed", node_id, addresses[1], id=node_id, address=addresses[1], reason=reason)
    return reason


def outside(once: Once, node_id: str, name: str, address: str) -> str:
    """Warns of a node at an address that may not get tasks. Returns the sentence."""
    host = address.rpartition(":")[0].strip("[]")
    if is_literal(host):
        why, remedy = "is outside of --allow", f"allow its network (--allow {host}), or name it (spoolnode join {address})"
    else:
        why, remedy = "is a host name that only the node itself says", f"name it (spoolnode join {address})"
    reason = f"{address} {why}, so no task is given to it: {remedy}"
    once.say("outside_allow", node_id, id=node_id, name=name, address=address, reason=reason)
    return reason


def clock(once: Once, node_id: str, name: str, seconds: float) -> None:
    """Warns if the clock of a peer, `seconds` ahead of ours, is too far off."""
    if abs(seconds) > CLOCK_SECONDS:
        which = "ahead of" if seconds > 0 else "behind"
        reason = f"the clock of {name or node_id} is {abs(seconds):.1f} s {which} this node's; `at` times are off by as much"
        once.say("clock_off", node_id, id=node_id, name=name, seconds=round(seconds, 1), reason=reason)
    elif abs(seconds) < CLOCK_SECONDS * 0.8:
        once.over("clock_off", node_id)
