"""A spool directory as the commands see it: through its node if one runs, otherwise by its files."""

import fcntl
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from struct import error as StructError
from typing import Any, Protocol
from urllib.parse import quote

from spoolnode.cli import CommandFailure
from spoolnode.cli.printing import watched
from spoolnode.client.control import NotRunning, ask
from spoolnode.node.disk.disk import RealDisk
from spoolnode.node.disk.layout import Layout, is_dead, outbox_ref, reason_ref, ref_id
from spoolnode.node.outbox.revival import destination_again
from spoolnode.node.spool import inspect
from spoolnode.node.spool.place import place_at
from spoolnode.node.spool.store import Store
from spoolnode.protocol import names
from spoolnode.protocol.errors import BadPacket

BULK_SECONDS = 24 * 3600.0
"""How long one request about all dead tasks may take."""

READERS: dict[str, Callable[[Store, float], Iterator[inspect.Info]]] = {
    "waiting": inspect.waiting_tasks,
    "dead": inspect.dead_tasks,
    "outbox": inspect.outbox_tasks,
}


class Directory(Protocol):
    """A spool directory, for the commands. Every method may raise `SpoolnodeError` or `CommandFailure`."""

    def tasks(self, state: str, limit: int) -> list[dict[str, Any]]:
        """Tasks that are waiting (later and running ones too), dead, or in the outbox, in their order; a limit of 0 is none."""

    def task(self, identity: str) -> dict[str, Any]:
        """One task with its contents."""

    def remove(self, identity: str) -> None:
        """Removes a task that does not run."""

    def retry(self, identity: str) -> str:
        """Makes a task ready now. Returns the node that it waits for; empty is this one."""

    def retry_dead(self) -> int:
        """Makes all dead tasks ready. Returns how many."""

    def count_dead(self) -> int:
        """How many are dead."""

    def settle(self) -> None:
        """Gives each task of a batch that does not run a spool file of its own."""


def root_of(spool: str) -> str:
    """The absolute path of a spool directory. Raises `CommandFailure` if it does not exist, or we may not read it."""
    root = os.path.abspath(spool)
    if os.path.isfile(root):
        raise CommandFailure(f"{root} is a file, not a directory; name the spool directory with --spool, or SPOOLNODE_SPOOL")
    if not os.path.isdir(root):
        raise CommandFailure(f"the spool directory {root} does not exist; name yours with --spool, or SPOOLNODE_SPOOL")
    if not os.access(root, os.R_OK | os.X_OK):
        raise CommandFailure(f"you may not read the spool directory {root}")
    return root


def open_directory(spool: str) -> Directory:
    """The spool directory at that path. Raises `CommandFailure` if it does not exist."""
    root = root_of(spool)
    try:
        ask(root, "GET", "/status")
    except NotRunning:
        return StoppedDirectory(root)
    return RunningDirectory(root)


def identity_of(text: str) -> str:
    """The id in an id, a file name or a path of a spool file. Raises `CommandFailure` if it cannot be an id."""
    name = text.rpartition("/")[2]
    identity = names.id_of_file(name) if name.startswith(names.SPOOL_PREFIX) else name
    if not names.is_task_id(identity):
        raise CommandFailure(f"{text[:80]!r} is not a task id; `spoolnode ls` shows the ids")
    return identity


class RunningDirectory:
    """The directory of a running node: everything goes through its control socket."""

    def __init__(self, root: str) -> None:
        self._root = root

    def __repr__(self) -> str:
        return f"<RunningDirectory {self._root}>"

    def tasks(self, state: str, limit: int) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = ask(self._root, "GET", f"/tasks?state={state}&limit={limit}", BULK_SECONDS)
        return rows

    def task(self, identity: str) -> dict[str, Any]:
        shown: dict[str, Any] = ask(self._root, "GET", f"/tasks/{quote(identity)}")
        return shown

    def remove(self, identity: str) -> None:
        ask(self._root, "DELETE", f"/tasks/{quote(identity)}")

    def retry(self, identity: str) -> str:
        return str(ask(self._root, "POST", f"/tasks/{quote(identity)}/retry").get("destination", ""))

    def retry_dead(self) -> int:
        return int(ask(self._root, "POST", "/dead/retry", BULK_SECONDS)["ready"])

    def count_dead(self) -> int:
        return int(ask(self._root, "GET", "/status")["dead"])

    def settle(self) -> None:
        ask(self._root, "POST", "/settle", BULK_SECONDS)


class StoppedDirectory:
    """The directory of a node that does not run. It changes files under the node's lock, so that no node starts meanwhile."""

    def __init__(self, root: str) -> None:
        self._layout = Layout(root)
        self._store = Store(RealDisk(), self._layout, _node_id(self._layout))

    def __repr__(self) -> str:
        return f"<StoppedDirectory {self._layout.root}>"

    def tasks(self, state: str, limit: int) -> list[dict[str, Any]]:
        found = watched(READERS[state](self._store, time.time()), f"reading {self._layout.root}")
        return [info._asdict() for info in inspect.soonest(self._store, found, limit)]

    def task(self, identity: str) -> dict[str, Any]:
        now = time.time()
        found = inspect.find_place(self._store, identity, now) or inspect.find_arrived(self._store, identity, now)
        info, place = found or self._find(identity)
        try:
            return {**info._asdict(), **inspect.contents(self._store, place)}
        except OSError as error:
            raise CommandFailure(f"the task {identity} cannot be read: {error.strerror}") from error
        except BadPacket as error:
            raise CommandFailure(f"the task {identity} cannot be read: {error}") from error

    def remove(self, identity: str) -> None:
        with self._lock():
            info, place = self._find(identity)
            if place.length >= 0:
                batch, offset = place_at(info.where)
                batch.remove(self._store, offset)
                batch.sync(self._store, offset)
            else:
                with _unless_taken(place.path, identity):
                    self._store.remove(info.where)
                self._store.disk.sync_directory(os.path.dirname(place.path))

    def retry(self, identity: str) -> str:
        with self._lock():
            info, place = self._find(identity)
            if info.state == inspect.DEAD:
                return self._revive(info.where)
            if info.state == inspect.OUTBOX:
                raise CommandFailure(f"the task {identity} waits for {info.destination}; it is sent when a node runs here")
            if place.length >= 0:
                raise CommandFailure(f"the task {identity} lies in a batch file; it can be made ready when its node runs")
            if info.state != inspect.LATER:
                raise CommandFailure(f"the task {identity} is ready already; it runs when a node with an application runs here")
            self._store.disk.set_mtime(place.path, time.time())
            return ""

    def _revive(self, where: str) -> str:
        """Puts a dead task back. Returns the node that it waits for; its link gives it a number when a node starts here."""
        asked = destination_again(self._store.block_of(where))
        to = "" if asked == "any" else asked  # the node of this directory is one of any
        self._store.revive(where, outbox_ref(to, ref_id(where), 0) if to else "")
        return to

    def retry_dead(self) -> int:
        with self._lock():
            dead = list(inspect.dead_tasks(self._store, time.time()))
            for info in watched(dead, "retrying", len(dead)):
                self._revive(info.where)
            return len(dead)

    def settle(self) -> None:
        import asyncio

        if os.path.isdir(self._layout.incoming):
            with self._lock():
                asyncio.run(self._settle())

    async def _settle(self) -> None:
        """Uses the node's own code: which records still count, and when they are due, stands in several places."""
        import random

        from spoolnode.node.outbox.links import boot_id
        from spoolnode.node.outbox.storage import Storage
        from spoolnode.node.spool.journal import Journal
        from spoolnode.node.spool.retry import RetryPolicy

        policy = RetryPolicy(max_attempts=0)  # only the node, which knows its settings, gives tasks up
        journal = Journal(RealDisk(), self._layout, self._store.node_id, sync=True, report=lambda _action, **_details: None)
        storage = Storage(journal, policy, random.Random())  # jitter
        storage.load(boot_id(time.time()))
        await storage.settle_all()
        await storage.close()

    def count_dead(self) -> int:
        return inspect.count_files(self._store, "dead")

    def left(self) -> dict[str, Any]:
        """How many tasks are left on disk: for this node, and for others."""
        outbox = Counter(info.destination for info in inspect.outbox_tasks(self._store, 0.0))
        return {"waiting": sum(1 for _ in inspect.waiting_tasks(self._store, 0.0)), "outbox": dict(outbox)}

    def count_addressed(self) -> int:
        """How many of the tasks that wait for this node were addressed to it, not to any node."""
        asked = (
            read_block(self._layout.root, info.where).get(names.NODE, b"") for info in inspect.waiting_tasks(self._store, 0.0)
        )
        return sum(1 for destination in asked if destination not in (b"", b"any") and not destination.startswith(b"tag:"))

    def _find(self, identity: str) -> tuple[inspect.Info, Any]:
        found = inspect.find_place(self._store, identity, time.time())
        if found is None:
            raise CommandFailure(f"there is no task {identity} here: it has ended, was removed, or never existed")
        return found

    @contextmanager
    def _lock(self) -> Iterator[None]:
        from spoolnode.node.config import BadConfig
        from spoolnode.node.spool.hold import lock_spool

        try:
            with lock_spool(self._layout):
                yield
        except BadConfig as error:
            raise CommandFailure(str(error)) from error
        except OSError as error:
            reason = error.strerror or error
            raise CommandFailure(f"the spool directory {self._layout.root} cannot be changed: {reason}") from error


def _node_id(layout: Layout) -> str:
    """The id of the directory's node; the directory of a uWSGI server has neither an id nor batches."""
    try:
        with open(layout.node_id, encoding="ascii", errors="replace") as file:
            return file.read(100).strip()  # it may be anything
    except FileNotFoundError:
        return "-"


@contextmanager
def _unless_taken(path: str, identity: str) -> Iterator[None]:
    """Holds uWSGI's lock of a spool file: a uWSGI server may be running it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CommandFailure(f"the task {identity} is being run by another program") from error
        yield
    finally:
        os.close(descriptor)


def read_block(root: str, where: str) -> dict[bytes, bytes]:
    """The variables of a task, without its body: `where` is as in `inspect.Info`. Empty if they cannot be read."""
    from spoolnode.protocol.packet import HEADER, decode_variables

    place, ref = place_at(where)
    header = place.header(Layout(root), ref)
    try:
        with open(header.path, "rb") as file:
            file.seek(header.base)
            _, length, _ = HEADER.unpack(file.read(HEADER.size))
            block = dict(decode_variables(file.read(length)))
    except (OSError, ValueError, StructError, BadPacket):
        return {}
    if is_dead(where) and names.REASON not in block:
        with suppress(OSError, BadPacket), open(os.path.join(root, reason_ref(where)), "rb") as file:
            block.update(decode_variables(file.read()))
    return block


def function_of(block: dict[bytes, bytes]) -> str:
    """The spooled function that a task calls, ours or one of uWSGI's decorators; empty if it names none."""
    return (block.get(names.FUNCTION) or block.get(b"ud_spool_func") or b"").decode("utf-8", "replace")


def reason_of(block: dict[bytes, bytes]) -> str:
    """The first line of the reason why a dead task was given up."""
    lines = block.get(names.REASON, b"").decode("utf-8", "replace").splitlines()
    return lines[0] if lines else ""
