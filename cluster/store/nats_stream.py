"""The stream of a store in NATS: how it must be, and how it comes to be so while nodes use it.

Why it is as it is:

- No limit on its size, its age or its messages: at a limit the server would drop the oldest tasks, or refuse new ones for good.
  The disk is to be watched instead. `discard: new`, so that a limit that an operator sets refuses, and drops nothing.
- Atomic batches, because a task is in one list or in another one, never in both or in none.
- No consumers: the task itself says which taker has it. So a lost lease is noticed, and a task can be found and claimed.
"""

from typing import Any

from spoolnode.cluster.store.interface import StoreUnfit
from spoolnode.cluster.store.nats_connection import ServerConnection
from spoolnode.cluster.store.nats_entries import PREFIX, STREAM
from spoolnode.cluster.store.nats_messages import no_stream
from spoolnode.protocol.version import VERSION as OURS

VERSION = 1
"""The version of what is written into the stream."""
OLDEST_SERVER = (2, 14, 6)
"""The oldest server on which all tests have passed.

2.11 has no atomic batches, and 2.12.0 refuses ours. Three servers of 2.12.8, and of 2.14.0, that were killed came back without
any task: they carried out once more an order to purge that was older than the tasks.
"""
_KEY = "spoolnode_version"
_WANTED: dict[str, Any] = {
    "name": STREAM,
    "subjects": [f"{PREFIX}.{kind}.>" for kind in ("task", "ready", "later", "held", "key", "upload", "body")]
    + [f"{PREFIX}.{name}" for name in ("dead", "ended", "turn")],
    "retention": "limits",
    "storage": "file",
    "discard": "new",
    "max_msgs": -1,
    "max_bytes": -1,
    "max_age": 0,
    "max_msgs_per_subject": -1,
    "max_msg_size": -1,
    "allow_rollup_hdrs": True,
    "allow_atomic": True,
    "allow_msg_ttl": True,
    "allow_direct": True,
    "deny_delete": False,
    "deny_purge": False,
}


async def check_stream(connection: ServerConnection) -> None:
    """Raises `StoreUnfit` if the server is too old, or its stream is not as it must be."""
    check_server(connection.server_version)
    info = await connection.ask(f"STREAM.INFO.{STREAM}")
    if info is None:
        raise no_stream(connection)
    if _KEY not in _metadata(info):
        raise of_another_program(info)
    version = _version(info)
    if version > VERSION:
        raise StoreUnfit(f"its stream is of version {version}, and this spoolnode {OURS} knows {VERSION}: install a newer one")
    different = [f"{name}={info['config'].get(name)}" for name, value in _WANTED.items() if not _is(info["config"], name, value)]
    if different or version < VERSION:
        what = ", ".join(different) or f"version {version}"
        raise StoreUnfit(f"its stream is not as tasks need it ({what}): run `spoolnode store check --migrate`")


async def prepare_stream(connection: ServerConnection) -> None:
    """Makes the stream, or brings it to this version, with as many replicas as the address says.

    Raises `StoreUnfit`: there are not as many servers, or the stream is of a later version, or another program's.
    """
    check_server(connection.server_version)
    info = await connection.ask(f"STREAM.INFO.{STREAM}")
    if info is not None and (_KEY not in _metadata(info) or _version(info) > VERSION):
        await check_stream(connection)  # it says why not
    wanted = {**_WANTED, "num_replicas": connection.address.replicas, "metadata": {_KEY: str(VERSION)}}
    verb = "CREATE" if info is None else "UPDATE"
    await connection.ask(f"STREAM.{verb}.{STREAM}", {**(info["config"] if info else {}), **wanted})


def check_server(version: str) -> None:
    """Raises `StoreUnfit` if a server of this version is too old."""
    if tuple(map(int, version.split("."))) < OLDEST_SERVER:
        oldest = ".".join(map(str, OLDEST_SERVER))
        raise StoreUnfit(f"this is nats-server {version}; a store needs {oldest} or newer")


def of_another_program(info: dict[str, Any]) -> StoreUnfit:
    """The error about a stream that is not ours: to change it would cost another program its messages."""
    subjects = ", ".join(info["config"].get("subjects") or ["none"])[:200]
    return StoreUnfit(
        f"it has a stream {info['config']['name']!r} of another program (subjects: {subjects}): "
        "use a NATS account of its own for the tasks, or delete that stream"
    )


def _metadata(info: dict[str, Any]) -> dict[str, str]:
    return info["config"].get("metadata") or {}


def _version(info: dict[str, Any]) -> int:
    text = _metadata(info).get(_KEY, "0")
    return int(text) if text.isdigit() else 0


def _is(config: dict[str, Any], name: str, value: Any) -> bool:
    told = config.get(name, None if value else value)  # the server leaves out what is false
    return sorted(told or []) == sorted(value) if isinstance(value, list) else bool(told == value)
