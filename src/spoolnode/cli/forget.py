"""`forget`: a node that will never come back."""

from typing import Any
from urllib.parse import urlencode

import click

from spoolnode.cli import CommandFailure
from spoolnode.cli.completing import destinations, peers
from spoolnode.cli.options import confirmed, json_option, spool_option, yes_option


@click.command("forget")
@click.argument("node", shell_complete=peers)
@click.option(
    "--move-to",
    default="",
    metavar="DEST",
    shell_complete=destinations,
    help="Where its tasks go: any, the name of a node, or tag:X.",
)
@click.option("--move-in-doubt", is_flag=True, help="Move those that it may have, too. They may run twice.")
@yes_option
@spool_option
@json_option
def forget_command(node: str, move_to: str, move_in_doubt: bool, yes: bool, spool: str, as_json: bool) -> None:
    """Forgets a node that will never come back.

    The tasks that wait here for NODE (a name, id or address) go to --move-to, or to dead/ as undelivered, where `dead retry`
    finds them. Those in doubt were sent, and no answer came: NODE may have run them. They go to dead/ with a reason that says
    so, unless --move-in-doubt has them run again.

    Its name and id are free then. A node that is up is not forgotten. Other nodes have tasks for it, too: forget it on each.

    What waits for it in a common store goes to --move-to, too; without that it stays there. One node is enough for these.

    \b
    Examples:
      spoolnode forget mail3
      spoolnode forget mail3 --move-to any
    """
    from spoolnode.cli.directory import BULK_SECONDS, root_of
    from spoolnode.cli.printing import print_json, say
    from spoolnode.client.control import ask

    if move_in_doubt and not move_to:
        raise click.UsageError("--move-in-doubt needs --move-to, which says where they go")
    root = root_of(spool)
    found = ask(root, "GET", f"/forget?{urlencode({'node': node})}")
    happens = _what_happens(found, node, move_to, move_in_doubt)
    confirmed(f"{happens} Forget {_named(found, node)}?", yes, says_all=True)
    query = {"node": node, "move_to": move_to, "in_doubt": "move" if move_in_doubt else "dead"}
    done = ask(root, "POST", f"/forget?{urlencode(query)}", BULK_SECONDS)
    if as_json:
        print_json(done)
    else:
        say(f"{_named(done, node)} is forgotten; {_moved(done, move_to)}")
        for source in done["sources"]:
            say(f"{source} still names it: take it out of --discover, or it comes back to `spoolnode peers`", err=True)
    if done["missing"]:
        raise CommandFailure(f"{done['missing']}; repeat the command")
    if done["left"]:
        raise CommandFailure(f"{_tasks(done['left'])} for it could not be moved, and the log says why; repeat the command")


def _named(found: dict[str, Any], node: str) -> str:
    name = found["name"] or node
    return f"{name} ({found['id']})" if found["id"] not in ("", name) else name


def _what_happens(found: dict[str, Any], node: str, move_to: str, move_in_doubt: bool) -> str:
    name = found["name"] or node
    place = f"go to {move_to}" if move_to else "go to dead/"
    doubt = f"{place}, and may run twice" if move_in_doubt else "go to dead/, because it may have them"
    unsent = f"{_tasks(found['unsent'])} for {name} {place}. "
    if found["has_store"] and move_to:
        unsent += f"Those in the common store {place}, too. "
    return unsent + (f"{_tasks(found['in_doubt'])} in doubt {doubt}. " if found["in_doubt"] else "")


def _moved(done: dict[str, Any], move_to: str) -> str:
    parts = [f"{_tasks(done['moved'])} went to {move_to}"] if move_to else []
    if done["has_store"] and move_to:
        parts.append(f"{_tasks(done['moved_in_store'])} of the common store went there, too")
    parts.append(f"{_tasks(done['dead'])} went to dead/")
    may_have = f", {done['in_doubt']} of them perhaps delivered" if done["in_doubt"] else ""
    return ", ".join(parts) + may_have


def _tasks(count: int) -> str:
    return f"{count} task{'' if count == 1 else 's'}"
