"""`ca`: certificates for nodes, without another tool."""

import time
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from spoolnode.cli import CommandFailure
from spoolnode.cli.options import WholeRange, json_option

DIRECTORY = "ca"


@click.group("ca")
def ca_command() -> None:
    """Makes certificates for nodes.

    Nodes with a certificate talk to each other over TLS only, and take tasks from every node with a certificate of the
    same authority. On one machine, run `spoolnode ca init` once, then `spoolnode ca issue NAME` for each node. Copy NAME.crt,
    NAME.key and ca.crt to the node; ca.key stays where it is.

    To revoke a certificate: `spoolnode ca revoke NAME`.

    To replace an authority: make a new one in a new directory. Give all nodes a file with both ca.crt as --tls-ca, then
    certificates of the new authority, then the new ca.crt alone. SIGHUP makes a node read its files again.

    \b
    Examples:
      spoolnode ca init
      spoolnode ca issue alpha
      spoolnode ca show ca/alpha.crt
    """


@ca_command.command("init")
@click.argument("directory", metavar="[DIR]", default=DIRECTORY, type=click.Path(path_type=Path, file_okay=False))
@click.option("--days", type=WholeRange(1, 36500), default=1825, show_default=True, metavar="N", help="How long it is valid.")
def ca_init(directory: Path, days: int) -> None:
    """Makes an authority in DIR (./ca): ca.crt and ca.key.

    Anyone with ca.key can add nodes to your cluster: keep it off the nodes, or as safe as the nodes' keys.

    \b
    Examples:
      spoolnode ca init
      spoolnode ca init /root/ca --days 3650
    """
    made = _ca().init(directory, days)
    click.echo(f"{made.certificate}  the authority, valid until {_day(made.until)}: the --tls-ca of every node")
    click.echo(f"{made.key}  its key: no node needs it")


@ca_command.command("issue")
@click.argument("name")
@click.option(
    "--dir", "directory", default=DIRECTORY, show_default=True, metavar="DIR", help="Where the authority is.",
    type=click.Path(path_type=Path, file_okay=False),
)  # fmt: skip
@click.option(
    "--out", default=None, metavar="DIR", help="Where to write; by default beside the authority.",
    type=click.Path(path_type=Path, file_okay=False),
)  # fmt: skip
@click.option(
    "--days", type=WholeRange(1, 36500), default=365, show_default=True, metavar="N",
    help="How long it is valid; never longer than its authority.",
)  # fmt: skip
def ca_issue(name: str, directory: Path, out: Path | None, days: int) -> None:
    """Makes NAME.crt and NAME.key for the node called NAME (its --name, by default the host's name).

    \b
    Examples:
      spoolnode ca issue alpha
      spoolnode ca issue beta --dir /root/ca --out /etc/spoolnode --days 90
    """
    made = _ca().issue(directory, name, days, out)
    click.echo(f"{made.certificate}  the certificate of {name}, valid until {_day(made.until)}")
    click.echo(f"{made.key}  its key")
    click.echo(f"spoolnode join --name {name} --tls-cert {made.certificate} --tls-key {made.key} --tls-ca {made.authority}")


@ca_command.command("revoke")
@click.argument("name", default="")
@click.option(
    "--dir", "directory", default=DIRECTORY, show_default=True, metavar="DIR", help="Where the authority is.",
    type=click.Path(path_type=Path, file_okay=False),
)  # fmt: skip
@click.option(
    "--cert", "file", default=None, metavar="FILE", help="The certificate itself, if it is not known here.",
    type=click.Path(path_type=Path, dir_okay=False),
)  # fmt: skip
@click.option(
    "--days", type=WholeRange(1, 36500), default=None, metavar="N",
    help="How long the list is valid; by default as long as its authority.",
)  # fmt: skip
def ca_revoke(name: str, directory: Path, file: Path | None, days: int | None) -> None:
    """Revokes every certificate that was issued for NAME so far.

    It writes ca.crl beside the authority. Without NAME it writes the list again, with the same certificates. Copy the list to
    every node, as its --tls-crl, and send the nodes a SIGHUP: they close links to NAME and take no new ones. To give the node
    another certificate, move its old files away and run `ca issue`.

    A node takes no peers after its list has expired: with --days, write it again in time. With two authorities in
    --tls-ca, --tls-crl holds the lists of both, one after the other.

    \b
    Examples:
      spoolnode ca revoke beta
      spoolnode ca revoke --cert beta.crt
      spoolnode ca revoke --days 30
    """
    taken = _ca().revoke(directory, name, file, days or 0)
    more = f"{taken.certificates} more revoked, valid until {_day(taken.until)}"
    click.echo(f"{taken.revoked}  {more}: the --tls-crl of every node")


@ca_command.command("show")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@json_option
def ca_show(files: tuple[Path, ...], as_json: bool) -> None:
    """Shows certificates: whose they are, and how long they are valid.

    A certificate is shown as revoked if a ca.crl beside it revokes it.

    \b
    Examples:
      spoolnode ca show ca/ca.crt
      spoolnode ca show ca/*.crt --json
    """
    from spoolnode.cli.printing import print_json, print_pairs

    found = [_row(shown) for file in files for shown in _ca().show(file)]
    if as_json:
        print_json(found)
        return
    for number, row in enumerate(found):
        if number:
            click.echo()
        days = row["days_left"]
        left = "REVOKED" if row["revoked"] else f"{days} day{'' if days == 1 else 's'} left" if days >= 0 else "EXPIRED"
        print_pairs([
            ("file", row["file"]), ("for", _whose(row)), ("subject", row["subject"]),
            ("until", f"{row['until']} ({left})"), ("sha256", row["sha256"]),
        ])  # fmt: skip


def _whose(row: dict[str, Any]) -> str:
    if row["authority"]:
        return "an authority"
    return f"the node {row['name']}" if row["name"] else "no node: it does not name one"


def _row(shown: Any) -> dict[str, Any]:
    return {
        "file": shown.file, "name": shown.name, "authority": shown.authority, "subject": shown.subject,
        "until": shown.until.isoformat(), "days_left": shown.days_left(time.time()), "sha256": shown.fingerprint,
        "revoked": shown.revoked,
    }  # fmt: skip


def _day(when: datetime) -> str:
    return when.strftime("%Y-%m-%d")


def _ca() -> ModuleType:
    try:
        from spoolnode.cluster import authority
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "cryptography":
            raise
        raise CommandFailure("`spoolnode ca` needs the package cryptography: pip install cryptography") from error
    return authority
