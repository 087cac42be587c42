"""One node: tasks from everywhere, failures, a kill -9."""

import signal
import socket
import time

import spoolnode
from spoolnode.demo import sample
from spoolnode.demo.stage import (
    STAGE_SECONDS,
    BrokenPromise,
    DemoNode,
    all_counted,
    counted,
    held,
    narrate,
    output,
    say_command,
    shows,
    step,
    wait_for,
)
from spoolnode.protocol.answer import STORED
from spoolnode.protocol.packet import SPOOL_REQUEST, encode_variables, packet

UNDER_WAY = 200
"""Tasks that are under way when the node is killed."""
ENDED_BEFORE = 25
"""How many of them have ended by then."""


def show_one(node: DemoNode) -> None:
    """Shows what becomes of tasks on one node."""
    step("A node starts: a listener, a spool directory, a worker with an application (spoolnode/demo/sample.py)")
    node.start()
    narrate(f"it listens on {node.via}")
    for show in (_python, _command_line, _raw, _later, _failure, _crash, _status):
        show(node)
    step("The node stops (SIGTERM)")
    if node.end(signal.SIGTERM) != 0:
        raise BrokenPromise("the node did not stop with status 0")
    narrate("running tasks may end, waiting ones stay in the spool for the next start")


def _python(node: DemoNode) -> None:
    step("From Python: a dict, and a call of a function with @spool")
    narrate('send_to_spooler({"name": "Ada", "visits": 3})')
    identity = spoolnode.send_to_spooler({"name": "Ada", "visits": 3}, via=node.via)
    narrate(f"-> {identity}: on the node's disk, fsynced, before this call returned")
    narrate('mail.spool(1, to=["ada@example.org"])')
    sample.mail.options(via=node.via).spool(1, to=["ada@example.org"])
    shows(node, "hello Ada, 4 visits", "mail 1 to ada@example.org")


def _command_line(node: DemoNode) -> None:
    step("From the command line")
    line = ["send", "name=Bob", "--via", node.via]
    say_command(line)
    narrate(f"-> {output(line, node)}")
    shows(node, "hello Bob")


def _raw(node: DemoNode) -> None:
    step("From anything that has a socket: one packet of uWSGI's protocol, as nginx sends it")
    request = packet(SPOOL_REQUEST, encode_variables([(b"name", b"Carol")]))
    host, _, port = node.via.rpartition(":")
    with socket.create_connection((host, int(port)), STAGE_SECONDS) as connected:
        connected.sendall(request)
        answer = connected.recv(16)
    narrate(f"sent    {request.hex(' ')}   (17 = spool this; {len(request) - 4} bytes; name = Carol)")
    narrate(f"answer  {answer.hex(' ')}   (stored)")
    if answer != STORED:
        raise BrokenPromise(f"the answer should be {STORED.hex(' ')}")
    shows(node, "hello Carol")


def _later(node: DemoNode) -> None:
    step("Not before a time: one second from now")
    due = time.time() + 1
    line = ["send", "name=Dan", "--at", f"{due:.3f}", "--via", node.via]
    say_command(line)
    output(line, node)
    shows(node, "hello Dan")
    late = (node.directory / sample.RAN).stat().st_mtime - due
    if late < -0.05:
        raise BrokenPromise(f"it ran {-late:.3f} s too early")
    narrate(f"it ran {max(late, 0) * 1000:.0f} ms after its time")


def _failure(node: DemoNode) -> None:
    step("A task that fails runs again, after a pause that grows; after --max-attempts it is kept in dead/")
    sample.stumble.options(via=node.via).spool()
    shows(node, "stumbled, and got up")
    retries = wait_for(lambda: node.said("retry"), "the node logs the retry")
    narrate(f"the node's log: retry, attempts={retries[0]['attempts']}, reason={retries[0]['reason'].splitlines()[0]!r}")


def _crash(node: DemoNode) -> None:
    step(f"kill -9, while {UNDER_WAY} tasks are under way")
    counting = sample.count.options(via=node.via)
    with held(node, ENDED_BEFORE):
        for number in range(UNDER_WAY):
            counting.spool(number)
        wait_for(lambda: len(counted(node)) > ENDED_BEFORE, "some of them have run")
        node.end(signal.SIGKILL)
    ran_so_far = f"{ENDED_BEFORE} have run and one is running"
    narrate(f"{UNDER_WAY} were acknowledged, {ran_so_far}; now the node and its worker are gone. It starts again:")
    node.start()
    all_counted(node, UNDER_WAY)


def _status(node: DemoNode) -> None:
    step("The state of the node")
    line = ["status", "--spool", "spool"]
    say_command(line)
    for text in output(line, node).splitlines():
        narrate(f"  {text}")
