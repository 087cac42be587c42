"""`store`: whether a common store is safe, what is in it, and the bridge between it and a spool directory."""

import os
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import click

from spoolnode.cli.options import WholeRange, json_option, spool_option

if TYPE_CHECKING:
    from spoolnode.cluster.store.interface import CommonStore, FoundTask, Safety, Tally, TaskState
    from spoolnode.cluster.store.push import Pushed
    from spoolnode.node.spool.store import Store

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

STATES = ("ready", "later", "held", "dead", "ended")


def _store_option(function: F) -> F:
    option = click.option(
        "--store", "url", required=True, metavar="URL", envvar="SPOOLNODE_STORE",
        help="nats://HOST[,HOST...] or postgresql://[USER@]HOST[,HOST...]/DATABASE (also: SPOOLNODE_STORE).",
    )  # fmt: skip
    return option(function)


@click.group("store")
def store_command() -> None:
    """Moves tasks into NATS or PostgreSQL and back.

    So far a store is for moving and keeping tasks: nodes do not take their tasks from it yet. `store push` moves the backlog of a
    stopped node into the store, `store pull` moves tasks back into a spool directory, and a node started there runs them.

    The password of a database comes from ~/.pgpass or PGPASSWORD, as with psql; that of NATS is in the address, or in the file
    of ?creds=FILE.

    \b
    Examples:
      spoolnode store check --store postgresql://app@db1,db2/app --migrate
      spoolnode store check --store nats://h1,h2,h3 --migrate
      spoolnode store push --store postgresql://app@db1,db2/app -Q spool
    """


@store_command.command("check")
@_store_option
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

    said, counted = _with_store(url, look, migrates=migrates)
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


@store_command.command("ls")
@_store_option
@click.option(
    "--state", type=click.Choice(STATES), default="ready", show_default=True, help="Only tasks in this state."
)  # fmt: skip
@click.option("--limit", type=WholeRange(1, 10_000), default=100, show_default=True, metavar="N", help="The first N.")
@json_option
def store_ls(url: str, state: str, limit: int, as_json: bool) -> None:
    """Lists tasks in the store.

    Ready ones by destination and in the order in which they are taken, later ones by the time when they are due.

    \b
    Examples:
      spoolnode store ls --store postgresql://app@db1,db2/app
      spoolnode store ls --store postgresql://app@db1,db2/app --state later --json
    """
    from spoolnode.cli.printing import print_json, print_table
    from spoolnode.cluster.store.interface import TaskState

    page = _with_store(url, lambda store: store.list(TaskState(state), limit))
    rows = [_row(found) for found in page.tasks]
    if as_json:
        print_json({"tasks": rows, "more": bool(page.next)})
        return
    columns = ("id", "to", "function", "priority", "due", "attempts", "size", "reason")
    print_table(columns, [[_shown(name, row[name]) for name in columns] for row in rows], f"no {state} tasks")
    if page.next:
        click.echo(f"the first {limit}: there are more, see --limit", err=True)


def _row(found: "FoundTask") -> dict[str, Any]:
    from spoolnode.protocol import names
    from spoolnode.protocol.packet import decode_variables

    task = found.task
    function = names.function_named(dict(decode_variables(task.block)))
    return {
        "id": task.id, "state": found.state.value, "to": task.to, "function": function.decode("utf-8", "backslashreplace"),
        "priority": None if task.rank == names.LAST else task.rank, "due": task.due or None, "attempts": task.attempts,
        "size": task.size, "accepted": found.accepted, "reason": found.reason,
    }  # fmt: skip


def _shown(name: str, value: Any) -> Any:
    from spoolnode.cli.printing import moment, size

    if name == "due":
        return moment(value)
    return size(value) if name == "size" else str(value).partition("\n")[0] if name == "reason" else value


@store_command.command("push")
@_store_option
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

    directory = _directory(root_of(spool))

    async def move(store: "CommonStore") -> "Pushed":
        await save_numbers(directory)
        return await push(directory, store)

    with locked(directory.layout):
        done = _with_store(url, move)
    if as_json:
        print_json({"moved": done.gone, "left": dict(done.left)})
        return
    click.echo(f"{_tasks(done.gone)} moved into the store")
    for reason, number in done.left.items():
        click.echo(f"{_tasks(number)} stayed: {reason}", err=True)


@store_command.command("pull")
@_store_option
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
        moved = _with_store(url, lambda store: Pull(directory, store, node).run())
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


def _tasks(number: int) -> str:
    return f"{number} task{'' if number == 1 else 's'}"


def _with_store(url: str, do: "Callable[[CommonStore], Coroutine[Any, Any, T]]", *, migrates: bool = False) -> T:
    """Does something with the store open. Its errors end the command with a sentence."""
    import asyncio

    from spoolnode.cluster.store.opening import open_store

    async def done() -> T:
        store = await open_store(url, migrates=migrates)
        try:
            return await do(store)
        finally:
            await store.close()

    return asyncio.run(done())
