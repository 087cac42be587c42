"""`doctor` looks at what a node needs, and explains what it finds."""

import os
import sys
from typing import Any

import click

from spoolnode.cli.completing import directories, files
from spoolnode.cli.options import config_option, json_option

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command("doctor")
@click.option(
    "-Q", "--spool", "--spooler", metavar="DIR", shell_complete=directories, help="The spool directory.  [default: as for `join`]"
)
@click.option("-s", "--listen", "--socket", multiple=True, metavar="ADDR", help="Where it listens.  [default: as for `join`]")
@click.option(
    "-w", "--app", "--module", "--wsgi-file", metavar="MODULE", help="The application: list what of it cannot work here."
)
@click.option(
    "--nginx",
    default="",
    metavar="FILE",
    shell_complete=files,
    help="The configuration of an nginx in front: what in it does not work.",
)
@config_option
@json_option
def doctor_command(nginx: str, file: str | None, as_json: bool, **given: Any) -> None:
    """Checks what a node needs, and explains.

    One line each for the spool directory, its disk, the addresses, the application, the peers and this machine, and for the
    common store of SPOOLNODE_STORE. It reads the application's source for what it uses of uWSGI's modules, and for functions that
    no worker finds, and runs none of it.

    Exit status 1 if something would keep a node from running or from keeping its promises.

    \b
    Examples:
      spoolnode doctor --app shop.tasks
      spoolnode doctor -s /run/spoolnode.sock --nginx /etc/nginx/nginx.conf
    """
    from spoolnode.cli.printing import print_json
    from spoolnode.cli.settings import gather
    from spoolnode.doctor import examine
    from spoolnode.protocol.printable import printable, printable_lines

    config = gather(given, os.environ, file).config.validated()
    findings = list(examine(config, nginx))
    if as_json:
        print_json([finding._asdict() for finding in findings])
    else:
        for finding in findings:
            state = click.style(f"{finding.state:4}", fg=_COLOURS[finding.state])
            click.echo(f"{state}  {printable(finding.check)}: {printable_lines(finding.text)}")
    sys.exit(any(finding.state == "fail" for finding in findings))
