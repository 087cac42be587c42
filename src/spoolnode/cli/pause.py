"""`pause` and `resume`: tasks are stored, and do not start."""

from typing import Any
from urllib.parse import urlencode

import click

from spoolnode.cli.completing import functions, paused_functions
from spoolnode.cli.options import json_option, spool_option


@click.command("pause")
@click.argument("function", required=False, default="", metavar="[FUNCTION]", shell_complete=functions)
@spool_option
@json_option
def pause_command(function: str, spool: str, as_json: bool) -> None:
    """Starts no tasks until `spoolnode resume`.

    FUNCTION is the name of a function, as `ls` shows it: only its tasks wait, and all others overtake them. Without
    it no task starts. Tasks that run go on, and new ones are stored. It is kept when the node is started again. `status` and
    `ls` show what is paused.

    \b
    Examples:
      spoolnode pause
      spoolnode pause shop.tasks:pay
    """
    _change("pause", function, spool, as_json)


@click.command("resume")
@click.argument("function", required=False, default="", metavar="[FUNCTION]", shell_complete=paused_functions)
@spool_option
@json_option
def resume_command(function: str, spool: str, as_json: bool) -> None:
    """Starts tasks again after `spoolnode pause`.

    FUNCTION is the name of a paused function. Without it everything runs again, all functions too.

    \b
    Examples:
      spoolnode resume shop.tasks:pay
      spoolnode resume
    """
    _change("resume", function, spool, as_json)


def _change(how: str, function: str, spool: str, as_json: bool) -> None:
    from spoolnode.cli.directory import root_of
    from spoolnode.cli.printing import print_json, say
    from spoolnode.client.control import ask

    root = root_of(spool)
    paused = ask(root, "POST", f"/{how}?{urlencode({'function': function} if function else {})}")
    if as_json:
        print_json(paused)
    else:
        say(f"paused: {paused_text(paused) or 'nothing'}")


def paused_text(paused: dict[str, Any]) -> str:
    """The pauses of a node for people; empty if there are none."""
    functions = ", ".join(paused["functions"])
    if not paused["everything"]:
        return functions
    return f"everything ({functions} also by name)" if functions else "everything"
