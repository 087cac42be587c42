"""The files that make a directory the spool of one node: removed under it they come again, whatever happens meanwhile."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from spoolnode.node.disk.disk import RealDisk
from spoolnode.node.disk.layout import Layout
from spoolnode.node.spool.hold import lock_spool
from spoolnode.node.spool.identity import read_identity
from spoolnode.node.spool.recovery import prepare
from spoolnode.node.spool.store import Store


class Killed(BaseException):
    """The process ends here."""


def nothing(*_: Any, **__: Any) -> None: ...


class Doomed(Store):
    """Writes so many files, and is killed before the next one."""

    lives = 0

    def replace(self, path: str, data: bytes) -> None:
        if not self.lives:
            raise Killed
        self.lives -= 1
        super().replace(path, data)


@pytest.mark.parametrize("lives", [0, 1])
def test_a_kill_while_they_are_written_again_gives_no_id_another_key(tmp_path: Path, lives: int) -> None:
    layout = Layout(str(tmp_path))
    with lock_spool(layout) as hold:
        prepare(Store(RealDisk(), layout, ""), nothing)
        before = read_identity(layout, nothing)
        for path in tmp_path.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        doomed = Doomed(RealDisk(), layout, before.id)
        doomed.lives = lives
        with pytest.raises(Killed):
            hold.mend(doomed, before.files(layout))
    after = read_identity(layout, nothing)
    assert after.id != before.id or after.secret == before.secret
