"""`ping` finds out what listens at an address: a spoolnode, a uWSGI server, or neither."""

import contextlib
import socket
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from spoolnode.cli import CommandFailure
from spoolnode.cli.completing import addresses
from spoolnode.cli.options import json_option, node_address, time_limit

if TYPE_CHECKING:
    from spoolnode.protocol.answer import Answer
    from spoolnode.wire import Address, SocketAddress


class Reply(NamedTuple):
    """The answer to one ping."""

    seconds: float
    block: bytes


@click.command("ping")
@click.argument("address", required=False, metavar="[ADDR]", shell_complete=addresses)
@click.option(
    "--wait",
    type=time_limit,
    default=5.0,
    show_default=True,
    metavar="SEC",
    help="How long to wait.",
)
@json_option
def ping_command(address: str | None, wait: float, as_json: bool) -> None:
    """Asks which node answers at an address.

    ADDR is host:port or the path of a unix socket; without it, SPOOLNODE_VIA or port 3031 of this machine. A real uWSGI server
    answers too, but says nothing about itself.

    \b
    Examples:
      spoolnode ping
      spoolnode ping 10.0.0.2:3031 --wait 500ms
    """
    from spoolnode.cli.printing import print_json, say
    from spoolnode.protocol.answer import read_status

    where = node_address(address)
    plain = exchange(where, 0, wait)
    extended = exchange(where, 1, wait)
    status: dict[str, Any] = read_status(extended.block) if extended.block else {}
    if as_json:
        kind = "spoolnode" if status else "uwsgi"
        print_json({"address": str(where), "kind": kind, "plain": plain.seconds, "extended": extended.seconds, "status": status})
    elif status:
        counts = ", ".join(f"{status.get(name, 0)} {name}" for name in ("waiting", "running", "later", "dead"))
        say(f"{where}: node {status.get('name')} ({status.get('id')}) is {status.get('state')}: {counts}")
        closed = "" if status.get("accepting", True) else "; it takes no tasks now"
        say(f"cluster {status.get('cluster')}, spoolnode {status.get('version')}{closed}")
        click.echo(f"round trip {plain.seconds * 1000:.2f} ms plain, {extended.seconds * 1000:.2f} ms with status")
    else:
        say(f"{where}: a uWSGI server (it says nothing about itself); round trip {plain.seconds * 1000:.2f} ms")


def exchange(where: "Address", modifier2: int, limit: float) -> Reply:
    """Sends one ping on a connection of its own. Ends the command if no answer comes, or one that is not a pong."""
    from spoolnode.protocol.answer import AnswerReader
    from spoolnode.protocol.errors import BadPacket
    from spoolnode.protocol.packet import PING, packet

    name = str(where)
    reader = AnswerReader()
    answers: list[Answer] = []
    started = time.monotonic()
    try:
        with _connect(where.targets, limit) as connected:
            connected.sendall(packet(PING, modifier2=modifier2))
            while not answers:
                connected.settimeout(max(started + limit - time.monotonic(), 0.001))
                data = connected.recv(65536)
                if not data:
                    raise CommandFailure(
                        f"{name}: closed the connection without an answer; it does not speak uwsgi, or does not let us in"
                    )
                answers += reader.answers(data)
    except TimeoutError as error:
        raise CommandFailure(f"{name}: no answer in {limit:g} s") from error
    except OSError as error:
        raise CommandFailure(f"{name}: cannot connect: {error.strerror or error}{where.hint}") from error
    except BadPacket as error:
        raise CommandFailure(f"{name}: does not speak uwsgi: {error}") from error
    modifier1, _, block = answers[0]
    if modifier1 != PING:
        raise CommandFailure(f"{name}: {_refusal(answers[0])}")
    return Reply(time.monotonic() - started, block)


def _refusal(answer: "Answer") -> str:
    from spoolnode.protocol.answer import read_answer
    from spoolnode.protocol.errors import BadPacket, Refused

    try:
        read_answer(*answer[1:])
    except Refused as refusal:
        return f"refused the ping: {refusal.text}"
    except BadPacket:
        pass  # it says nothing more
    return "refused the ping; its owner can let this machine in with --allow"


def _connect(targets: "tuple[SocketAddress, ...]", limit: float) -> socket.socket:
    """Connects to the first target that accepts it. Raises the error of the last one."""
    for target in targets[:-1]:
        with contextlib.suppress(OSError):
            return _connect_to(target, limit)
    return _connect_to(targets[-1], limit)


def _connect_to(target: "SocketAddress", limit: float) -> socket.socket:
    if isinstance(target, tuple):
        return socket.create_connection(target, limit)
    connected = socket.socket(socket.AF_UNIX)
    try:
        connected.settimeout(limit)
        connected.connect(target)
    except OSError:
        connected.close()
        raise
    return connected
