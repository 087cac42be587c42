"""`spoolnode store push` on a directory in which no tasks were ever kept leaves it as it is."""

import os
from pathlib import Path

from support import command


def test_a_directory_that_is_not_a_spool_is_told_and_nothing_is_made_there(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("root")
    done = command("store", "push", "--store", "postgresql://127.0.0.1:1/none", "-Q", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == (
        f"Error: {tmp_path} is not a spool directory: it has neither tasks nor the files of a node; "
        "name yours with --spool, or SPOOLNODE_SPOOL\n"
    )
    assert os.listdir(tmp_path) == ["passwd"]
