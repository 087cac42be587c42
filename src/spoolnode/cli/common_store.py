"""`store`: whether a common store is safe, what is in it, and the bridge between it and a spool directory."""

import os
from typing import TYPE_CHECKING

import click

from spoolnode.cli import CommandFailure
from spoolnode.cli.options import json_option, spool_option
from spoolnode.cli.store_options import store_option, with_store
from spoolnode.cli.stored_tasks import store_ls, store_move, store_retry, store_rm

if TYPE_CHECKING:
    from spoolnode.cluster.store.interface import CommonStore, Safety, Tally, TaskState
    from spoolnode.cluster.store.push import Pushed
    from spoolnode.node.spool.store import Store


@click.group("store")
def store_command() -> None:
    """Looks into a store in NATS or PostgreSQL, and moves tasks.

    Nodes that are started with `join --store` keep their tasks in the store and take them from it. `store push` moves the backlog
    of a stopped node into the store, `store pull` moves tasks back into a spool directory, for a node without a store.

    The password of a database comes from ~/.pgpass or PGPASSWORD, as with psql; that of NATS is in the address, or in the file
    of ?creds=FILE.

    \b
    Examples:
      spoolnode store check --store postgresql://app@db1,db2/app --migrate
      spoolnode store check --store nats://h1,h2,h3 --migrate
      spoolnode store push --store postgresql://app@db1,db2/app -Q spool
    """


for _command in (store_ls, store_retry, store_move, store_rm):
    store_command.add_command(_command)


@store_command.command("check")
@store_option
@click.option("--migrate", "migrates", is_flag=True, help="Make its tables or stream, or bring them to this version.")
@json_option
def store_check(url: str, migrates: bool, as_json: bool) -> None:
    """Says what an acknowledgement of the store is worth now, as the servers themselves report it.

    Exit status 1: the store is away, or cannot be used as it is. What is not safe is told, and does not change the exit status.

    \b
    Examples:
      spoolnode store check --store postgresql://app@db1,db2/app
      spoolnode store check --store postgresql://app@db1,db2/app --migrate
    """
    from spoolnode.cli.printing import print_json

    async def look(store: "CommonStore") -> "tuple[Safety, dict[TaskState, Tally]]":
        return await store.check(), await store.count()

    said, counted = with_store(url, look, migrates=migrates)
    if as_json:
        print_json({
            **said._asdict(), "facts": dict(said.facts),
            "tasks": {state.value: {"number": tally.number, "is_exact": tally.is_exact} for state, tally in counted.items()},
        })  # fmt: skip
        return
    _print_safety(said, counted)


def _print_safety(said: "Safety", counted: "dict[TaskState, Tally]") -> None:
    from spoolnode.cli.printing import print_pairs, say

    shown = {
        "the server's process dies": said.survives_crash,
        "its machine loses power": said.survives_power_cut,
        "its disk is lost": said.survives_lost_disk,
    }
    tasks = ", ".join(f"{'' if tally.is_exact else 'about '}{tally.number} {state}" for state, tally in counted.items())
    print_pairs([("store", said.engine), ("tasks", tasks)])
    say("\nAn acknowledged task survives if")
    print_pairs([(f"  {event}", "yes" if survives else "NO") for event, survives in shown.items()])
    say("\nas the engine says:")
    print_pairs([(f"  {name}", value) for name, value in said.facts])
    for sentence in said.advice:
        say(f"\n{sentence[0].upper()}{sentence[1:]}.")


@store_command.command("push")
@store_option
@spool_option
@json_option
def store_push(url: str, spool: str, as_json: bool) -> None:
    """Moves the backlog of a stopped node into the store, each task once.

    Tasks for any node or for a tag wait there for whichever node pulls them; tasks for one node wait for that one. If this is
    interrupted, run it again. Some tasks stay on the disk, and are told: dead ones, those with pickled arguments, and those
    that may have been sent to another node already.

    \b
    Examples:
      spoolnode store push --store postgresql://app@db1,db2/app -Q spool
      spoolnode store push --store postgresql://app@db1,db2/app -Q /var/lib/spoolnode/spool --json
    """
    from spoolnode.cli.directory import locked, root_of
    from spoolnode.cli.printing import print_json
    from spoolnode.cluster.store.push import push, save_numbers

    root = root_of(spool)
    if not _is_spool(root):
        raise CommandFailure(
            f"{root} is not a spool directory: it has neither tasks nor the files of a node; name yours with --spool, "
            "or SPOOLNODE_SPOOL"
        )
    directory = _directory(root)

    async def move(store: "CommonStore") -> "Pushed":
        await save_numbers(directory)
        return await push(directory, store)

    with locked(directory.layout):
        done = with_store(url, move)
    if as_json:
        print_json({"moved": done.gone, "left": dict(done.left)})
        return
    click.echo(f"{_tasks(done.gone)} moved into the store")
    for reason, number in done.left.items():
        click.echo(f"{_tasks(number)} stayed: {reason}", err=True)


@store_command.command("pull")
@store_option
@spool_option
@click.option("--node", metavar="NAME", help="Only the tasks for the node of this name, which will run here.")
@json_option
def store_pull(url: str, spool: str, node: str | None, as_json: bool) -> None:
    """Moves tasks from the store into the spool directory of a node that does not run, each once.

    Without --node, all that waits: tasks for any node will run here, those for a tag or for one node go to outbox/, and the node
    that is started here sends them on. If this is interrupted, run it again. The directory is made if it does not exist.

    \b
    Examples:
      spoolnode store pull --store postgresql://app@db1,db2/app -Q spool
      spoolnode store pull --store postgresql://app@db1,db2/app -Q spool --node mail1
    """
    from spoolnode.cli.directory import locked
    from spoolnode.cli.printing import print_json
    from spoolnode.cluster.store.pull import Pull
    from spoolnode.node.spool.recovery import prepare

    directory = _directory(os.path.abspath(spool))
    with locked(directory.layout):
        prepare(directory, lambda _action, **_details: None)
        moved = with_store(url, lambda store: Pull(directory, store, node).run())
    if as_json:
        print_json({"moved": moved})
    else:
        click.echo(f"{_tasks(moved)} moved into {directory.layout.root}")


def _directory(root: str) -> "Store":
    from spoolnode.cli.directory import node_id_of
    from spoolnode.node.disk.disk import RealDisk
    from spoolnode.node.disk.layout import Layout
    from spoolnode.node.spool.store import Store

    layout = Layout(root)
    return Store(RealDisk(), layout, node_id_of(layout))


def _is_spool(root: str) -> bool:
    """Whether a node, or a uWSGI server, has kept its tasks there."""
    from spoolnode.node.disk.layout import Layout
    from spoolnode.protocol import names

    if os.path.exists(Layout(root).node_id):
        return True
    with os.scandir(root) as entries:
        return any(entry.name.startswith(names.SPOOL_PREFIX) or (entry.name.isdecimal() and entry.is_dir()) for entry in entries)


def _tasks(number: int) -> str:
    return f"{number} task{'' if number == 1 else 's'}"
