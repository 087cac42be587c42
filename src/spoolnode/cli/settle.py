"""`settle`: a spool directory as uWSGI would have it, one file a task."""

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import click

from spoolnode.cli.options import json_option, spool_option


class Left(NamedTuple):
    """The tasks that a uWSGI server finds in the directory, and those that it does not find."""

    files: int
    """Spool files that it can run."""
    batched: int
    """Tasks that are still in batches, because they run, or the disk was full."""
    ours: int
    """Spool files that only a node can run: those with values that are not text, and the calls."""
    calls: int
    """Calls of functions with spoolnode's own `@spool`; uWSGI can run those of `uwsgidecorators`."""
    priorities: int
    """Spool files in numeric directories."""
    outbox: int
    dead: int


@click.command("settle")
@spool_option
@json_option
def settle_command(spool: str, as_json: bool) -> None:
    """Gives each waiting task a uWSGI spool file.

    A real uWSGI spooler can then take over: stop the node, run this (or `spoolnode stop --files`), and start uWSGI on the
    directory. It works while the node runs, too, and a node takes such files like all others. Tasks for other nodes, and dead
    ones, stay where only a node looks.

    \b
    Examples:
      spoolnode settle
      spoolnode settle --spool /var/lib/spoolnode/spool
    """
    from spoolnode.cli.directory import open_directory, root_of
    from spoolnode.cli.printing import print_json

    open_directory(spool).settle()
    if as_json:
        print_json(look(root_of(spool))._asdict())
    else:
        say_what_is_left(spool)


def say_what_is_left(spool: str) -> None:
    """Prints what uWSGI will find."""
    for line in _sentences(look(os.path.abspath(spool))):
        click.echo(line)


def _sentences(left: Left) -> Iterator[str]:
    yield f"{_count(left.files, 'waiting task')} with a spool file each, for uWSGI to run"
    if left.priorities:
        have = "has" if left.priorities == 1 else "have"
        yield f"{left.priorities} of them {have} a priority: uWSGI runs these only with --spooler-ordered"
    if left.ours:
        yield f"{left.ours} of them can run only on a node: {_why_ours(left)}"
    if left.batched:
        own, why = ("its own", "it runs") if left.batched == 1 else ("their own", "they run")
        yield f"{_count(left.batched, 'task')} without a file of {own}: {why}, or the disk has no room"
    if left.outbox:
        yield f"{_count(left.outbox, 'task')} for other nodes in outbox/: only a node delivers these"
    if left.dead:
        yield f"{_count(left.dead, 'dead task')} in dead/: uWSGI does not look there, and keeps no count of attempts"


def _why_ours(left: Left) -> str:
    typed = left.ours - left.calls
    parts = [f"{typed} with values that are not text"] if typed else []
    if left.calls:
        parts.append(f"{_count(left.calls, 'call')} of functions with spoolnode's @spool")
    return ", ".join(parts)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def look(root: str) -> Left:
    """Counts, without changing anything."""
    from spoolnode.node.disk.disk import RealDisk
    from spoolnode.node.disk.layout import Layout
    from spoolnode.node.spool import inspect
    from spoolnode.node.spool.reader import Reader
    from spoolnode.node.spool.recovery import spool_files
    from spoolnode.protocol import names

    reader = Reader(RealDisk(), Layout(root), "-")
    refs = [file.ref for file in spool_files(reader)]
    batched = sum(1 for _ in inspect.batch_tasks(reader, 0.0))
    outbox = sum(1 for _ in inspect.outbox_tasks(reader, 0.0))
    ours = Counter(_why_only_a_node(reader, ref) for ref in refs)
    return Left(
        len(refs), batched, len(refs) - ours[None], ours[names.FUNCTION], sum("/" in ref for ref in refs), outbox,
        inspect.count_files(reader, "dead"),
    )  # fmt: skip


def _why_only_a_node(reader: Any, ref: str) -> bytes | None:
    """The variable that keeps uWSGI from running a task; None if it can."""
    from spoolnode.protocol import names
    from spoolnode.protocol.errors import BadPacket
    from spoolnode.protocol.packet import decode_variables

    try:
        block = dict(decode_variables(reader.block_of(ref)))
    except (OSError, BadPacket):
        return None  # it has ended meanwhile, or is damaged
    return next((name for name in (names.FUNCTION, names.VALUES) if name in block), None)
