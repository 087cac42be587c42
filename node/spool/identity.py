"""The identity of a node: the id of its spool directory and the secret that proves it. Both are made once, together."""

import os
import secrets
from typing import NamedTuple

from spoolnode.node.badconfig import BadConfig
from spoolnode.node.disk.disk import RealDisk
from spoolnode.node.disk.layout import Layout
from spoolnode.node.log import Report
from spoolnode.node.spool.store import Store
from spoolnode.protocol.keys import NodeKey


class NodeIdentity(NamedTuple):
    """An id and a secret, both in hexadecimal."""

    id: str
    secret: str
    """Empty if the disk was too full to keep one."""

    def key(self) -> NodeKey | None:
        """The key made of the secret; None without a secret."""
        return NodeKey(bytes.fromhex(self.secret)) if self.secret else None

    def files(self, layout: Layout) -> dict[str, bytes]:
        """Both as path -> contents, to be written again in this order: an id without its key would get another one."""
        own = {layout.node_key: self.secret, layout.node_id: self.id}
        return {path: f"{content}\n".encode() for path, content in own.items() if content}


def read_identity(layout: Layout, report: Report) -> NodeIdentity:
    """The identity of this spool directory's node.

    The secret is safe on disk before anything uses it. A new id comes with a new secret, so removing the id from a copy of a
    directory makes the copy another node. If the disk is too full, the secret is empty until the next start.

    Raises:
        BadConfig: a file holds something else.
    """
    identity = _read_own(layout.node_id, 12)
    secret = _read_own(layout.node_key, 64) if identity else ""
    store = Store(RealDisk(), layout, "")
    if not secret:
        secret = secrets.token_hex(32)
        try:
            store.replace(layout.node_key, f"{secret}\n".encode())
        except OSError as error:
            secret = ""
            report("sync_failed", file="node.key", reason=str(error))
    if not identity:
        identity = secrets.token_hex(6)
        store.replace(layout.node_id, f"{identity}\n".encode())
    return NodeIdentity(identity, secret)


def _read_own(path: str, digits: int) -> str:
    """The hexadecimal digits in a file of this node; empty if it does not exist."""
    try:
        # Non-blocking, because it may be a pipe. Only as much as is shown, because it may be anything.
        with open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
            text = file.read(100).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return ""
    except IsADirectoryError:
        raise BadConfig(f"{path} is a directory; it must be a file with {digits} hexadecimal digits") from None
    if len(text) != digits or not set(text) <= set("0123456789abcdef"):
        shown = repr(text[:40]) if digits == 12 else "something else"  # a damaged secret is still a secret
        raise BadConfig(f"{path} holds {shown}; it must hold {digits} hexadecimal digits")
    return text
