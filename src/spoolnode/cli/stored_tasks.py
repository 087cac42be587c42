"""`store ls`, `store retry`, `store move`, `store rm`: the tasks in a common store."""

import sys
from typing import TYPE_CHECKING, Any

import click

from spoolnode.cli.change import say_each, tasks_of
from spoolnode.cli.options import WholeRange, confirmed, json_option, yes_option
from spoolnode.cli.store_options import store_option, with_store

if TYPE_CHECKING:
    from spoolnode.cluster.store.interface import CommonStore, FoundTask

STATES = ("ready", "later", "held", "dead", "ended")
_COLUMNS = ("id", "to", "function", "priority", "due", "attempts", "size", "reason")
_HELD = ("id", "to", "node", *_COLUMNS[2:])
_ENDED = ("id", "to", "node", "end", "ended")
AT_ONCE = 500
"""Dead tasks that are retried in one request."""


@click.command("ls")
@store_option
@click.option(
    "--state", type=click.Choice(STATES), default="ready", show_default=True, help="Only tasks in this state."
)  # fmt: skip
@click.option("--limit", type=WholeRange(1, 10_000), default=100, show_default=True, metavar="N", help="The first N.")
@json_option
def store_ls(url: str, state: str, limit: int, as_json: bool) -> None:
    """Lists tasks in the store.

    Ready ones by destination and in the order in which they are taken, later ones by the time when they are due. Held ones run
    on a node, or are about to; so they have a column with its name. Ended ones have the node that ran them, how they ended, and
    when: the store remembers them for an hour, without their arguments.

    \b
    Examples:
      spoolnode store ls --store postgresql://app@db1,db2/app
      spoolnode store ls --store postgresql://app@db1,db2/app --state later --json
    """
    from spoolnode.cli.printing import print_json, print_table
    from spoolnode.cluster.store.interface import TaskState

    page = with_store(url, lambda store: store.list(TaskState(state), limit))
    rows = [_row(found) for found in page.tasks]
    if as_json:
        print_json({"tasks": rows, "more": bool(page.next)})
        return
    columns = _ENDED if state == "ended" else _HELD if state == "held" else _COLUMNS
    print_table(columns, [[_shown(name, row[name]) for name in columns] for row in rows], f"no {state} tasks")
    if page.next:
        click.echo(f"the first {limit}: there are more, see --limit", err=True)


def _row(found: "FoundTask") -> dict[str, Any]:
    from spoolnode.cluster.store.takers import taker_of
    from spoolnode.protocol import names

    task = found.task
    node_id, node = taker_of(found.by)
    return {
        "id": task.id, "state": found.state.value, "to": task.to, "function": _function_in(task.block),
        "priority": None if task.rank == names.LAST else task.rank, "due": task.due or None, "attempts": task.attempts,
        "size": len(task.block) + task.size, "accepted": found.accepted_at, "reason": found.reason,
        "node": node, "node_id": node_id, "end": found.ending and found.ending.value, "ended": found.finished or None,
    }  # fmt: skip


def _function_in(block: bytes) -> str:
    """The name of the function in these variables; empty if they cannot be read: the others are to be listed all the same."""
    from spoolnode.protocol import names
    from spoolnode.protocol.errors import BadPacket
    from spoolnode.protocol.packet import decode_variables

    try:
        return names.function_named(dict(decode_variables(block))).decode("utf-8", "backslashreplace")
    except BadPacket:
        return ""


def _shown(name: str, value: Any) -> Any:
    from spoolnode.cli.printing import moment, size

    if name in ("due", "ended"):
        return moment(value)
    return size(value) if name == "size" else str(value).partition("\n")[0] if name == "reason" else value


@click.command("retry")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="All dead tasks.")
@click.option("--to", metavar="DEST", help="Where they wait then, instead of where they were: a node's name, tag:X or any.")
@yes_option
@store_option
@json_option
def store_retry(ids: tuple[str, ...], everything: bool, to: str | None, yes: bool, url: str, as_json: bool) -> None:
    """Makes dead tasks in the store ready again, with their attempts counted from zero.

    With --all it asks before it begins, with the number of tasks. If it is interrupted, the same command goes on with the rest.

    \b
    Examples:
      spoolnode store retry 74ba73fab663_1795859211165932_80 --store postgresql://app@db1,db2/app
      spoolnode store retry --all --to tag:gpu --yes --store postgresql://app@db1,db2/app
    """
    if bool(ids) == everything:
        raise click.UsageError("name the tasks by their ids, or all of them with --all")
    if to is not None:
        _check_destination(to, "--to")
    if everything:
        _retry_all(url, to, yes, as_json)
    else:
        _say(with_store(url, lambda store: _retried(store, ids, to)), "ready", as_json)


def _check_destination(to: str, option: str) -> None:
    from spoolnode.protocol import names

    if to == "all" or not names.is_destination(to):
        raise click.BadParameter(f"it is {to!r}; it must be a node's name, host:port, [v6]:port, tag:X or any", param_hint=option)


async def _retried(store: "CommonStore", ids: tuple[str, ...], to: str | None) -> list[dict[str, Any]]:
    revived = await store.revive(ids, to)
    return [{"id": each, "ready": True} if each in revived else await _not_dead(store, each) for each in ids]


async def _not_dead(store: "CommonStore", identity: str) -> dict[str, Any]:
    found = await store.find(identity)
    error = f"the task {identity} is not dead but {found.state}" if found else _unknown(identity)
    return {"id": identity, "ready": False, "error": error}


def _unknown(identity: str) -> str:
    return f"the store has no task {identity}"


def _retry_all(url: str, to: str | None, yes: bool, as_json: bool) -> None:
    from spoolnode.cli.printing import print_json
    from spoolnode.cluster.store.interface import TaskState

    dead = with_store(url, lambda store: store.count())[TaskState.DEAD]
    if dead.number:
        about = "" if dead.is_exact else "about "
        confirmed(f"Retry {about}{tasks_of(dead.number, 'dead task')}?", yes, says_all=True)

    async def retry(store: "CommonStore") -> int:
        # One look at each: a task that dies again keeps its place in the list, and is not meant.
        cursor, is_first, count = "", True, 0
        while is_first or cursor:
            page = await store.list(TaskState.DEAD, AT_ONCE, cursor)
            count += len(await store.revive([found.task.id for found in page.tasks], to))
            cursor, is_first = page.next, False
        return count

    count = with_store(url, retry) if dead.number else 0
    if as_json:
        print_json({"ready": count})
    else:
        click.echo(f"{tasks_of(count)} {'is' if count == 1 else 'are'} ready")


@click.command("move")
@click.option("--from", "places", multiple=True, required=True, metavar="DEST", help="For whom they wait now; may be repeated.")
@click.option("--to", required=True, metavar="DEST", help="Where they go: any, the name of a node, or tag:X.")
@store_option
@json_option
def store_move(places: tuple[str, ...], to: str, url: str, as_json: bool) -> None:
    """Has tasks that wait in the store for a node wait for another one, or for any.

    For a node that will not come back. Name each name under which tasks were sent to it: its name, its id, its addresses. Their
    times and attempts stay. What a node has taken, and dead tasks, are left alone; `store retry --to` is for those. If this is
    interrupted, run it again.

    \b
    Examples:
      spoolnode store move --from mail3 --to any --store postgresql://app@db1,db2/app
      spoolnode store move --from mail3 --from 10.0.0.7:3031 --to tag:mail --store nats://h1,h2,h3
    """
    from spoolnode.cli.printing import print_json
    from spoolnode.cluster.store.redirect import redirect

    for place in places:
        _check_destination(place, "--from")
    _check_destination(to, "--to")
    if to in places:
        raise click.UsageError(f"--from and --to both name {to}")
    count = with_store(url, lambda store: redirect(store, places, to))
    if as_json:
        print_json({"moved": count})
    else:
        click.echo(f"{tasks_of(count)} {'waits' if count == 1 else 'wait'} for {to} now")


@click.command("rm")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@store_option
@json_option
def store_rm(ids: tuple[str, ...], url: str, as_json: bool) -> None:
    """Removes tasks from the store that wait or are dead, for good.

    One that a node has taken is not removed.

    \b
    Examples:
      spoolnode store rm 74ba73fab663_1795859211165932_80 --store postgresql://app@db1,db2/app
      spoolnode store rm 74ba73fab663_1795859211165932_80 --store nats://h1,h2,h3 --json
    """

    async def remove(store: "CommonStore") -> list[dict[str, Any]]:
        return [await _removed(store, each) for each in ids]

    _say(with_store(url, remove), "removed", as_json)


async def _removed(store: "CommonStore", identity: str) -> dict[str, Any]:
    from spoolnode.cluster.store.interface import TaskState

    was = await store.remove(identity)
    if was not in (None, TaskState.HELD):
        return {"id": identity, "removed": True}
    error = _unknown(identity) if was is None else f"a node has taken the task {identity}, and may be running it"
    return {"id": identity, "removed": False, "error": error}


def _say(rows: list[dict[str, Any]], done: str, as_json: bool) -> None:
    say_each(rows, done, as_json)
    if not all(row[done] for row in rows):
        sys.exit(1)
