"""Which node has which name and id: they belong to the node that proved them first, also after restarts. Pure, except that it
is read and written.

An id belongs to the key that was first proved with it (`introduction`), with TLS to the first certificate that showed it;
`spoolnode accept NAME ID` changes that.

A name belongs to one node id. Without TLS the proof is an answer at an address to which tasks may be given; with TLS it is
the certificate. Another node that claims the name gets nothing under it, unless

- the holder calls itself something else by now (it was renamed), or
- the holder no longer answers, and the other node has the certificate for the name; or it answers at the very address where
  the holder did, which has never proved a key; or
- an operator decides (`accept`).

If two claim a name that has no holder, neither gets it: an operator decides, or one of them is given another name.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgpack

MOST = 4096
"""Ids, and names, that are remembered; beyond this, those that were not seen for the longest time are forgotten."""
MOST_RIVALS = 8
"""Most rivals for a name that are remembered."""


@dataclass(slots=True)
class Holder:
    """A node that has proved who it is."""

    name: str
    """The name that it gives itself."""
    address: str
    """Where it last proved its name."""


class Known:
    """The names and ids of a cluster that were proved to this node."""

    def __init__(self) -> None:
        self.version = 0
        """Rises with each change that must be saved."""
        self._holders: dict[str, Holder] = {}
        self._names: dict[str, str] = {}
        """The id of the node that has each name; empty if the name is disputed."""
        self._certificates: dict[str, str] = {}
        """The name in the certificate with which each id was first proved."""
        self._keys: dict[str, str] = {}
        """The fingerprint of the key with which each id was first proved; ids that were proved last come last."""
        self._rivals: dict[str, dict[str, str]] = {}
        """The other nodes that claim a name: ids and addresses."""
        self._apart: dict[str, None] = {}
        """The ids of nodes that said last that they have no common store."""

    # -- names --

    def holder(self, name: str) -> str | None:
        """The id of the node with this name; empty if it is disputed, None if no node has proved it."""
        return self._names.get(name)

    def address(self, identity: str) -> str:
        """Where the node with this id last proved its name; empty if it has not."""
        holder = self._holders.get(identity)
        return holder.address if holder is not None else ""

    def claimed(self) -> Iterable[str]:
        """All names that were proved."""
        return self._names.keys()

    def names(self) -> dict[str, list[str]]:
        """All names of each id: the present one, and earlier ones."""
        found: dict[str, list[str]] = {}
        for name, identity in self._names.items():
            found.setdefault(identity, []).append(name)
        return found

    def rivals(self, name: str) -> dict[str, str]:
        """The nodes that claim a name without getting it: ids and addresses."""
        return self._rivals.get(name, {})

    def heard(self, identity: str, *, shares: bool) -> None:
        """Notes whether a node with a name has a common store."""
        if identity in self._holders and (identity in self._apart) == shares:
            if shares:
                del self._apart[identity]
            else:
                self._apart[identity] = None
            self.version += 1

    def is_apart(self, destination: str) -> bool:
        """Whether it is a node (its name, id or last address) that said last that it has no common store."""
        if self._names.get(destination, destination) in self._apart:
            return True
        return ":" in destination and any(self.address(identity) == destination for identity in self._apart)

    def prove(
        self, identity: str, name: str, address: str, *, alive: set[str], certified: bool, key: str = ""
    ) -> bool:  # fmt: skip
        """Notes that a node has proved its id and says its name. Returns whether it has that name.

        Args:
            identity: its id.
            name: the name that it gives itself.
            address: where it answered.
            alive: ids of other nodes with this name that answer, or are announced and were not asked yet.
            certified: its certificate is for that name.
            key: the fingerprint of the key that it has proved; empty if none.
        """
        holder = self._names.get(name)
        if holder not in (None, identity) and self._may_follow(holder, identity, name, address, alive, certified):
            holder = None
            self._release(name)
        if holder is None and alive:
            holder = self._set(name, "")
            for other in alive:
                self._rival(name, other, "")
        self._remember(identity, name, address)
        if key and not certified:
            self._pin(identity, key)
        if holder is None:
            holder = self._set(name, identity)
        if holder != identity:
            self._rival(name, identity, address)
        return holder == identity

    def accept(self, name: str, identity: str, *, certified: bool) -> None:
        """Gives a name to a node, as the operator says; with certificates, its id belongs to the name's certificate, too."""
        self._set(name, identity)
        self._rivals.pop(name, None)
        if certified:
            self._certificates[identity] = name
        elif self._keys.pop(identity, ""):  # the next key that it proves is its own
            self.version += 1

    def forget(self, identity: str) -> None:
        """Forgets a node: its names and its id are free for others."""
        for table in (self._holders, self._keys, self._certificates, self._apart):
            table.pop(identity, None)
        for name in self.names().get(identity, []):
            self._release(name)
        for rivals in self._rivals.values():
            rivals.pop(identity, None)
        self.version += 1

    def _may_follow(
        self, holder: str | None, identity: str, name: str, address: str, alive: set[str], certified: bool
    ) -> bool:  # fmt: skip
        """Whether the name of `holder` (empty: of several) is free for this node."""
        if not holder:
            # All others that claimed it have other names by now, or have never answered.
            others = (self._rivals.get(name, {}).keys() & self._holders.keys()) - {identity}
            return not alive and all(self._calls_itself_otherwise(other, name) for other in others)
        if self._calls_itself_otherwise(holder, name):
            return True
        known = self._holders.get(holder)
        is_there = known is not None and known.address == address
        return holder not in alive and (certified or (is_there and holder not in self._keys))

    def _calls_itself_otherwise(self, identity: str, name: str) -> bool:
        known = self._holders.get(identity)
        return known is not None and known.name != name

    def _set(self, name: str, identity: str) -> str:
        if self._names.get(name) != identity:
            self._names[name] = identity
            self.version += 1
            _forget_oldest(self._names)
        return identity

    def _release(self, name: str) -> None:
        del self._names[name]
        self._rivals.pop(name, None)

    def _rival(self, name: str, identity: str, address: str) -> None:
        rivals = self._rivals.setdefault(name, {})
        if identity not in rivals and len(rivals) < MOST_RIVALS:
            self.version += 1
        if identity in rivals or len(rivals) < MOST_RIVALS:
            rivals[identity] = address or rivals.get(identity, "")
        _forget_oldest(self._rivals)

    def _remember(self, identity: str, name: str, address: str) -> None:
        now, before = Holder(name, address), self._holders.pop(identity, None)
        self._holders[identity] = now
        if self._names.get(name) == identity:
            self._names[name] = self._names.pop(name)  # the last one to be forgotten
        for old in [other for other, rivals in self._rivals.items() if identity in rivals and other != name]:
            del self._rivals[old][identity]
        if now != before:
            self.version += 1
            for forgotten in _forget_oldest(self._holders):
                self._apart.pop(forgotten, None)

    # -- keys and certificates --

    def key(self, identity: str) -> str:
        """The fingerprint of the key to which an id belongs; empty if none is known."""
        return self._keys.get(identity, "")

    def _pin(self, identity: str, key: str) -> None:
        before = self._keys.pop(identity, "")
        self._keys[identity] = before or key
        if not before:
            self.version += 1
            _forget_oldest(self._keys)

    def certificate(self, identity: str, name: str) -> str:
        """The name in the certificate to which an id belongs; `name`, if none is known yet."""
        if identity not in self._certificates:
            self._certificates[identity] = name
            self.version += 1
            _forget_oldest(self._certificates)
        return self._certificates[identity]

    # -- on disk --

    def encode(self) -> bytes:
        """The state that must survive, for `decode`."""
        holders = {identity: [holder.name, holder.address] for identity, holder in self._holders.items()}
        content = {
            "version": 1, "names": self._names, "holders": holders, "certificates": self._certificates, "rivals": self._rivals,
            "keys": self._keys, "apart": list(self._apart),
        }  # fmt: skip
        packed: bytes = msgpack.packb(content)
        return packed

    @classmethod
    def decode(cls, data: bytes) -> "Known":
        """The state that `encode` made. Raises ValueError for anything else."""
        known = cls()
        try:
            content: dict[str, Any] = msgpack.unpackb(data)
            if content["version"] != 1:
                raise ValueError(f"it has version {content['version']}; this spoolnode reads 1")
            known._names = {str(name): str(identity) for name, identity in content["names"].items()}
            known._holders = {str(key): Holder(str(name), str(at)) for key, (name, at) in content["holders"].items()}
            known._certificates = {str(key): str(name) for key, name in content["certificates"].items()}
            known._keys = {str(key): str(fingerprint) for key, fingerprint in content.get("keys", {}).items()}
            known._apart = {str(key): None for key in content.get("apart", []) if str(key) in known._holders}
            known._rivals = {
                str(name): {str(key): str(at) for key, at in found.items()} for name, found in content["rivals"].items()
            }
        except (KeyError, TypeError, AttributeError, msgpack.UnpackException) as error:
            raise ValueError(f"it is damaged: {error!r}") from error
        return known


def _forget_oldest(table: dict[str, Any]) -> list[str]:
    forgotten = []
    while len(table) > MOST:
        forgotten.append(next(iter(table)))
        del table[forgotten[-1]]
    return forgotten
