"""Notices when files of a running node were removed, and makes them again."""

import os
from collections.abc import Callable
from functools import partial

from spoolnode.node.badconfig import BadConfig
from spoolnode.node.control.http import Control
from spoolnode.node.ingress.admission import Admission
from spoolnode.node.ingress.listener import Listener
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.spool.hold import Hold

REMOVED = "the spool directory of this node was removed or moved away"


class Places:
    """The spool directory, with the node's own files and sockets."""

    def __init__(
        self, hold: Hold, own: dict[str, bytes], storage: Storage, admission: Admission, listener: Listener, control: Control,
        report: Callable[..., None], report_rarely: Callable[..., None],
    ) -> None:  # fmt: skip
        """`own`: small files to write again, as path -> contents."""
        self._hold = hold
        self._own = own
        self._storage = storage
        self._layout = storage.journal.layout
        self._admission = admission
        self._listener = listener
        self._control = control
        self._report = report
        self._report_rarely = report_rarely
        self._is_lost = False
        """Whether the directory is no longer where it was."""

    def __repr__(self) -> str:
        return f"<Places in {self._layout.root}{', which is gone' * self._is_lost}>"

    async def look(self) -> None:
        """Reports files that were removed and a directory that was moved away, and makes again what it can."""
        was_lost, self._is_lost = self._is_lost, False
        try:
            if made := await self._make_missing():
                self._report("made_anew", names=made, reason="they were missing, or the disk had no room for them")
        except (FileNotFoundError, NotADirectoryError) as error:
            self._is_lost = True
            if not was_lost:
                hint = "tasks are refused until it is back"
                self._report("spool_lost", spool=self._layout.root, reason=error.strerror, hint=hint)
        except (OSError, BadConfig) as error:
            self._report_rarely("move_failed", move="make again", reason=str(error))
        if was_lost and not self._is_lost:
            self._report("spool_back", spool=self._layout.root)
        self._admission.pause(REMOVED if self._is_lost else "")

    async def _make_missing(self) -> list[str]:
        """Makes missing files again. Returns their names. Raises OSError, BadConfig."""
        sockets = [*self._listener.paths, self._layout.control]
        made, gone = await self._storage.journal.moves.run(partial(self._mend, sockets))
        made += await self._storage.save_missing()
        return [*made, *self._listener.listen_again(gone), *await self._control.listen_again(gone)]

    def _mend(self, sockets: list[str]) -> tuple[list[str], set[str]]:
        """Makes missing files again. Returns them, and which of these sockets have lost their names. Blocks."""
        made = self._hold.mend(self._storage.journal.store, self._own)
        return made, {path for path in sockets if not os.path.lexists(path)}
