"""The spool files that wait here: noticed when they come, scheduled by their times, forgotten when they are gone."""

import os
import time
from collections.abc import Callable, Iterable, MutableSequence
from typing import Any

from spoolnode.node.disk.layout import rank_of, ref_id
from spoolnode.node.spool.clock import correct_times
from spoolnode.node.spool.functions import NONE
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.queue import Ref
from spoolnode.node.spool.recovery import FoundFile, spool_files
from spoolnode.node.spool.retrying import ENDED_BEFORE, Retrying
from spoolnode.node.spool.tasks import Files, Removable
from spoolnode.node.spool.waiting import Waiting
from spoolnode.node.spool.waiting_keys import WaitingKeys
from spoolnode.node.story.notes import FOUND
from spoolnode.protocol.names import accepted_in, file_name

UNSURE_SECONDS = 2.0
"""A file found by a scan (not by an event) may still be written to; it is left alone until this age."""


class SpoolFiles(Files):
    """The source of all tasks that wait here and have a file of their own; `known` says when each is due, 0.0 is now."""

    __slots__ = ("_journal", "_keys", "_landing", "_retrying", "_waiting", "directories")

    def __init__(self, journal: Journal, waiting: Waiting, retrying: Retrying, keys: WaitingKeys) -> None:
        super().__init__()
        self._journal = journal
        self._keys = keys
        self._waiting = waiting
        self._retrying = retrying
        self._landing: Callable[[], None] = lambda: None
        self.directories: set[str] = set()
        """The directories where they are or were: "" for the top, "5/" for a priority."""

    def when_landing(self, call: Callable[[], None]) -> None:
        """Has `call` called just before a worker gives back a file that stays."""
        self._landing = call

    # -- what comes and goes --

    def notice(self, ref: str, mtime: float, now: float, *, sure: bool, key: bytes = b"") -> None:
        """Notes a spool file that was found: a new one, or one whose time has changed.

        Args:
            sure: its writer has closed it, so it is whole.
            key: the fingerprint of its key, if this node knows that it has one.
        """
        if ref in self.in_flight:
            return
        due = mtime if mtime > now else 0.0
        if not due and not sure and now - mtime < UNSURE_SECONDS:
            due = mtime + UNSURE_SECONDS
        known = self.known.get(ref)
        if known is not None and (known == due or (not known and not due)):
            return
        if known is None:
            self._journal.counts.found += 1
            if accepted_in(ref_id(ref)) is None:  # the story of one with an id of a node has begun there
                self._journal.note(FOUND, self, [ref])
            if key:
                self._keys.add(self, ref, key)
        self.schedule(ref, due)

    def adopt(self, file: FoundFile, now: float) -> None:
        """Notes a spool file that a start has found."""
        self.notice(file.ref, file.mtime, now, sure=False, key=file.key)
        if file.attempts:
            self._retrying.fail(self, file.ref, self._journal.id_of(self, file.ref), ENDED_BEFORE)

    def put(self, ref: str, due: float, key: bytes) -> None:
        """Takes a file that this node itself has put there.

        Args:
            due: when it is due; 0.0 is now.
            key: the fingerprint of its key; empty if it has none.
        """
        if key:
            self._keys.add(self, ref, key)
        self.schedule(ref, due)

    def schedule(self, ref: str, due: float) -> None:
        """A file is to run when it is due (0.0: now)."""
        known = self.note(ref, due)
        if due:
            self._waiting.wait(self, ref, rank_of(ref), due)
        elif known is None or known:
            self._waiting.ready.add(self, [ref], rank_of(ref))
            self._waiting.changed()

    def note(self, ref: str, due: float) -> float | None:
        """A file is there; when it was due until now, or None when it was not known."""
        known = self.known.get(ref)
        if known:
            self._waiting.later.remove(self, ref)
        self.known[ref] = due
        if "/" in ref:
            self.directories.add(ref[: ref.rindex("/") + 1])
        return known

    def forget(self, ref: str) -> None:
        """Notes that a file was removed or moved by hand."""
        if ref not in self.in_flight:
            self.functions.pop(ref, None)
            if self.known.pop(ref, None):
                self._waiting.later.remove(self, ref)
            self._retrying.forget(self, [ref])
            self._keys.forget(self, [ref])

    async def clock_was_set_back(self) -> None:
        """Files that had no time in the future before have none now."""
        store = self._journal.store
        found = await self._journal.moves.run(lambda: correct_times(store, list(spool_files(store)), time.time()))
        for ref, mtime in found.items():
            if ref in self.known:
                self.notice(ref, mtime, time.time(), sure=True)

    def find(self, identity: str) -> str | None:
        """The file of the task of that id."""
        name = file_name(identity)
        if "%" in identity and name not in self.known:  # the id stands for the odd name of its file
            return next((ref for ref in self.known if ref_id(ref) == identity), None)
        return next((ref for directory in ("", *self.directories) if (ref := f"{directory}{name}") in self.known), None)

    # -- as a source --

    def ready(self, refs: MutableSequence[Any]) -> tuple[MutableSequence[Any], list[str]]:
        # A file whose time was changed may have several places in the queue, perhaps side by side.
        return [ref for ref in dict.fromkeys(refs) if self.known.get(ref) == 0.0 and ref not in self.in_flight], []

    def sequence_number(self, ref: Ref) -> int:  # noqa: ARG002  # they never have any
        return 0

    def accepted_at(self, ref: Ref) -> float:
        """When a task was accepted, as its file says; of a file that is gone: now."""
        try:
            return os.lstat(self._journal.layout.path(str(ref))).st_mtime
        except OSError:
            return time.time()

    def put_off(self, ref: Ref, due: float) -> bool:
        if ref not in self.known:
            return False
        self.known[str(ref)] = due
        return True

    def learn(self, ref: Ref, function: int) -> None:
        if function > NONE:
            super().learn(ref, function)

    def withdraw(self, queue: Removable, ref: Ref) -> int | None:  # noqa: ARG002  # its old place there is passed over
        return rank_of(str(ref)) if ref in self.known else None

    def land(self, refs: Iterable[Any]) -> None:
        self._landing()
        super().land(refs)
