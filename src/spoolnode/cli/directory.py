"""A spool directory as the commands see it: through its node if one runs, otherwise by its files."""

import fcntl
import gc
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from spoolnode.cli import CommandFailure
from spoolnode.client.cancel_request import user
from spoolnode.client.control import NotRunning, ask, ask_to_cancel, perhaps_sent
from spoolnode.node.control import resources
from spoolnode.node.control.ages import ages, as_answer
from spoolnode.node.control.choice import Choice
from spoolnode.node.control.dead_kinds import DeadKinds
from spoolnode.node.control.ended_page import ENDED, WantedEnds, ended_page
from spoolnode.node.control.hidden import Hidden
from spoolnode.node.control.pages import MOST_ROWS, Wanted, page, variables_of
from spoolnode.node.disk.disk import RealDisk
from spoolnode.node.disk.layout import Layout, outbox_ref, ref_id
from spoolnode.node.outbox.revival import destination_again
from spoolnode.node.spool import inspect
from spoolnode.node.spool.pauses import Paused
from spoolnode.node.spool.place import place_at
from spoolnode.node.spool.store import Store
from spoolnode.node.story.ended import ENDS
from spoolnode.protocol import names
from spoolnode.protocol.cancel import cancelled_by
from spoolnode.protocol.errors import BadPacket
from spoolnode.protocol.forward import undeliverable

BULK_SECONDS = 24 * 3600.0
"""How long one request about all dead tasks may take."""

CANCEL = "spoolnode cancel"
"""The means by which a task is cancelled here, for its reason."""


class Directory(Protocol):
    """A spool directory, for the commands. Every method may raise `SpoolnodeError` or `CommandFailure`."""

    missing: str
    """Why tasks were missing in the last list, or were not reached by the last action; empty if none was."""

    def tasks(self, states: Sequence[str], limit: int, choice: Choice | None = None) -> tuple[list[dict[str, Any]], bool]:
        """Tasks in these states, in their order, and whether there are more; a limit of 0 is none."""

    def task(self, identity: str) -> dict[str, Any]:
        """One task with its contents."""

    def remove(self, identity: str) -> None:
        """Removes a task that does not run."""

    def cancel(self, identity: str, grace: float) -> str:
        """Ends a task for good; a running one gets so many seconds for that. Returns a sentence if it had ended well before."""

    def retry(self, identity: str) -> str:
        """Makes a task ready now. Returns the node that it waits for; empty is this one."""

    def ages(self, by: str) -> dict[str, Any]:
        """Counts the waiting tasks by their age, as `GET /ages` of the API does."""

    def count_dead(self, choice: Choice, by: str) -> dict[str, Any]:
        """Counts the dead tasks that are meant, as `GET /dead` of the API does."""

    def retry_dead(self, choice: Choice, limit: int) -> tuple[int, int]:
        """Makes the first so many of the dead tasks that are meant ready. Returns how many they were, and how many are left."""

    def remove_dead(self, choice: Choice, limit: int) -> tuple[int, int]:
        """Removes them, chosen as for `retry_dead`. Returns the same."""

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
        ask(root, "GET", "/pauses")
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
        self.missing = ""
        self._place = ""
        """Where the next part of an action on dead tasks begins in the common store; empty: on the disk."""

    def __repr__(self) -> str:
        return f"<RunningDirectory {self._root}>"

    def tasks(self, states: Sequence[str], limit: int, choice: Choice | None = None) -> tuple[list[dict[str, Any]], bool]:
        rows: list[dict[str, Any]] = []
        query = {"state": ",".join(states), "limit": f"{limit or MOST_ROWS}", **_query(choice or Choice())}
        while True:
            answer = ask(self._root, "GET", f"/tasks?{urlencode(query)}", BULK_SECONDS)
            rows += answer["items"]
            self.missing = answer["missing"]
            if answer["next"] is None or 0 < limit <= len(rows):
                return rows, answer["next"] is not None
            query |= {"cursor": answer["next"], "limit": f"{limit - len(rows) if limit else MOST_ROWS}"}

    def task(self, identity: str) -> dict[str, Any]:
        shown: dict[str, Any] = ask(self._root, "GET", f"/tasks/{quote(identity)}")
        return shown

    def remove(self, identity: str) -> None:
        ask(self._root, "DELETE", f"/tasks/{quote(identity)}")

    def cancel(self, identity: str, grace: float) -> str:
        return ask_to_cancel(self._root, identity, CANCEL, grace)

    def retry(self, identity: str) -> str:
        return str(ask(self._root, "POST", f"/tasks/{quote(identity)}/retry")["destination"] or "")

    def ages(self, by: str) -> dict[str, Any]:
        counted: dict[str, Any] = ask(self._root, "GET", f"/ages?{urlencode({'by': by})}", BULK_SECONDS)
        return counted

    def count_dead(self, choice: Choice, by: str) -> dict[str, Any]:
        counted: dict[str, Any] = ask(self._root, "GET", f"/dead?{urlencode({'by': by, **_query(choice)})}", BULK_SECONDS)
        return counted

    def retry_dead(self, choice: Choice, limit: int) -> tuple[int, int]:
        return self._act_on_dead("POST", "/dead/retry", "ready", choice, limit)

    def remove_dead(self, choice: Choice, limit: int) -> tuple[int, int]:
        return self._act_on_dead("DELETE", "/dead", "removed", choice, limit)

    def _act_on_dead(self, method: str, path: str, done: str, choice: Choice, limit: int) -> tuple[int, int]:
        place = {"cursor": self._place} if self._place else {}
        answer = ask(self._root, method, f"{path}?{urlencode({'limit': limit, **place, **_query(choice)})}", BULK_SECONDS)
        self._place, self.missing = answer["next"] or "", answer["missing"]
        return answer[done], answer["left"] or bool(answer["next"])

    def settle(self) -> None:
        ask(self._root, "POST", "/settle", BULK_SECONDS)


def _query(choice: Choice) -> dict[str, str]:
    return {name: str(value) for name, value in choice._asdict().items() if value is not None}


@contextmanager
def _no_garbage() -> Iterator[None]:
    """No search for garbage meanwhile: a hundred thousand new entries hold none, and it would take a sixth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class StoppedDirectory:
    """The directory of a node that does not run. It changes files under the node's lock, so that no node starts meanwhile."""

    missing = ""

    def __init__(self, root: str) -> None:
        self._layout = Layout(root)
        self._store = Store(RealDisk(), self._layout, node_id_of(self._layout))
        self._kinds = DeadKinds(self._store)

    def __repr__(self) -> str:
        return f"<StoppedDirectory {self._layout.root}>"

    def tasks(self, states: Sequence[str], limit: int, choice: Choice | None = None) -> tuple[list[dict[str, Any]], bool]:
        if ENDED in states:
            return self._ended(WantedEnds(choice or Choice(), limit or sys.maxsize - 1))
        found = page(self._store, Wanted(states, choice or Choice(), limit or sys.maxsize - 1), time.time())
        paused = paused_in(self._layout.root)
        return [resources.of_task(listed, {}, paused, lambda _: "") for listed in found.items], found.next is not None

    def task(self, identity: str) -> dict[str, Any]:
        now = time.time()
        found = inspect.find_place(self._store, identity, now) or inspect.find_arrived(self._store, identity, now)
        story = self._story(identity if found is None else found[0].id)
        if found is None and story:
            state = inspect.ENDED if story[-1]["event"] in ENDS else inspect.UNKNOWN
            return {"id": story[0]["id"], "state": state, "story": story}
        info, place = found or self._find(identity)
        try:
            shown = hidden().in_task(inspect.contents(self._store, place))
            return {**resources.of_contents(info._asdict() | shown), "story": story}
        except OSError as error:
            raise CommandFailure(f"the task {identity} cannot be read: {error.strerror}") from error
        except BadPacket as error:
            raise CommandFailure(f"the task {identity} cannot be read: {error}") from error

    def _ended(self, wanted: WantedEnds) -> tuple[list[dict[str, Any]], bool]:
        import asyncio
        from sqlite3 import Error

        from spoolnode.node.story.database import BeganAgain, StoryDatabase

        database = StoryDatabase(self._layout)

        async def read(*asked: Any) -> Any:
            return database.ends(*asked)

        try:
            rows, cursor = asyncio.run(ended_page(read, wanted))
        except (BeganAgain, OSError, Error):
            return [], False
        finally:
            database.close()
        return [resources.of_ended(task) for task in rows], cursor is not None

    def _story(self, identity: str) -> list[dict[str, Any]]:
        """The story of a task; empty if nothing is known."""
        from sqlite3 import Error

        from spoolnode.node.story.database import BeganAgain, StoryDatabase

        database = StoryDatabase(self._layout)
        try:
            return [step.shown() for step in database.steps(identity)]
        except (BeganAgain, OSError, Error):
            return []
        finally:
            database.close()

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

    def cancel(self, identity: str, grace: float) -> str:  # noqa: ARG002  # nothing runs
        with self._lock():
            info, location = inspect.find_arrived(self._store, identity) or self._find(identity)
            if info.state == inspect.DEAD:
                raise CommandFailure(f"the task {identity} is dead already")
            place, ref = place_at(info.where)
            to = info.destination if info.state == inspect.OUTBOX else None
            number = (info.sequence_number or 0) if to is not None and info.attempts else 0
            reason = cancelled_by(f"{user()} ({CANCEL})", number)
            if to is not None:
                reason = undeliverable(to, reason)
            with _unless_taken(location.path, identity) if location.length < 0 else nullcontext():
                place.bury(self._store, ref, reason, info.attempts)
            place.sync(self._store, ref)
            if to is not None and info.attempts:
                raise perhaps_sent(identity, to)
            return ""

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

    def ages(self, by: str) -> dict[str, Any]:
        return as_answer(ages(self._store, by, time.time()), by, {})

    def count_dead(self, choice: Choice, by: str) -> dict[str, Any]:
        with _no_garbage():
            return {**self._kinds.count(choice, by)._asdict(), "more_in_store": False, "missing": ""}

    def retry_dead(self, choice: Choice, limit: int) -> tuple[int, int]:
        return self._act_on_dead(self._revive, choice, limit)

    def remove_dead(self, choice: Choice, limit: int) -> tuple[int, int]:
        removed = self._act_on_dead(self._store.remove, choice, limit)
        self._store.disk.sync_directory(self._layout.dead)
        return removed

    def _act_on_dead(self, act: Callable[[str], object], choice: Choice, limit: int) -> tuple[int, int]:
        with self._lock():
            with _no_garbage():
                count, part = 0, self._kinds.take(choice, limit)
            for where in part.files:
                with suppress(FileNotFoundError):  # it was removed by hand
                    act(where)
                    count += 1
            return count, part.left

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

    def left(self) -> dict[str, Any]:
        """How many tasks are left on disk: for this node, and for others."""
        outbox = Counter(info.destination for info in inspect.outbox_tasks(self._store, 0.0))
        return {"waiting": sum(1 for _ in inspect.waiting_tasks(self._store, 0.0)), "outbox": dict(outbox)}

    def count_addressed(self) -> int:
        """How many of the tasks that wait for this node were addressed to it, not to any node."""
        asked = (variables_of(self._store, info).get(names.NODE, b"") for info in inspect.waiting_tasks(self._store, 0.0))
        return sum(1 for destination in asked if destination not in (b"", b"any") and not destination.startswith(b"tag:"))

    def _find(self, identity: str) -> tuple[inspect.Info, Any]:
        now = time.time()
        found = inspect.find_place(self._store, identity, now) or inspect.find_arrived(self._store, identity, now)
        if found is None:
            raise CommandFailure(f"there is no task {identity} here: it has ended, was removed, or never existed")
        return found

    @contextmanager
    def _lock(self) -> Iterator[None]:
        try:
            with locked(self._layout):
                yield
        except OSError as error:
            reason = error.strerror or error
            raise CommandFailure(f"the spool directory {self._layout.root} cannot be changed: {reason}") from error


@contextmanager
def locked(layout: Layout) -> Iterator[None]:
    """Holds a spool directory, so that no node starts on it meanwhile. Raises `CommandFailure` if one runs."""
    from spoolnode.node.badconfig import BadConfig
    from spoolnode.node.spool.hold import lock_spool

    try:
        with lock_spool(layout):
            yield
    except BadConfig as error:
        raise CommandFailure(str(error)) from error


def node_id_of(layout: Layout) -> str:
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


def hidden() -> Hidden:
    """The names whose values are not shown without a node: those of the environment or its settings file, or the usual ones."""
    from spoolnode.cli.settings import gather

    return Hidden(gather({}, os.environ).config.hide)


def paused_in(spool: str) -> Paused:
    """Reads what is paused in a spool directory, with or without a running node."""
    try:
        with open(Layout(os.path.abspath(spool)).paused, "rb") as file:
            return Paused.decode(file.read())
    except (OSError, ValueError):  # nothing is, or the file makes no sense, and the node says so
        return Paused()
