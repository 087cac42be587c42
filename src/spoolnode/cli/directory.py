"""A spool directory as the commands see it: through its node when one runs, by its files when none does."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from struct import error as StructError
from typing import Any, Protocol
from urllib.parse import quote

from spoolnode.cli import Failure
from spoolnode.cli.output import watched
from spoolnode.control_client import NotRunning, ask
from spoolnode.node import inspect
from spoolnode.node.disk import RealDisk
from spoolnode.node.keeper import Keeper
from spoolnode.node.layout import Layout
from spoolnode.protocol import names
from spoolnode.protocol.errors import BadPacket

BULK_SECONDS = 24 * 3600.0
"""How long one request about all dead tasks may take."""

READERS: dict[str, Callable[[Keeper, float], Iterator[inspect.Info]]] = {
    "waiting": inspect.waiting_tasks,
    "dead": inspect.dead_tasks,
    "outbox": inspect.outbox_tasks,
}


class Directory(Protocol):
    """What can be done with a spool directory. Every method may raise `SpoolnodeError` or `Failure`."""

    def tasks(self, state: str, limit: int) -> list[dict[str, Any]]:
        """Tasks that are waiting (later and running ones too), dead, or in the outbox, in their order; 0 is all."""

    def task(self, identity: str) -> dict[str, Any]:
        """One task with its contents."""

    def remove(self, identity: str) -> None:
        """Removes one that does not run."""

    def retry(self, identity: str) -> None:
        """Makes one ready now."""

    def retry_dead(self) -> int:
        """Makes all dead ones ready; how many."""

    def count_dead(self) -> int:
        """How many are dead."""


def root_of(spool: str) -> str:
    """The absolute path of a spool directory. Raises `Failure` when there is none, or it is not ours to read."""
    root = os.path.abspath(spool)
    if not os.path.isdir(root):
        raise Failure(f"there is no spool directory {root}; name it with --spool, or SPOOLNODE_SPOOL")
    if not os.access(root, os.R_OK | os.X_OK):
        raise Failure(f"the spool directory {root} is not yours to read")
    return root


def open_directory(spool: str) -> Directory:
    """The spool directory at that path. Raises `Failure` when there is none."""
    root = root_of(spool)
    try:
        ask(root, "GET", "/status")
    except NotRunning:
        return Stopped(root)
    return Running(root)


def identity_of(text: str) -> str:
    """The id in an id, a file name or a path of a spool file. Raises `Failure` when it cannot be one."""
    identity = names.id_of_file(text.rpartition("/")[2])
    if not names.is_task_id(identity):
        raise Failure(f"{text[:80]!r} is no task id; `spoolnode ls` shows them")
    return identity


class Running:
    """Through the control socket of the node that owns it."""

    def __init__(self, root: str) -> None:
        self._root = root

    def tasks(self, state: str, limit: int) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = ask(self._root, "GET", f"/tasks?state={state}&limit={limit}", BULK_SECONDS)
        return rows

    def task(self, identity: str) -> dict[str, Any]:
        shown: dict[str, Any] = ask(self._root, "GET", f"/tasks/{quote(identity)}")
        return shown

    def remove(self, identity: str) -> None:
        ask(self._root, "DELETE", f"/tasks/{quote(identity)}")

    def retry(self, identity: str) -> None:
        ask(self._root, "POST", f"/tasks/{quote(identity)}/retry")

    def retry_dead(self) -> int:
        return int(ask(self._root, "POST", "/dead/retry", BULK_SECONDS)["ready"])

    def count_dead(self) -> int:
        return int(ask(self._root, "GET", "/status")["dead"])


class Stopped:
    """By its files; whatever changes them holds the lock that a node holds, so that none starts meanwhile."""

    def __init__(self, root: str) -> None:
        self._layout = Layout(root)
        self._keeper = Keeper(RealDisk(), self._layout, _node_id(self._layout))

    def tasks(self, state: str, limit: int) -> list[dict[str, Any]]:
        found = watched(READERS[state](self._keeper, time.time()), f"reading {self._layout.root}")
        return [info._asdict() for info in inspect.soonest(found, limit)]

    def task(self, identity: str) -> dict[str, Any]:
        info, place = self._find(identity)
        try:
            return {**info._asdict(), **inspect.contents(self._keeper, place)}
        except OSError as error:
            raise Failure(f"the task {identity} cannot be read: {error.strerror}") from error
        except BadPacket as error:
            raise Failure(f"the task {identity} cannot be read: {error}") from error

    def remove(self, identity: str) -> None:
        with self._lock():
            info, place = self._find(identity)
            if place.length >= 0:
                number, offset = _record(info)
                self._keeper.finish_waiting(number, offset)
                self._keeper.sync_marks([number], [])
            else:
                with _unless_taken(place.path, identity):
                    self._keeper.disk.unlink(place.path)
                self._keeper.disk.sync_directory(os.path.dirname(place.path))

    def retry(self, identity: str) -> None:
        with self._lock():
            info, place = self._find(identity)
            if info.state == inspect.DEAD:
                self._keeper.revive(info.where)
            elif info.state == inspect.OUTBOX:
                raise Failure(f"the task {identity} waits for another node; it is sent when a node runs here")
            elif place.length >= 0:
                raise Failure(f"the task {identity} lies in a batch file; it can be made ready when its node runs")
            elif info.state != inspect.LATER:
                raise Failure(f"the task {identity} is ready already; it runs when a node with an application runs here")
            else:
                self._keeper.disk.set_mtime(place.path, time.time())

    def retry_dead(self) -> int:
        with self._lock():
            dead = list(inspect.dead_tasks(self._keeper, time.time()))
            for info in watched(dead, "retrying", len(dead)):
                self._keeper.revive(info.where)
            return len(dead)

    def count_dead(self) -> int:
        return inspect.count_files(self._keeper, "dead")

    def _find(self, identity: str) -> tuple[inspect.Info, Any]:
        found = inspect.find_place(self._keeper, identity, time.time())
        if found is None:
            raise Failure(f"there is no task {identity} here: it has ended, was removed, or never was")
        return found

    @contextmanager
    def _lock(self) -> Iterator[None]:
        from spoolnode.node.config import BadConfig
        from spoolnode.node.node import lock_spool

        try:
            with lock_spool(self._layout):
                yield
        except BadConfig as error:
            raise Failure(str(error)) from error
        except OSError as error:
            raise Failure(f"the spool directory {self._layout.root} cannot be changed: {error.strerror or error}") from error


def _node_id(layout: Layout) -> str:
    """The id of the directory's node; a directory of a uWSGI server has none, and no batches."""
    try:
        with open(layout.node_id, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except FileNotFoundError:
        return "-"


def _record(info: inspect.Info) -> tuple[int, int]:
    """The batch and the offset of a record."""
    batch, _, offset = info.where.rpartition(":")
    return int(os.path.basename(batch).partition(".")[0]), int(offset)


@contextmanager
def _unless_taken(path: str, identity: str) -> Iterator[None]:
    """Holds uWSGI's lock of a spool file: a uWSGI server may be running it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Failure(f"the task {identity} is being run by another program") from error
        yield
    finally:
        os.close(descriptor)


def read_block(root: str, where: str) -> dict[bytes, bytes]:
    """The variables of a task, without its body: `where` is as in `inspect.Info`. Empty when they cannot be read."""
    from spoolnode.protocol.packet import HEADER, decode_variables

    path, _, offset = where.rpartition(":") if where.startswith("incoming/") else (where, "", "0")
    try:
        with open(os.path.join(root, path), "rb") as file:
            file.seek(int(offset))
            _, length, _ = HEADER.unpack(file.read(HEADER.size))
            return dict(decode_variables(file.read(length)))
    except (OSError, ValueError, StructError, BadPacket):
        return {}


def function_of(block: dict[bytes, bytes]) -> str:
    """The spooled function that a task is for: ours, or that of uWSGI's decorators; empty when it names none."""
    return (block.get(names.FUNCTION) or block.get(b"ud_spool_func") or b"").decode("utf-8", "replace")


def reason_of(block: dict[bytes, bytes]) -> str:
    """The first line of why a dead task was given up."""
    lines = block.get(names.REASON, b"").decode("utf-8", "replace").splitlines()
    return lines[0] if lines else ""
