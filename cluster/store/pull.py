"""Tasks from a common store back into the spool directory of a stopped node: each once, repeatable after any interruption.

    1. claim tasks, write their files below pulled/, where no node looks, and make these safe
    2. give the tasks in the store to this directory alone: their destination becomes `pull:DIRECTORY`
    3. move the files to where a node looks, and make that safe
    4. end the tasks in the store

A pull that was interrupted is finished by the next one. A file below pulled/ whose task is this directory's was interrupted
between 2 and 3, and is moved; any other is removed, since its task is still the store's. A task that is this directory's and has
no file below pulled/ has been moved, and is ended.

The directory must be locked.
"""

import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from spoolnode.cluster.store.interface import ANY, Again, CommonStore, Lease, Leased, StoredTask, TaskState
from spoolnode.node.disk.layout import outbox_ref, ref_id
from spoolnode.node.spool.store import Store
from spoolnode.protocol import names
from spoolnode.protocol.packet import decode_variables, encode_variables
from spoolnode.protocol.spoolfile import MAX_ATTEMPTS, head

GROUP = 100
"""Tasks that are moved together."""
LEASE = 60.0
"""Seconds for which they are claimed. A pull that dies holds them for so long."""
SHORT_LEASE = 10.0
"""Seconds for which they are held to be ended."""
PULLED = "pulled"
"""The directory below the spool for files that no node may see yet."""
_OWN = "pull:"
"""The beginning of the destination of tasks that one directory has for itself; not the name of a node."""


@dataclass
class Pull:
    """Moves tasks from a store into one directory."""

    store: Store
    common: CommonStore
    node: str | None = None
    """Only tasks for the node of this name, which is the one that runs here; None: all."""

    async def run(self) -> int:
        """Moves all that waits. Returns how many tasks were moved."""
        self._prepare()
        moved = await self._finish()
        for state in (TaskState.READY, TaskState.LATER):
            cursor, is_first = "", True
            while is_first or cursor:
                page = await self.common.list(state, GROUP, cursor)
                cursor, is_first = page.next, False
                wanted = [found.task.id for found in page.tasks if self._is_wanted(found.task)]
                if wanted:
                    await self._stage(await self.common.claim(wanted, LEASE))
                    moved += await self._finish()
        return moved

    def _is_wanted(self, task: StoredTask) -> bool:
        return task.to == self.node if self.node else not task.to.startswith(_OWN)

    @property
    def _destination(self) -> str:
        """The destination that means this directory."""
        with open(self._path("id"), encoding="ascii") as file:
            return _OWN + file.read().strip()

    def _prepare(self) -> None:
        disk = self.store.disk
        disk.make_directory(self._path(""))
        if not os.path.exists(self._path("id")):
            self.store.replace(self._path("id"), secrets.token_hex(8).encode())

    def _path(self, name: str) -> str:
        return self.store.layout.path(os.path.join(PULLED, name))

    # -- steps 1 and 2 --

    async def _stage(self, claimed: Sequence[Leased]) -> None:
        """Writes the files of tasks, and gives the tasks to this directory alone."""
        if not claimed:
            return
        since = time.time()
        first = {task.id: lease for lease, task in reversed(claimed)}
        for number, (lease, task) in enumerate(claimed):
            if first[task.id] == lease:
                # The order of files is that of their times.
                await self._write(lease, task, task.due if task.due > since else since + number / 1e6)
        # The time when a task is due is that of its file now. Two of one id, with other hops, would be one file: one stays.
        mine = self._destination
        await self.common.again([
            Again(lease, to=mine) if first[task.id] == lease else Again(lease, task.due) for lease, task in claimed
        ])  # fmt: skip

    async def _write(self, lease: Lease, task: StoredTask, mtime: float) -> None:
        """Writes the file of a task below pulled/, and makes it safe."""
        disk, ref = self.store.disk, self._staged_ref(task)
        self._make_directories(os.path.dirname(ref))
        path = self.store.layout.path(f"{PULLED}/unfinished")
        with suppress(FileNotFoundError):
            disk.unlink(path)
        descriptor = disk.create(path)
        try:
            # In outbox/ an attempt is one to send it.
            attempts = 0 if ref.startswith(f"{PULLED}/outbox/") else min(task.attempts, MAX_ATTEMPTS)
            begin = head(_with_hop(task), attempts)
            disk.write(descriptor, begin, 0)
            offset = len(begin)
            async for chunk in self.common.body(lease):
                disk.write(descriptor, chunk, offset)
                offset += len(chunk)
            disk.set_mtime(path, mtime)
            disk.sync(descriptor)
        finally:
            disk.close(descriptor)
        disk.rename(path, self.store.layout.path(ref))
        disk.sync_directory(self.store.layout.directory_of(ref))

    def _staged_ref(self, task: StoredTask) -> str:
        """Where its file lies below pulled/: as it will lie below the spool."""
        if task.to in (ANY, self.node):
            name = names.file_name(task.id)
            ref = name if task.rank == names.LAST else f"{task.rank}/{name}"
        else:
            ref = outbox_ref(task.to, task.id, 0)
        return f"{PULLED}/{ref}"

    def _make_directories(self, directory: str) -> None:
        path = ""
        for part in directory.split("/"):
            path = os.path.join(path, part)
            self.store.disk.make_directory(self.store.layout.path(path))
            self.store.disk.sync_directory(self.store.layout.directory_of(path))

    # -- steps 3 and 4 --

    async def _finish(self) -> int:
        """Moves the staged files whose tasks are this directory's, and ends those. Returns how many were moved."""
        destination, moved = self._destination, 0
        for ref in list(self._staged()):
            found = await self.common.find(ref_id(ref.removeprefix(f"{PULLED}/")))
            # One that has ended was a duplicate when it was given to this directory, and another task does its work; or this
            # pull was interrupted before that, and it ran elsewhere. In the end it is forgotten.
            is_ours = found is not None and found.task.to == destination and found.state != TaskState.ENDED
            if not is_ours:
                self.store.disk.unlink(self.store.layout.path(ref))
            else:
                self._publish(ref)
                moved += 1
        while ours := await self.common.take(GROUP, [destination], SHORT_LEASE):
            await self.common.end([lease for lease, _ in ours])
        return moved

    def _staged(self) -> Iterator[str]:
        """The files below pulled/."""
        for directory, _, files in os.walk(self._path("")):
            below = os.path.relpath(directory, self.store.layout.root)
            yield from (os.path.join(below, name) for name in files if name.startswith(names.SPOOL_PREFIX))

    def _publish(self, ref: str) -> None:
        """Moves a file to where a node looks."""
        target = ref.removeprefix(f"{PULLED}/")
        if "/" in target:
            self._make_directories(os.path.dirname(target))
        if not target.startswith("outbox/"):
            target = self.store.free_ref(target)
        self.store.disk.rename(self.store.layout.path(ref), self.store.layout.path(target))
        for moved in (target, ref):
            self.store.disk.sync_directory(self.store.layout.directory_of(moved))


def _with_hop(task: StoredTask) -> bytes:
    """Its variables as they lie on the disk: it was handed on once more, so that a later push is not taken for a repeat."""
    kept = [item for item in decode_variables(task.block) if item[0] != names.HOPS]
    return encode_variables([*kept, (names.HOPS, str(min(task.hops + 1, names.MOST_HOPS)).encode())])
