"""`web`: lets a browser in."""

import click

from spoolnode.cli.options import json_option, spool_option


@click.command("web")
@spool_option
@json_option
def web_command(spool: str, as_json: bool) -> None:
    """Prints a link that opens a session in a browser, once.

    In that session the browser may see what is in tasks, and do all that commands do, for twelve hours or until the node ends.
    Without one it sees numbers only. The node must listen for browsers: see --http of `join`.

    \b
    Examples:
      spoolnode web
      spoolnode web --spool /var/lib/spoolnode/spool
    """
    from spoolnode.cli.directory import root_of
    from spoolnode.cli.printing import ago, print_json
    from spoolnode.client.control import ask

    link = ask(root_of(spool), "POST", "/web-links")
    if as_json:
        print_json(link)
        return
    click.echo(link["url"])
    click.echo(f"open it within {ago(link['expires_in_seconds'])}; it works once", err=True)
