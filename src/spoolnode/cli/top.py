"""`top`: a node and its neighbours on one screen, which keeps itself up to date."""

import sys

import click

from spoolnode.cli import CommandFailure
from spoolnode.cli.options import spool_option


@click.command("top")
@spool_option
def top_command(spool: str) -> None:
    """Shows all that happens on one screen, and acts.

    It has tables of nodes, functions, running tasks and dead ones by kind. Tab goes from table to table, arrows move in one, and
    Enter shows what is behind a line: the story of a task, the tasks of a function, all about a node. r retries, c cancels,
    p pauses or resumes a function, d drains this node, w shows all warnings, ? helps, q ends.

    It needs the extra `top`, 80 columns and 24 lines. NO_COLOR turns colours off. When the node is restarted, it goes on.

    \b
    Examples:
      spoolnode top
      spoolnode top --spool /var/lib/spoolnode/spool
    """
    from spoolnode.cli.directory import root_of
    from spoolnode.client.control import ask

    root = root_of(spool)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise CommandFailure("`spoolnode top` needs a terminal; for programs there is `spoolnode status --json`")
    try:
        from spoolnode.cli.top_screen import Top
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("textual", "rich"):
            raise
        raise CommandFailure("`spoolnode top` needs the package textual: pip install textual") from error
    ask(root, "GET", "/pauses")  # a node that does not run is one sentence, and no screen
    Top(root).run()
