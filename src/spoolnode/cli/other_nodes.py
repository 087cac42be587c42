"""`peers` shows the other nodes, as this one sees them."""

import json
import signal
import time
from collections.abc import Callable
from typing import Any

import click

from spoolnode.cli.completing import peer_ids, peers
from spoolnode.cli.options import json_option, spool_option

WATCH_SECONDS = 1.0
NO_PEERS = "no other node is known"


@click.command("peers")
@click.option("--watch", is_flag=True, help="Repeat each second, until Ctrl-C; with --json one line each time.")
@spool_option
@json_option
def peers_command(watch: bool, spool: str, as_json: bool) -> None:
    """Shows the other nodes, as a node sees them.

    For each: its STATE and for how long (FOR), how it was found, its LOAD (tasks for each worker), the tasks that wait here
    for it (OUTBOX), those that were given up there (DEAD), and the round trip of a ping (RTT). The line below says why it could
    not be reached.

    STATE: up: it answers. suspect: it did not answer once or twice. down: it does not answer. leaving: it drains or said
    goodbye. rejected: it gets nothing, because it could not prove who it is, claims the name or id of another node, is outside
    of --allow, or must not be contacted; the line below says which. unknown: it has not been reached yet.

    FOUND BY: mdns: it announces itself on the local network. static: named with `join HOST:PORT` or --discover static://.
    dns, dns+srv, file, consul, k8s, store: from the server or the file of --discover. its own call: it has called this node.

    \b
    Examples:
      spoolnode peers
      spoolnode peers --watch
    """
    from spoolnode.cli.directory import root_of
    from spoolnode.cli.printing import print_json
    from spoolnode.client.control import ask

    root = root_of(spool)
    if watch:
        _watch(root, as_json)
        return
    rows = ask(root, "GET", "/nodes")["items"]
    if as_json:
        print_json(rows)
    else:
        _print(rows)


@click.command("accept")
@click.argument("name", shell_complete=peers)
@click.argument("identity", metavar="ID", shell_complete=peer_ids)
@spool_option
def accept_command(name: str, identity: str, spool: str) -> None:
    """Accepts the node with this ID as the one called NAME.

    A name and an id belong to the node that proved them first, with the key in its spool directory or with its certificate;
    restarts do not change that. When that node is gone, one with a certificate for the name takes its place. Any other node
    that claims it (a new disk, a spool directory without its node.key, two machines with one name, an impostor) gets nothing,
    and `spoolnode peers` and the log say so. If its claim is right, accept it on each node that has to know. If not, give one
    of the two another --name.

    With certificates, also accept a node after it was renamed: its certificate is for NAME now.

    \b
    Examples:
      spoolnode peers
      spoolnode accept mail3 6fcc34cf6a00
    """
    from urllib.parse import urlencode

    from spoolnode.cli.directory import root_of
    from spoolnode.client.control import ask

    root = root_of(spool)
    ask(root, "POST", f"/accept?{urlencode({'name': name, 'id': identity})}")
    click.echo(f"{name} is the node {identity} from now on")
    if identity not in {ask(root, "GET", "/node")["id"], *(row["id"] for row in ask(root, "GET", "/nodes")["items"])}:
        click.echo(f"no node with this id is known here yet; tasks for {name} wait until it is", err=True)


def _watch(root: str, as_json: bool) -> None:
    from spoolnode.cli.printing import say
    from spoolnode.client.control import ask

    signal.signal(signal.SIGINT, signal.default_int_handler)  # started in the background, Python would ignore it
    try:
        while True:
            rows = ask(root, "GET", "/nodes")["items"]
            if as_json:
                say(json.dumps(rows))
            else:
                click.clear()
                _print(rows)
            time.sleep(WATCH_SECONDS)
    except KeyboardInterrupt:
        pass  # the way to end it


def _print(rows: list[dict[str, Any]]) -> None:
    from spoolnode.cli.printing import print_table

    cells = [[column(row) for column in _COLUMNS.values()] for row in rows]
    print_table(list(_COLUMNS), cells, NO_PEERS, below=[_reason(row) for row in rows])


def _reason(row: dict[str, Any]) -> str:
    """The reason without the address, which is in the row already."""
    reason: str = row["reason"]
    return reason.removeprefix(f"{row['address']}: ").removesuffix(f" on {row['address']}")


def _since(row: dict[str, Any]) -> str:
    from spoolnode.cli.printing import ago

    return ago(row["since_seconds"], units=1)


def _sources(row: dict[str, Any]) -> str:
    """Only their kinds: a source may name a hundred addresses."""
    return ", ".join(dict.fromkeys(source.partition(":")[0].partition("?")[0] for source in row["sources"])) or "its own call"


def _rtt(row: dict[str, Any]) -> str:
    if row["state"] == "down":
        return "-"
    return f"{row['rtt_seconds'] * 1000:.1f} ms" if row["rtt_seconds"] else ""


# The columns by their titles. A narrow terminal has no room for the last ones.
_COLUMNS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "name": lambda row: row["name"] or "-",
    "state": lambda row: row["state"],
    "for": _since,
    "address": lambda row: row["address"],
    "id": lambda row: row["id"],
    "found by": _sources,
    "load": lambda row: "-" if row["state"] == "down" else row["load"],
    "outbox": lambda row: row["outbox"],
    "dead": lambda row: row["dead"],
    "rtt": _rtt,
}
