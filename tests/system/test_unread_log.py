"""A log that takes nothing more (its disk is full, its reader is stuck or gone) costs lines, and nothing else."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import RunningNode, eventually
from watch import NOTES, notes

import spoolnode

APP = (
    NOTES
    + """
def spooler(env):
    print("x" * 20_000)
    note(env["n"])
    if env["n"] == "fails":
        raise ValueError("no")

uwsgi.spooler = spooler
"""
)


class Unheard(RunningNode):
    """A node whose log goes to `log_file`."""

    log_file = "/dev/full"

    def command_line(self, args: list[str]) -> list[str]:
        """Its standard error leads there, not to us."""
        return ["sh", "-c", f'exec "$@" 2>{self.log_file}', "sh", *args]

    @property
    def via(self) -> str:
        """Its own socket: nobody has heard its port."""
        return str(self.spool / "spool.sock")


@pytest.fixture
def unheard(tmp_path: Path) -> Iterator[Unheard]:
    """Not started yet."""
    node = Unheard(tmp_path)
    yield node
    node.clean_up()


def works(node: Unheard, tasks: int) -> None:
    """Sends tasks, the last of which fails, and sees that all are run and accounted for."""
    for number in range(tasks):
        spoolnode.send_to_spooler({"n": str(number)}, via=node.via)
    spoolnode.send_to_spooler({"n": "fails"}, via=node.via)
    eventually(lambda: len(notes(node)) >= tasks + 1, "all have run")
    eventually(lambda: [node.status()[name] for name in ("held", "retrying")] == [0, 1], "the failed one is retried")
    assert node.status()["log_dropped"] > 0


def test_tasks_go_on_when_the_disk_of_the_log_is_full(unheard: Unheard) -> None:
    unheard.start("--retry-base", "60", app=APP, wait=False)
    eventually((unheard.spool / "spool.sock").exists)
    works(unheard, 5)
    assert unheard.stop() == 0


def test_tasks_go_on_when_nobody_reads_the_log_and_when_its_reader_goes(unheard: Unheard) -> None:
    fifo = unheard.directory / "log"
    os.mkfifo(fifo)
    unheard.log_file = str(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        unheard.start("--retry-base", "60", app=APP, wait=False)
        eventually((unheard.spool / "spool.sock").exists)
        works(unheard, 70)  # more than a pipe and the buffer hold
    finally:
        os.close(reader)
    spoolnode.send_to_spooler({"n": "after"}, via=unheard.via)
    eventually(lambda: "after" in notes(unheard))
    assert unheard.stop() == 0
