"""The words that a shell offers for what is typed: ids of tasks, names of functions and nodes, from the node or its directory.

The callables here are for `shell_complete=` of click. They never fail, and never take long.
"""

import heapq
import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from operator import attrgetter
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from spoolnode.cli.directory import Directory

DEFAULT_SPOOL = "spool"
SECONDS = 0.25
"""How long the node, or its disk, may take. A shell that waits for longer seems to hang."""
NAMES_SECONDS = 0.1
"""How much of it the names of dead tasks may take."""
MOST_TASKS = 100
"""Tasks that are offered, the first ones; of dead ones the last."""

_HARMLESS = re.compile(r"[\w./\[][\w.:@%+/\[\]-]*")
"""Words that mean nothing to a shell. Any sender of tasks can make names: one like `$(halt)` must not get on a command line."""

_OWN_NAME = re.compile(r"uwsgi_spoolfile_on_[0-9a-f]{12}_(\d{16})_")
"""The beginning of the name of a task's file, with the time when a node accepted it."""

Words = Iterable[tuple[str, str]]
"""Words, each with a note for the shells that show one."""
Completing = Callable[[click.Context, click.Parameter, str], "list[CompletionItem[str]]"]


class _TooLate(Exception):
    """The answer did not come in time."""


def _offering(find: Callable[[str], Words]) -> Completing:
    """Offers those of the words that begin like the one that is typed. `find` gets the spool directory."""

    def offered(ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem[str]]":
        del param
        from click.shell_completion import CompletionItem

        from spoolnode.cli import directory  # noqa: F401  # it takes long to load, which is not the node's fault
        from spoolnode.protocol.errors import SpoolnodeError
        from spoolnode.protocol.printable import printable

        spool = ctx.params.get("spool") or os.environ.get("SPOOLNODE_SPOOL") or DEFAULT_SPOOL
        found: dict[str, str] = {}
        # A prompt must not show an error. What was found in time is offered.
        with suppress(_TooLate, SpoolnodeError, click.ClickException, OSError), _in_time(SECONDS):
            for word, note in find(spool):
                found[word] = note
        fitting = (word for word in found if word.startswith(incomplete) and _HARMLESS.fullmatch(word))
        return [CompletionItem(word, help=printable(found[word]).strip() or None) for word in fitting]

    return offered


@contextmanager
def _in_time(seconds: float) -> Iterator[None]:
    """Raises `_TooLate` if what is done within takes longer, whatever it waits for."""

    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise _TooLate

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def ids_of_tasks(*states: str) -> Completing:
    """The ids of tasks in these states."""
    waiting = [state for state in states if state != "dead"]

    def find(spool: str) -> Words:
        rows = _directory(spool).tasks(waiting, MOST_TASKS)[0] if waiting else []
        yield from _newest_dead(spool) if "dead" in states else ()
        yield from ((row["id"], f"{row['state']} {row['function']}") for row in rows)

    return _offering(find)


def _newest_dead(spool: str) -> Words:
    """Of the dead tasks those that were accepted last, as their names tell: to list a hundred thousand takes too long.

    If even their names take too long to read, it is the newest of those that were read.
    """
    from spoolnode.cli.directory import node_id_of, root_of
    from spoolnode.node.disk.disk import RealDisk
    from spoolnode.node.disk.layout import Layout, is_spool_file, ref_id
    from spoolnode.node.spool.reader import Location, Reader
    from spoolnode.protocol.errors import BadPacket
    from spoolnode.protocol.names import function_named

    layout, until = Layout(root_of(spool)), time.monotonic() + NAMES_SECONDS
    reader = Reader(RealDisk(), layout, node_id_of(layout))
    with os.scandir(layout.dead) as entries:
        in_time = takewhile(lambda _: time.monotonic() < until, entries)
        newest = heapq.nlargest(MOST_TASKS, filter(is_spool_file, map(attrgetter("name"), in_time)), _when_accepted)
    for name in newest:
        function = b""
        with suppress(OSError, BadPacket):  # it cannot be read
            function = function_named(dict(reader.variables_at(Location(f"{layout.dead}/{name}"))))
        yield ref_id(name), f"dead {function.decode('utf-8', 'replace')}"


def _when_accepted(name: str) -> str:
    """The microseconds in the name of a file, which is quicker than to read all of its id; empty if it has none."""
    return found[1] if (found := _OWN_NAME.match(name)) else ""


def _directory(spool: str) -> "Directory":
    from spoolnode.cli.directory import open_directory

    return open_directory(spool)


def _ask(spool: str, path: str) -> Any:
    from spoolnode.client.control import ask

    return ask(spool, "GET", path, SECONDS)


def _functions(spool: str) -> Words:
    return ((row["name"], "") for row in _ask(spool, "/functions")["items"])


def _tasks_and_functions(spool: str) -> Words:
    found = _ask(spool, f"/tasks?limit={MOST_TASKS}")["items"]
    return [*_functions(spool), *((row["id"], f"{row['state']} {row['function']}") for row in found)]


def _paused(spool: str) -> Words:
    return ((name, "") for name in _ask(spool, "/pauses")["functions"])


def _dead_functions(spool: str) -> Words:
    from spoolnode.node.control.choice import Choice

    groups = _directory(spool).count_dead(Choice(), "function")["items"]
    return ((row["function"], f"{row['tasks']} dead") for row in groups)


def _peers(spool: str) -> Words:
    return ((row["name"], row["state"]) for row in _ask(spool, "/nodes")["items"] if row["name"])


def _peer_ids(spool: str) -> Words:
    return ((row["id"], row["name"]) for row in _ask(spool, "/nodes")["items"] if row["id"])


def _destinations(spool: str) -> Words:
    here, peers = _ask(spool, "/node"), _ask(spool, "/nodes")["items"]
    names = [(row["name"], row["state"]) for row in (here, *peers) if row["name"]]
    tags = sorted({tag for row in (here, *peers) for tag in row["tags"]})
    return [*names, ("any", ""), ("all", ""), *((f"tag:{tag}", "") for tag in tags)]


def _waited_for(spool: str) -> Words:
    return ((row["destination"], f"{row['waiting']} wait for it") for row in _ask(spool, "/links")["items"])


def _addresses(spool: str) -> Words:
    here, peers = _ask(spool, "/node"), _ask(spool, "/nodes")["items"]
    return [*((address, here["name"]) for address in here["listen"]), *((row["address"], row["name"]) for row in peers)]


functions = _offering(_functions)
"""The functions that the node knows."""
tasks_and_functions = _offering(_tasks_and_functions)
paused_functions = _offering(_paused)
dead_functions = _offering(_dead_functions)
"""The functions that have dead tasks."""
peers = _offering(_peers)
"""The names of other nodes."""
peer_ids = _offering(_peer_ids)
destinations = _offering(_destinations)
"""All that a task may be sent to."""
waited_for = _offering(_waited_for)
"""Those that tasks wait for now."""
addresses = _offering(_addresses)
"""Where this node and others listen."""


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem[str]]":
    """Lets the shell complete the path of a file."""
    del ctx, param
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def directories(ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem[str]]":
    """Lets the shell complete the path of a directory."""
    del ctx, param
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="dir")]
