"""`rm`, `cancel`, `retry`, `flush`, `reload`, `drain`, `stop`: the commands that change a spool or its node."""

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import click

from spoolnode.cli import CommandFailure
from spoolnode.cli.completing import ids_of_tasks, waited_for
from spoolnode.cli.options import duration, json_option, spool_option

if TYPE_CHECKING:
    from spoolnode.cli.directory import Directory

Action = Callable[[str], str | None]
"""Does something to a task. Returns the other node that the task waits for then, if any."""


@click.command("rm")
@click.argument(
    "ids", nargs=-1, required=True, metavar="ID...", shell_complete=ids_of_tasks("waiting", "later", "outbox", "dead")
)
@spool_option
@json_option
def rm_command(ids: tuple[str, ...], spool: str, as_json: bool) -> None:
    """Removes waiting or dead tasks.

    ID may also be the name of a file. It works with or without a running node, but never on a task that is running or being
    sent. A task for another node that `ls --outbox` shows as perhaps sent may still run there.

    \b
    Examples:
      spoolnode rm 74ba73fab663_1795859211165932_80
      spoolnode rm spool/uwsgi_spoolfile_on_74ba73fab663_1795859211165932_80
    """
    each(spool, ids, "removed", lambda directory: directory.remove, as_json)


@click.command("cancel")
@click.argument(
    "ids", nargs=-1, required=True, metavar="ID...", shell_complete=ids_of_tasks("running", "waiting", "later", "outbox")
)
@click.option(
    "--grace", type=duration, default=5.0, show_default=True, metavar="SEC", help="Seconds that a running task gets to end."
)
@spool_option
@json_option
def cancel_command(ids: tuple[str, ...], grace: float, spool: str, as_json: bool) -> None:
    """Ends tasks for good, also running ones.

    They go to dead/ as cancelled, and are not tried again. An `async def` function gets CancelledError, others get an exception
    in their thread. One that goes on after the grace is ended with its worker; the other tasks there lose nothing.

    The other nodes are asked if it was handed on. ID may be the one here, or the one that the task got from its first node.

    Exit status: 0 all are cancelled; 1 one is unknown, or had ended before; 3 one is, or may be, on a node that cannot be asked.

    \b
    Examples:
      spoolnode cancel 74ba73fab663_1795859211165932_80
      spoolnode cancel 74ba73fab663_1795859211165932_80 --grace 1m
    """

    def action_of(directory: "Directory") -> Action:
        def cancel(identity: str) -> None:
            if ended := directory.cancel(identity, grace):
                raise CommandFailure(ended)

        return cancel

    each(spool, ids, "cancelled", action_of, as_json)


@click.command("retry")
@click.argument("ids", nargs=-1, required=True, metavar="ID...", shell_complete=ids_of_tasks("later", "outbox", "dead"))
@spool_option
@json_option
def retry_command(ids: tuple[str, ...], spool: str, as_json: bool) -> None:
    """Makes tasks ready to run now.

    These may be dead (their attempts count from zero), or wait for their time or for another attempt. A task for another
    node waits for that node again, and the node is tried now.

    \b
    Examples:
      spoolnode retry 74ba73fab663_1795859211165932_80
      spoolnode retry 74ba73fab663_1795859211165932_80 --spool /var/lib/spoolnode/spool
    """
    each(spool, ids, "ready", lambda directory: directory.retry, as_json)


@click.command("flush")
@click.argument("destinations", nargs=-1, metavar="[DEST]...", shell_complete=waited_for)
@spool_option
@json_option
def flush_command(destinations: tuple[str, ...], spool: str, as_json: bool) -> None:
    """Tries to send the tasks for other nodes now.

    It does not wait for the backoff, nor do those of a common store.

    DEST is the name, id or address of a node, or tag:X; without it, all are tried.

    Exit status 1 if tasks wait for a destination that no known node has.

    \b
    Examples:
      spoolnode flush
      spoolnode flush mail3 tag:gpu
    """
    from spoolnode.cli.directory import root_of
    from spoolnode.cli.printing import print_json
    from spoolnode.client.control import ask

    root_of(spool)
    rows = ask(spool, "POST", f"/flush?{urlencode({'to': destinations}, doseq=True)}")["items"]
    if as_json:
        print_json(rows)
    else:
        listed = _in_peers(spool) if any(row["tried"] for row in rows) else frozenset()
        for row in rows:
            _say_flushed(row, listed)
        if not rows:
            click.echo("nothing waits for another node", err=True)
    sys.exit(any(row["waiting"] and not row["tried"] for row in rows))


def _in_peers(spool: str) -> frozenset[str]:
    """The destinations that `spoolnode peers` shows."""
    from spoolnode.client.control import ask

    return frozenset(row[key] for row in ask(spool, "GET", "/nodes")["items"] for key in ("id", "name", "address"))


def _say_flushed(row: dict[str, Any], listed: frozenset[str]) -> None:
    from spoolnode.cli.printing import say

    to, count = row["destination"], row["waiting"]
    tasks = tasks_of(count)
    if row["in_store"]:
        say(f"{to} is tried now for its tasks in the common store; `spoolnode ls` has those that still wait")
    if not (count or row["in_store"]):
        say(f"nothing waits for {to}", err=True)
    elif row["tried"]:
        where = "peers" if to in listed or to.startswith("tag:") else "status"
        say(f"{to} is tried now, {tasks}; `spoolnode {where}` says how it went")
    elif count:
        say(f"Error: {tasks} for {to} cannot be sent: {row['reason']}", err=True)


@click.command("reload")
@click.option(
    "--wait", type=duration, default=60.0, show_default=True, metavar="SEC",
    help="Seconds to wait for the outcome; 0: only ask for the reload.",
)  # fmt: skip
@spool_option
def reload_command(wait: float, spool: str) -> None:
    """Reloads the application, as SIGHUP does.

    It waits, and says whether the new code runs.

    New workers take new tasks; old ones finish what they run (for at most --reload-grace seconds, an option of `join`). If
    the application does not load, the old workers go on.

    Exit status: 0 the new code runs; 1 it does not load, or the node declined, and standard error says why; 2 the command
    line is wrong; 3 it is still loading after --wait seconds.

    \b
    Examples:
      spoolnode reload
      spoolnode reload --wait 5m
    """
    from spoolnode.client.control import ASK_SECONDS, ask

    answer = ask(spool, "POST", f"/reload?wait_seconds={wait:g}", ASK_SECONDS + wait)
    if answer["outcome"] == "failed":
        raise CommandFailure(f"the application does not load, and the old workers go on:\n{answer['reason'].rstrip()}")
    if answer["outcome"] == "stopping":
        raise CommandFailure("the node was stopped before the application was loaded")
    if answer["outcome"] == "loading":
        raise _StillLoading(f"the application is still loading after {wait:g} s; the log will show the outcome")
    click.echo("reloaded: new tasks run the new code" if wait else "asked to reload; the log will show the outcome")


class _StillLoading(CommandFailure):
    exit_code = 3


@click.command("drain")
@click.option(
    "--wait/--no-wait", default=True, show_default=True, help="Return only when the node has ended, and say what is left."
)
@spool_option
@json_option
def drain_command(wait: bool, spool: str, as_json: bool) -> None:
    """Stops a node and hands its waiting tasks to others.

    The node takes no new tasks and lets running ones end. Waiting ones then go to peers that can run them. Each of these two
    steps takes at most --grace seconds. The rest stays in the spool: tasks that were addressed to this node, tasks for nodes
    that are down, and those that no peer could take (kept). `spoolnode stop` cuts it short.

    \b
    Examples:
      spoolnode drain
      spoolnode drain --no-wait
    """
    from spoolnode.cli.directory import StoppedDirectory, root_of
    from spoolnode.cli.printing import print_json, say
    from spoolnode.client.control import ask

    root = root_of(spool)
    before = ask(root, "POST", "/drain")
    count = before["waiting"] + before["outbox"]
    if not as_json:
        click.echo(f"draining: {_are(count)} to go", err=True)
    if not wait:
        if as_json:
            print_json(before)
        return
    _wait_for_end(root)
    stopped = StoppedDirectory(root)
    left = stopped.left()
    if as_json:
        print_json({"drained": True, "before": count, "left": left, "spool": root})
    else:
        say(_what_is_left(count, left, stopped.count_addressed(), root))


def _what_is_left(before: int, left: dict[str, Any], addressed: int, root: str) -> str:
    count = left["waiting"] + sum(left["outbox"].values())
    done = max(before - count, 0)
    tasks = f"{done} of {tasks_of(before)}"
    gone = f"the node has ended; {tasks} {'has run or is' if 1 in (done, before) else 'have run or are'} with other nodes"
    if not count:
        return f"{gone}, none is left"
    kept = left["waiting"] - addressed
    parts = [f"{number} {what}" for number, what in ((addressed, "for this node"), (kept, "kept")) if number]
    parts += [f"{number} for {to}" for to, number in sorted(left["outbox"].items())]
    return f"{gone}, {count} {'is' if count == 1 else 'are'} left in {root}: {', '.join(parts)}"


@click.command("stop")
@click.option("--wait", is_flag=True, help="Return only when the node has ended.")
@click.option(
    "--files", is_flag=True, help="Leave a spool file for each waiting task, as `spoolnode settle` does. Implies --wait."
)
@spool_option
def stop_command(wait: bool, files: bool, spool: str) -> None:
    """Stops a running node.

    It starts no more tasks, and running ones get --grace seconds to end. The others stay in the spool, unless the node runs
    with --drain-on-stop (see `spoolnode drain`). SIGTERM does the same.

    \b
    Examples:
      spoolnode stop
      spoolnode stop --wait
      spoolnode stop --files
    """
    from spoolnode.cli.settle import say_what_is_left
    from spoolnode.client.control import ask

    ask(spool, "POST", f"/stop?files={'true' if files else 'false'}")
    if wait or files:
        _wait_for_end(spool)
    click.echo("stopped" if wait or files else "stopping")
    if files:
        say_what_is_left(spool)


def tasks_of(count: int, what: str = "task") -> str:
    """So many tasks, for a sentence."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def _are(count: int) -> str:
    return f"{tasks_of(count)} {'is' if count == 1 else 'are'}"


def _wait_for_end(spool: str) -> None:
    import fcntl
    import os

    from spoolnode.node.disk.layout import Layout

    with open(Layout(os.path.abspath(spool)).lock, "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # the node holds it as long as it lives


def each(spool: str, ids: Sequence[str], done: str, action_of: Callable[["Directory"], Action], as_json: bool) -> None:
    """Acts on one task after the other. After a failure it goes on with the next, but the exit status is 1; 3 in doubt."""
    from spoolnode.cli.directory import identity_of, open_directory
    from spoolnode.cli.printing import watched
    from spoolnode.errors import NotCancelled
    from spoolnode.protocol.errors import SpoolnodeError

    action = action_of(open_directory(spool))
    rows: list[dict[str, Any]] = []
    is_unsure = False
    for text in watched(ids, f"{done}:", len(ids)):
        try:
            identity = identity_of(text)
            to = action(identity)
            rows.append({"id": identity, done: True, **({"destination": to} if to else {})})
        except (SpoolnodeError, CommandFailure) as error:
            is_unsure |= isinstance(error, NotCancelled) and error.is_unsure
            rows.append({"id": text, done: False, "error": str(error)})
    say_each(rows, done, as_json)
    if not all(row[done] for row in rows):
        sys.exit(3 if is_unsure else 1)


def _for(row: dict[str, Any]) -> str:
    return f", for {row['destination']}" if "destination" in row else ""


def say_each(rows: list[dict[str, Any]], done: str, as_json: bool) -> None:
    """Says of each task whether it was done."""
    from spoolnode.cli.printing import print_json, say

    if as_json:
        print_json(rows)
        return
    word = "is ready" if done == "ready" else done
    for row in rows:
        if not row[done]:
            say(f"Error: {row['error']}", err=True)
        else:
            say(f"{row['id']} {word}{_for(row)}")
