"""One node: tasks from everywhere, failures, a kill -9."""

import signal
import socket
import time

import spoolnode
from spoolnode import demo_app
from spoolnode.demo.stage import (
    PATIENCE,
    BrokenPromise,
    DemoNode,
    all_counted,
    counted,
    held,
    output,
    say_command,
    shows,
    step,
    tell,
    wait_for,
)
from spoolnode.protocol.answer import STORED
from spoolnode.protocol.packet import SPOOL_REQUEST, encode_variables, packet

MANY = 200
"""Tasks that are under way when the node is killed."""
RUN = 25
"""How many of them have ended by then."""


def show_one(node: DemoNode) -> None:
    """Shows what becomes of tasks on one node."""
    step("A node starts: a listener, a spool directory, a worker with an application (spoolnode/demo_app.py)")
    node.start()
    tell(f"it listens on {node.via}")
    for show in (_python, _command_line, _raw, _later, _failure, _crash, _status):
        show(node)
    step("The node stops (SIGTERM)")
    if node.end(signal.SIGTERM) != 0:
        raise BrokenPromise("the node did not stop with status 0")
    tell("running tasks may end, waiting ones stay in the spool for the next start")


def _python(node: DemoNode) -> None:
    step("From Python: a dict, and a call of a function with @spool")
    tell('send_to_spooler({"name": "Ada", "visits": 3})')
    identity = spoolnode.send_to_spooler({"name": "Ada", "visits": 3}, via=node.via)
    tell(f"-> {identity}: on the node's disk, fsynced, before this call returned")
    tell('mail.spool(1, to=["ada@example.org"])')
    demo_app.mail.options(via=node.via).spool(1, to=["ada@example.org"])
    shows(node, "hello Ada, 4 visits", "mail 1 to ada@example.org")


def _command_line(node: DemoNode) -> None:
    step("From the command line")
    line = ["send", "name=Bob", "--via", node.via]
    say_command(line)
    tell(f"-> {output(line, node)}")
    shows(node, "hello Bob")


def _raw(node: DemoNode) -> None:
    step("From anything that has a socket: one packet of uWSGI's protocol, as nginx sends it")
    request = packet(SPOOL_REQUEST, encode_variables([(b"name", b"Carol")]))
    host, _, port = node.via.rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE) as connected:
        connected.sendall(request)
        answer = connected.recv(16)
    tell(f"sent    {request.hex(' ')}   (17 = spool this; {len(request) - 4} bytes; name = Carol)")
    tell(f"answer  {answer.hex(' ')}   (stored)")
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
    late = (node.directory / demo_app.RAN).stat().st_mtime - due
    if late < -0.05:
        raise BrokenPromise(f"it ran {-late:.3f} s too early")
    tell(f"it ran {max(late, 0) * 1000:.0f} ms after its time")


def _failure(node: DemoNode) -> None:
    step("A task that fails runs again, after a pause that grows; after --max-attempts it is kept in dead/")
    demo_app.stumble.options(via=node.via).spool()
    shows(node, "stumbled, and got up")
    retries = wait_for(lambda: node.said("retry"), "the node logs the retry")
    tell(f"the node's log: retry, attempts={retries[0]['attempts']}, reason={retries[0]['reason'].splitlines()[0]!r}")


def _crash(node: DemoNode) -> None:
    step(f"kill -9, while {MANY} tasks are under way")
    counting = demo_app.count.options(via=node.via)
    with held(node, RUN):
        for number in range(MANY):
            counting.spool(number)
        wait_for(lambda: len(counted(node)) > RUN, "some of them have run")
        node.end(signal.SIGKILL)
    tell(f"{MANY} were acknowledged, {RUN} have run and one is running; now the node and its worker are gone. It starts again:")
    node.start()
    all_counted(node, MANY)


def _status(node: DemoNode) -> None:
    step("The state of the node")
    line = ["status", "--spool", "spool"]
    say_command(line)
    for text in output(line, node).splitlines():
        tell(f"  {text}")
