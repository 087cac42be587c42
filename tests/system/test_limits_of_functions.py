"""Limited functions on a real node: others overtake them, however many wait; sync and async, in batches and in files."""

import pytest
from support import RunningNode, eventually
from watch import NOTES, Gate, notes, wait_for_note, wait_until_idle

import spoolnode
from spoolnode.protocol.packet import encode_variables
from spoolnode.protocol.spoolfile import head

APP = (
    NOTES
    + """
import asyncio
from spoolnode import spool

@spool(limit=1, name="slow")
def slow():
    note("slow begins")
    wait("open")
    note("slow ends")

@spool(limit=2, name="asynchronous")
async def asynchronous():
    note("asynchronous begins")
    while not is_open("open"):
        await asyncio.sleep(0.005)
    note("asynchronous ends")

@spool(name="letter")
def mail():
    note("mail")
"""
)


@spoolnode.spool(name="slow")
def slow() -> None: ...


@spoolnode.spool(name="asynchronous")
def asynchronous() -> None: ...


@spoolnode.spool(name="letter")
def mail() -> None: ...


def most_at_once(node: RunningNode, name: str) -> int:
    """How many calls of it ran at once, at most."""
    running = most = 0
    for line in notes(node):
        running += (line == f"{name} begins") - (line == f"{name} ends")
        most = max(most, running)
    return most


@pytest.mark.parametrize(("name", "limit"), [("slow", 1), ("asynchronous", 2)])
def test_a_mail_overtakes_many_calls_of_a_limited_function(node: RunningNode, name: str, limit: int) -> None:
    node.start("--workers", "3", app=APP)
    function = {"slow": slow, "asynchronous": asynchronous}[name]
    for _ in range(20):
        function.options(via=node.via).spool()
    wait_for_note(node, f"{name} begins")
    mail.options(via=node.via).spool()
    wait_for_note(node, "mail")
    assert f"{name} ends" not in notes(node)
    Gate(node.directory / "gate.open").open()
    wait_until_idle(node)
    assert notes(node).count(f"{name} ends") == 20
    assert most_at_once(node, name) <= limit


def test_files_of_a_limited_function_are_held_back_too(node: RunningNode) -> None:
    node.start("--workers", "3", app=APP)
    block = encode_variables([(b"spool_func", b"slow")])
    for number in range(5):
        path = node.directory / f"{number}"
        path.write_bytes(head(block))
        path.rename(node.spool / f"uwsgi_spoolfile_on_{number}")
    wait_for_note(node, "slow begins")
    mail.options(via=node.via).spool()
    wait_for_note(node, "mail")
    Gate(node.directory / "gate.open").open()
    eventually(lambda: notes(node).count("slow ends") == 5, "all have run")
    assert most_at_once(node, "slow") == 1
    assert node.status()["failed"] == 0
