"""Of the tasks with one key, one waits. A further one is not run: its sender gets the id of the one that waits.

It is stored all the same, as every task, and decided about when it is safe: so two that come at once need no order before their
commit, none is answered before the first one is safe, and one that came over a link proves its number. Then it leaves the disk
at once. If the node or its machine dies in between, both wait, and both run.
"""

from array import array
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from spoolnode.node.spool.files import SpoolFiles
from spoolnode.node.spool.group_commit import Group
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.queue import Ref
from spoolnode.node.spool.tasks import Source, WaitingFile
from spoolnode.node.spool.waiting_keys import WaitingKeys
from spoolnode.node.story.notes import MERGED


class Duplicates:
    """Finds the tasks whose work another one will do, and ends them."""

    def __init__(
        self, keys: WaitingKeys, files: SpoolFiles, journal: Journal, end: Callable[[Source, list[Ref]], None]
    ) -> None:  # fmt: skip
        """`end`: is told which tasks have left the disk."""
        self._keys = keys
        self._files = files
        self._journal = journal
        self._end = end
        self.count = 0
        """Tasks that were not run for it."""

    def __repr__(self) -> str:
        return f"<Duplicates: {self.count} so far, {self._keys!r}>"

    def removed_from(self, group: Group) -> Group:
        """The tasks of a group that is safe, without the duplicates. Notes in the group which tasks wait in their place."""
        batch, kept = group.batch, []
        for position, offset in enumerate(group.offsets):
            key = group.keys.get(offset)
            first = self._keys.first(key) if key is not None else None
            if first is not None:
                group.merged[offset] = self._journal.id_of(*first)
                continue
            if key is not None:
                self._keys.add(batch, offset, key)
            kept.append(position)
        if len(kept) == len(group.offsets):
            return group
        self._tell(group)
        self._remove(batch, [offset for offset in group.offsets if offset in group.merged])
        offsets, callers = array("I", [group.offsets[at] for at in kept]), [group.callers[at] for at in kept]
        return replace(group, offsets=offsets, callers=callers)

    async def place(self, file: WaitingFile, job: Callable[[], Any]) -> str:
        """Runs `job`, which gives the file its name, in the store thread. Then its task waits, unless it is a duplicate.

        Returns the id of the task that waits in its place; empty if it waits itself.
        """
        with self._journal.placing():
            await self._journal.moves.run(job)
            return self.enter(file)

    def enter(self, file: WaitingFile) -> str:
        """The same for a file that has its name."""
        ref, due, key = file
        if key and (first := self._keys.first(key)) is not None:
            identity = self._journal.id_of(*first)
            self._journal.note(MERGED, self._files, [ref], into=identity)
            self._remove(self._files, [ref])
            return identity
        if key:
            self._keys.add(self._files, ref, key)
        self._files.schedule(ref, due)
        return ""

    def _tell(self, group: Group) -> None:
        """Tells the stories of duplicates from other nodes. Those of others would be of ids that were never told."""
        story, number = self._journal.story, group.batch.number
        for offset, caller in zip(group.offsets, group.callers, strict=True):
            if offset in group.merged and offset in group.origins:
                story.accepted(number, [offset], [caller], group.origins, group.functions)
                self._journal.note(MERGED, group.batch, [offset], into=group.merged[offset])

    def _remove(self, source: Source, refs: list[Ref]) -> None:
        """Takes duplicates off the disk. If it fails they are not run either, unless the node starts again."""
        self.count += len(refs)
        source.in_flight.update(refs)
        place, store = source.place, self._journal.store

        def removed(result: None, error: BaseException | None) -> None:
            self._journal.reported("remove a duplicate", source, refs[0])(result, error)
            self._end(source, refs)

        self._journal.moves.submit(lambda: place.leave(store, refs), removed)
