"""Keeps on disk which name belongs to which node (`known`), so that nodes prove it once and not at each start."""

from spoolnode.cluster.known import Known
from spoolnode.node.background import spawn
from spoolnode.node.log import Report
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.recovery import read_small


class KnownFile:
    """The file `known` of a spool directory. A change is written soon; a failed write is tried again at each tick.

    Args:
        journal: the disk and its threads.
        report: told of a file that cannot be read or written.
    """

    def __init__(self, journal: Journal, report: Report) -> None:
        self._journal = journal
        self._report = report
        self._path = journal.layout.known
        self.known = self._read()
        self._kept = self.known.version
        """The version that is on the disk."""
        self._is_writing = self._has_failed = False

    def _read(self) -> Known:
        """Reads `known`. Never raises: a node starts whatever its directory holds."""
        try:
            data = read_small(self._journal.store, self._path, self._report)
            return Known.decode(data) if data is not None else Known()
        except (OSError, ValueError) as error:
            self._report("known_damaged", reason=f"{self._path} cannot be read, so nodes must prove their names again: {error}")
        return Known()

    def changed(self) -> None:
        """Writes a possible change, unless the last write failed."""
        if not self._has_failed:
            self.tick()

    def tick(self) -> None:
        """Writes changes."""
        if self.known.version != self._kept and not self._is_writing:
            self.write()

    def write(self) -> None:
        """Writes it now."""
        spawn(self.save())

    async def save(self) -> None:
        """Writes it, and returns when that is safe or has failed."""
        version, data = self.known.version, self.known.encode()
        self._is_writing = True
        try:
            await self._journal.moves.run(lambda: self._journal.store.replace(self._path, data))
            self._kept, self._has_failed = version, False
        except OSError as error:  # reported once
            if not self._has_failed:
                self._report("sync_failed", file="known", reason=str(error))
            self._has_failed = True
        finally:
            self._is_writing = False
