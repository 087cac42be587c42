"""`dead`: lists, counts, retries and removes tasks that were given up, one by one or all that are alike."""

import signal
import time
from collections.abc import Callable, Iterator
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from spoolnode.cli import CommandFailure
from spoolnode.cli.change import each, tasks_of
from spoolnode.cli.completing import dead_functions, ids_of_tasks
from spoolnode.cli.look import limit_option, list_tasks
from spoolnode.cli.options import confirmed, duration, json_option, rate, spool_option, yes_option

if TYPE_CHECKING:
    from spoolnode.cli.change import Action
    from spoolnode.cli.directory import Directory
    from spoolnode.node.control.choice import Choice

FIRST_PART = 50
"""Tasks of the first part of many. Parts grow until one takes `PART_SECONDS`: an interrupt need not wait, and progress shows."""
PART_SECONDS = 0.5


@click.group("dead")
def dead_command() -> None:
    """Lists, retries or removes dead tasks.

    These were given up. They are kept, with the reason, until you retry or remove them. Of a running node with a common store,
    those of the store come after those on its disk.

    \b
    Examples:
      spoolnode dead ls --by kind
      spoolnode dead retry --function shop.tasks:pay --since 2h
    """


def _choosing(command: Callable[..., None]) -> Callable[..., None]:
    """The options that choose among the dead; the command gets a `Choice`."""

    @wraps(command)
    def chosen(function: str | None, reason: str | None, since: float | None, **others: Any) -> None:
        from spoolnode.node.control.choice import Choice

        command(choice=Choice(function, None, reason, None if since is None else time.time() - since), **others)

    for option in (
        click.option("--since", type=duration, metavar="SEC", help="Only those that died within this time, like 2h."),
        click.option("--reason", metavar="TEXT", help="Only those with this text in the first line of their reason."),
        click.option(
            "--function", metavar="NAME", shell_complete=dead_functions,
            help="Only those of this function; '': those that name none.",
        ),
    ):  # fmt: skip
        chosen = option(chosen)
    return chosen


_all_option = click.option("--all", "everything", is_flag=True, help="All dead tasks.")


@dead_command.command("ls")
@_choosing
@click.option("--by", type=click.Choice(["kind", "function", "reason"]), help="Count them; kind: function and error.")
@limit_option
@spool_option
@json_option
def dead_ls(choice: "Choice", by: str | None, limit: int, spool: str, as_json: bool) -> None:
    """Lists them with the reason, with or without a running node.

    \b
    Examples:
      spoolnode dead ls --by kind
      spoolnode dead ls --function shop.tasks:pay --since 2h
      spoolnode dead ls --reason 'ConnectionError: refused' --limit 10
    """
    if by is None:
        list_tasks(spool, "dead", limit, as_json, choice)
    else:
        _count(spool, choice, by, limit, as_json)


@dead_command.command("retry")
@click.argument("ids", nargs=-1, metavar="[ID]...", shell_complete=ids_of_tasks("dead"))
@_choosing
@_all_option
@click.option("--rate", "per_second", type=rate, metavar="N/UNIT", help="Not more than so many: 10/s, 300/m or 1000/h.")
@yes_option
@spool_option
@json_option
def dead_retry(
    ids: tuple[str, ...], choice: "Choice", everything: bool, per_second: float | None, yes: bool, spool: str, as_json: bool
) -> None:  # fmt: skip
    """Makes them ready again, with their attempts counted from zero.

    Tasks that could not be delivered to another node wait for it again.

    Without ID it asks before it begins, with the number of tasks. Those that die after that are not meant. If it is interrupted,
    the same command goes on with the rest.

    \b
    Examples:
      spoolnode dead retry 74ba73fab663_1795859211165932_80
      spoolnode dead retry --function shop.tasks:pay --since 2h --rate 10/s
      spoolnode dead retry --all --yes
    """
    if _is_about_many(ids, choice, everything):
        _act_on_all(spool, choice, "ready", lambda directory: directory.retry_dead, per_second, yes, as_json)
    elif per_second is not None:
        raise click.UsageError("--rate is for many tasks; choose them with --all, --function, --reason or --since")
    else:
        each(spool, ids, "ready", lambda directory: _only_dead(directory, directory.retry), as_json)


@dead_command.command("rm")
@click.argument("ids", nargs=-1, metavar="[ID]...", shell_complete=ids_of_tasks("dead"))
@_choosing
@_all_option
@yes_option
@spool_option
@json_option
def dead_rm(ids: tuple[str, ...], choice: "Choice", everything: bool, yes: bool, spool: str, as_json: bool) -> None:
    """Removes them for good.

    Without ID it asks before it begins, with the number of tasks. Those that die after that are not meant.

    \b
    Examples:
      spoolnode dead rm 74ba73fab663_1795859211165932_80
      spoolnode dead rm --reason KeyError --since 1d
    """
    if _is_about_many(ids, choice, everything):
        _act_on_all(spool, choice, "removed", lambda directory: directory.remove_dead, None, yes, as_json)
    else:
        each(spool, ids, "removed", lambda directory: _only_dead(directory, directory.remove), as_json)


def _is_about_many(ids: tuple[str, ...], choice: "Choice", everything: bool) -> bool:
    """Whether the tasks are chosen by what they are like, or all, and not by their ids."""
    if bool(ids) + choice.is_narrow() + everything != 1:
        raise click.UsageError("name the tasks by their ids, or by --function, --reason and --since, or all of them with --all")
    return not ids


def _count(spool: str, choice: "Choice", by: str, limit: int, as_json: bool) -> None:
    from spoolnode.cli.directory import open_directory
    from spoolnode.cli.printing import print_json

    counted = open_directory(spool).count_dead(choice, by)
    rows = counted["items"][: limit or None]
    if as_json:
        print_json(rows)
    elif rows or not counted["missing"]:
        _print_counts(counted, rows, by, choice)
    if counted["missing"]:
        raise CommandFailure(counted["missing"])


def _print_counts(counted: dict[str, Any], rows: list[dict[str, Any]], by: str, choice: "Choice") -> None:
    from spoolnode.cli.printing import moment_and_age, print_table

    _say_more(counted)
    shared = {"kind": ["function", "error"]}.get(by, [by])
    now = time.time()
    cells = [
        [
            row["tasks"],
            *(row[name] or "-" for name in shared),
            *(moment_and_age(row[end], now) for end in ("oldest_at", "newest_at")),
        ]
        for row in rows
    ]
    print_table(["tasks", *shared, "first", "last"], cells, "no such task is dead" if choice.is_narrow() else "no task is dead")
    if counted["groups"] > len(rows):
        click.echo(f"only {len(rows)} of {counted['groups']} groups are shown; {tasks_of(counted['tasks'])} in all", err=True)


def _act_on_all(
    spool: str, choice: "Choice", done: str, action_of: "Callable[[Directory], Act]", per_second: float | None, yes: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Acts on the tasks that are chosen and dead now, part by part."""
    from spoolnode.cli.directory import open_directory
    from spoolnode.cli.printing import advancing, print_json

    directory = open_directory(spool)
    meant = choice._replace(until_at=time.time())
    counted = directory.count_dead(meant, "kind")
    _say_missing(counted)
    _say_more(counted)
    total, is_more = counted["tasks"], counted["more_in_store"]
    what = "Retry" if done == "ready" else "Remove"
    if total or is_more:
        least = "at least " if is_more else ""
        question = f"{what} {least}{tasks_of(total, 'dead task')}{' for good' if done == 'removed' else ''}?"
        confirmed(question, yes, says_all=not choice.is_narrow())
    act, count = action_of(directory), 0
    signal.signal(signal.SIGINT, signal.default_int_handler)  # started in the background, Python would ignore it
    try:
        for part in advancing(_parts(lambda limit: act(meant, limit), per_second) if total or is_more else iter(()), done, total):
            count += part
    except KeyboardInterrupt:
        rest = "the same command goes on with the rest"
        raise CommandFailure(f"interrupted: at least {count} of {tasks_of(total)} {_is(count, done)}; {rest}") from None
    if as_json:
        print_json({done: count})
    elif not (total or is_more) and choice.is_narrow():
        click.echo("no such task is dead; `spoolnode dead ls --by kind` shows those that are")
    else:
        click.echo(f"{tasks_of(count)} {_is(count, done)}")
    if missing := directory.missing or counted["missing"]:
        raise CommandFailure(f"not all was reached: {missing}")


def _say_missing(counted: dict[str, Any]) -> None:
    """Says which dead tasks of the common store were not counted."""
    from spoolnode.cli.printing import say

    if counted["missing"]:
        say(counted["missing"], err=True)


def _say_more(counted: dict[str, Any]) -> None:
    if counted["more_in_store"]:
        click.echo("the common store has many dead tasks, of which the first 10,000 are counted", err=True)


Act = Callable[["Choice", int], tuple[int, int]]
"""Acts on at most so many of the tasks that are chosen. Returns how many they were, and how many are left."""


def _parts(act: Callable[[int], tuple[int, int]], per_second: float | None) -> Iterator[int]:
    """Acts until none is left, and yields how many were done each time; in a second at most so many."""
    from spoolnode.node.control.dead_kinds import MOST_AT_ONCE

    size = FIRST_PART if per_second is None else min(max(int(per_second), 1), MOST_AT_ONCE)
    while True:
        began = time.monotonic()
        count, left = act(size)
        yield count
        if not left:
            return
        if per_second is not None:
            time.sleep(max(began + size / per_second - time.monotonic(), 0.0))
        elif time.monotonic() - began < PART_SECONDS:
            size = min(size * 2, MOST_AT_ONCE)


def _is(count: int, done: str) -> str:
    return done if done == "removed" else f"{'is' if count == 1 else 'are'} {done}"


def _only_dead(directory: "Directory", action: "Action") -> "Action":
    def act(identity: str) -> str | None:
        state = directory.task(identity)["state"]
        if state != "dead":
            raise CommandFailure(f"the task {identity} is not dead but {state}")
        return action(identity)

    return act
