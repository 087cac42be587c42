"""The settings of a backend in TASKS. Nothing here needs Django."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spoolnode.protocol import names
from spoolnode.protocol.errors import SpoolnodeError
from spoolnode.wire import resolve

OPTIONS = ("NODES", "VIA", "KEEP_RESULTS", "DATABASE")


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """The OPTIONS of a backend."""

    nodes: Mapping[str, str] = field(default_factory=dict)
    """Where the tasks of a queue run: a node's name, `host:port`, `tag:X`, `any`. Others run on the node that is asked."""
    via: str | None = None
    """The node that tasks are sent to; None: SPOOLNODE_VIA of the environment, else port 3031 of this machine."""
    keep_results: bool = True
    """Whether what tasks return is kept for `get_result`."""
    database: str | None = None
    """The alias of a database with a store: tasks are put into the transaction that is open there. None: they are sent."""


def read_options(params: Mapping[str, Any]) -> BackendOptions:
    """The options in an entry of TASKS."""
    options = params.get("OPTIONS", {})
    return BackendOptions(
        options.get("NODES", {}), options.get("VIA"), options.get("KEEP_RESULTS", True), options.get("DATABASE")
    )


def problems(params: Mapping[str, Any], vendors: Mapping[str, str]) -> list[str]:
    """A sentence for each mistake in an entry of TASKS; `vendors`: of each database."""
    options = params.get("OPTIONS", {})
    known = f"{', '.join(OPTIONS[:-1])} and {OPTIONS[-1]}"
    found = [f"there is no option {name!r}; there are {known}" for name in options if name not in OPTIONS]
    if (keeps := options.get("KEEP_RESULTS", True)) not in (True, False):
        found.append(f"KEEP_RESULTS is {keeps!r}; it must be True or False")
    if (database := options.get("DATABASE")) is not None and vendors.get(database) != "postgresql":
        found.append(f"DATABASE is {database!r}; it must be one of DATABASES, and a PostgreSQL")
    queues = params.get("QUEUES", ["default"])
    for queue, node in options.get("NODES", {}).items():
        if queues and queue not in queues:
            found.append(f"NODES names the queue {queue!r}, which is not one of QUEUES ({', '.join(queues)})")
        if not isinstance(node, str) or not names.is_destination(node):
            found.append(f"NODES sends the queue {queue!r} to {node!r}; it must be {names.right_destination(str(node))}")
    try:
        resolve(options.get("VIA"))
    except SpoolnodeError as error:
        found.append(f"VIA: {error}")
    return found
