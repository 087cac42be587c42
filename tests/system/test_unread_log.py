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
        """Its own socket: its port is not known."""
        return str(self.spool / "spool.sock")


@pytest.fixture
def unheard(tmp_path: Path) -> Iterator[Unheard]:
    """Not started yet."""
    node = Unheard(tmp_path)
    yield node
    node.clean_up()


def works(node: Unheard, tasks: int) -> None:
    """Sends tasks (the last one fails), and checks that all are run and accounted for."""
    for number in range(tasks):
        spoolnode.send_to_spooler({"n": str(number)}, via=node.via)
    spoolnode.send_to_spooler({"n": "fails"}, via=node.via)
    eventually(lambda: len(notes(node)) >= tasks + 1, "all have run")
    eventually(lambda: [node.status()[name] for name in ("held", "retrying")] == [0, 1], "the failed one is retried")


def started(node: Unheard) -> Unheard:
    """The node, once it takes tasks."""
    node.start("--retry-base", "60", app=APP, wait=False)
    eventually(lambda: node.command("ping").returncode == 0, "it takes tasks")
    return node


@pytest.mark.parametrize("where", ["/dev/full", "&-"])
def test_tasks_go_on_when_the_log_cannot_be_written(unheard: Unheard, where: str) -> None:
    unheard.log_file = where
    works(started(unheard), 5)
    if where == "/dev/full":
        eventually(lambda: unheard.status()["log_dropped"] > 0, "lines were dropped and counted")
    else:
        assert unheard.status()["log_dropped"] == 0
    assert unheard.stop() == 0


@pytest.fixture
def reader(unheard: Unheard) -> Iterator[int]:
    """The reading end of the pipe for the log."""
    fifo = unheard.directory / "log"
    os.mkfifo(fifo)
    unheard.log_file = str(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    yield reader
    os.close(reader)


def test_tasks_go_on_and_the_node_stops_when_nobody_reads_the_log(unheard: Unheard, reader: int) -> None:
    works(started(unheard), 70)  # more than a pipe and the buffer hold
    eventually(lambda: unheard.status()["log_dropped"] > 0, "lines were dropped and counted")
    assert unheard.stop() == 0


def test_tasks_go_on_when_the_reader_of_the_log_goes(unheard: Unheard, reader: int) -> None:
    started(unheard)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), reader)
    works(unheard, 2)
    eventually(lambda: unheard.status()["log_dropped"] > 0, "lines were dropped and counted")
    assert unheard.stop() == 0
