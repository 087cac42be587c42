"""`join` runs a node; `config` shows the settings that it would run with."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from spoolnode.cli import CommandFailure
from spoolnode.cli.options import TYPED, NodeCommand, as_typed, config_option, json_option, of_uwsgi
from spoolnode.cli.uwsgi_options import WITHOUT_EFFECT

if TYPE_CHECKING:
    import socket
    from asyncio import AbstractEventLoop

    from spoolnode.node.config import Config
    from spoolnode.node.log import Log


@click.command("join", cls=NodeCommand)
@click.argument("seeds", nargs=-1, metavar="[HOST:PORT]...")
@config_option
@of_uwsgi
def join_command(seeds: tuple[str, ...], file: str | None, ini: tuple[str, ...], **given: Any) -> None:
    """Runs a node in the foreground.

    SIGTERM and Ctrl-C stop it, SIGHUP reloads the application.

    Each option is also a variable of the environment (--max-body is SPOOLNODE_MAX_BODY; commas separate the items of a
    list) and a key of the TOML file (max_body). The command line overrides the environment, and the environment the file.
    `spoolnode config` prints such a file. BYTES may end with K, M or G; SEC with ms, s, m, h or d.

    uWSGI's own names of these options (--socket, --module, --spooler-processes, ...) work too; -A, --master and the like
    are accepted and have no effect. --ini uwsgi.ini, or just uwsgi.ini, reads the spooler's side of a uWSGI file, and says
    which of its options a node ignores.

    HOST:PORT names peers, besides those that --discover finds (by default all that announce themselves on the local
    network). Nodes do not tell each other about further nodes: give each node all of them. It is short for --discover
    static://HOST:PORT,...

    \b
    Examples:
      spoolnode join -w tasks
      spoolnode join --name alpha -s 10.0.0.1:3031 --allow 10.0.0.0/24 -w shop.tasks -p 4
      spoolnode join --config spoolnode.toml --timeout 5m --grace 2m
    """
    from spoolnode.cli.settings import gather, unknown_variables
    from spoolnode.node import log
    from spoolnode.node.ingress.handed_over import take_sockets

    sockets = take_sockets(os.environ)
    _fill_standard_descriptors()
    inis = [*ini, *(seed for seed in seeds if _is_ini(seed))]
    notes = _without_uwsgi(given)
    said, more = _read_ini(inis, given)
    peers = tuple(seed for seed in seeds if not _is_ini(seed))
    config = listening_on(with_seeds(gather(given, os.environ, file, said).config, peers), sockets).validated()
    report = log.Log(config.log_level, config.log_format)
    for note in [*notes, *more]:
        report("note", **note)
    for variable, text in unknown_variables(os.environ).items():
        report("unknown_variable", variable=variable, reason=text)
    if config.insecure:
        report("insecure", text="--insecure: anyone who can reach an address of this node can enqueue")
    try:
        status = _run(config, report, sockets)
    finally:
        report.flush()
    sys.exit(status)


def _fill_standard_descriptors() -> None:
    """Opens /dev/null for each of the descriptors 0 to 2 that is closed (`2>&-`): no other file may become one of them."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _is_ini(seed: str) -> bool:
    return seed.partition(":")[0].endswith(".ini")


def _without_uwsgi(given: dict[str, Any]) -> list[dict[str, Any]]:
    """Takes the options that only uWSGI has out of `given`. Returns notes about them."""
    typed = click.get_current_context().meta[TYPED]
    ignored = [name for name in WITHOUT_EFFECT if given.pop(name.replace("-", "_")) is not None]
    notes = [{"option": as_typed(name, typed), "text": WITHOUT_EFFECT[name][2]} for name in ignored]
    if (processes := given.pop("spooler_processes")) is not None:
        if given["workers"] is not None:
            notes.append({"option": "--spooler-processes", "text": "it sets the workers here; --processes is the web server's"})
        given["workers"] = processes
    return notes


def _read_ini(places: Sequence[str], given: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The settings in ini files of uWSGI, and notes about them."""
    from spoolnode.cli.uwsgi_settings import from_ini

    if not places:
        return {}, []
    found = from_ini(places, given, os.environ)
    notes: list[dict[str, Any]] = [{"option": "--ini", "text": text} for text in found.notes]
    if found.ignored:
        text = f"a node ignores these options of {', '.join(places)}: {', '.join(found.ignored)}"
        notes.append({"option": "--ini", "text": text})
    return found.settings, notes


def with_seeds(config: "Config", seeds: tuple[str, ...]) -> "Config":
    """The configuration with these peers among its sources."""
    from dataclasses import replace

    if not seeds:
        return config
    others = [uri for uri in config.discover if uri != "none"]
    return replace(config, discover=[*others, f"static://{','.join(seeds)}"])


def listening_on(config: "Config", sockets: "Sequence[socket.socket]") -> "Config":
    """The configuration with the addresses of sockets that were handed over, in the place of `--listen`."""
    from dataclasses import replace

    from spoolnode.node.ingress.listener import name_of

    return replace(config, listen=[name_of(sock) for sock in sockets]) if sockets else config


def _run(config: "Config", report: "Log", sockets: "Sequence[socket.socket]") -> int:
    from spoolnode.cli.printing import say
    from spoolnode.cluster.cluster import joiner
    from spoolnode.cluster.store.joined import contact_of, sharer
    from spoolnode.cluster.trust import Trust
    from spoolnode.node.badconfig import BadConfig
    from spoolnode.node.node import run_node
    from spoolnode.node.work.supervisor import AppBroken

    try:
        trust = Trust.of(config)
        contact = contact_of(config, report)
        return run_node(config, report, _loop_factory(), joiner(trust, contact=contact), trust, sockets, sharer(contact, trust))
    except BadConfig:
        raise  # its sentence is enough, also for an application that cannot be used as named
    except AppBroken as error:
        report.flush()
        say(str(error).rstrip(), err=True)
        raise CommandFailure(f"the application {config.app!r} does not load, so the node did not start") from error
    except OSError as error:
        raise CommandFailure(f"the node cannot run: {_reason(error)}") from error


def _loop_factory() -> "Callable[[], AbstractEventLoop] | None":
    """That of uvloop; None, which means asyncio's own loop, on machines that uvloop has no wheel for."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _reason(error: OSError) -> str:
    path = f"{error.filename}: " if error.filename else ""
    is_closed = isinstance(error, PermissionError) and error.filename
    what_to_do = f"; the node runs as uid {os.geteuid()}, which must be allowed to read and write it" if is_closed else ""
    return f"{path}{error.strerror or error}{what_to_do}"


@click.command("config", cls=NodeCommand)
@config_option
@of_uwsgi
@json_option
def config_command(file: str | None, as_json: bool, ini: tuple[str, ...], **given: Any) -> None:
    """Prints the settings in force as TOML.

    Each has its meaning above it: a good file to start from. It takes the options of `join`, and reads the same sources.

    \b
    Examples:
      spoolnode config
      spoolnode config -w shop.tasks -p 4 --timeout 5m > spoolnode.toml
      spoolnode config --ini uwsgi.ini
    """
    from spoolnode.cli.printing import print_json
    from spoolnode.cli.settings import as_toml, gather, in_force

    _without_uwsgi(given)
    settings = gather(given, os.environ, file, _read_ini(ini, given)[0])
    settings.config.validated()
    if as_json:
        print_json(in_force(settings.config))
    else:
        click.echo(as_toml(settings), nl=False)
