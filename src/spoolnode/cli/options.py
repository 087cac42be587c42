"""Options that several commands share, and those of `join`, made from the one table `spoolnode.node.config.Config`."""

import os
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import click

from spoolnode.cli import CommandFailure
from spoolnode.cli.completing import DEFAULT_SPOOL, addresses, destinations, directories, files
from spoolnode.cli.uwsgi_options import ALIASES, INSTEAD, SHORT_FORMS, WITHOUT_EFFECT
from spoolnode.node.duration import RIGHT, read_duration

if TYPE_CHECKING:
    from spoolnode.wire import Address

F = TypeVar("F", bound=Callable[..., Any])

TYPED = "spoolnode.typed"
"""The key of a click context for the arguments as they were typed."""


def spool_option(function: F) -> F:
    """`-Q/--spool` of a command that looks at a spool directory or talks to its node."""
    option = click.option(
        "-Q", "--spool", "--spooler", default=lambda: os.environ.get("SPOOLNODE_SPOOL") or DEFAULT_SPOOL, metavar="DIR",
        shell_complete=directories, show_default="SPOOLNODE_SPOOL, or ./spool", help="The node's spool directory.",
    )  # fmt: skip
    return option(function)


def node_address(via: str | None) -> "Address":
    """Where to send, as `wire.resolve` says; for a command that must be a node."""
    from spoolnode.wire import IN_PROCESS, resolve  # `--help` needs neither

    address = resolve(via)
    if address.text in IN_PROCESS:
        raise click.UsageError(f"{address} is for the tests of an application, which run its tasks themselves; name a node")
    return address


def json_option(function: F) -> F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document, for programs.")(function)


def sending_options(function: F) -> F:
    """The options of a command that stores a task: where and when it runs, and how it gets there."""
    for option in reversed((
        click.option(
            "--node", metavar="DEST", shell_complete=destinations,
            help="Where it runs: a node's name, host:port, tag:X, any or all.",
        ),
        click.option(
            "--at", metavar="TIME",
            help="Earliest start: Unix seconds, ISO 8601 (local without a zone), or +90, +5m, +2h, +1d from now on.",
        ),
        click.option("--priority", metavar="N", help="Lower runs sooner; tasks without one run last."),
        click.option(
            "--timeout", type=time_limit, metavar="SEC", help="How long it may run; then it is killed and has failed."
        ),
        click.option(
            "--max-attempts", type=WHOLE, metavar="N", help="Failed attempts after which it goes to dead/; 0: never."
        ),
        click.option("--key", metavar="TEXT", help="While a task with this key waits, another one is not run."),
        click.option(
            "--via", metavar="ADDR", shell_complete=addresses,
            help="The node to send it to, or dir:SPOOL.  [default: SPOOLNODE_VIA, or port 3031 here]"
        ),
        click.option(
            "--send-timeout", type=time_limit, metavar="SEC",
            help="How long to wait for that node.  [default: SPOOLNODE_SEND_TIMEOUT, or 5]",
        ),
    )):  # fmt: skip
        function = option(function)
    return function


def config_option(function: F) -> F:
    """`--config`."""
    option = click.option(
        "--config",
        "file",
        metavar="FILE.toml",
        shell_complete=files,
        help="Read settings from this file (also: SPOOLNODE_CONFIG).",
    )
    return option(function)


_ONCE = {
    "spool": "start a node for each directory, each with its own -s",
    "app": "name the others with --import",
}
"""Settings that uWSGI takes several times, and what to do here."""


class NodeCommand(click.Command):
    """A command that takes every setting of a node. Its options are made only when they are needed: this takes a while."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.context_settings = {"token_normalize_func": lambda name: ALIASES.get(name, name)}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[TYPED] = list(args)
        try:
            _, _, typed = self.make_parser(ctx).parse_args(list(args))
            for name, advice in _ONCE.items():
                if [option.name for option in typed].count(name) > 1:
                    ctx.fail(f"--{name} is given twice, and a node has one: {advice}")
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            name = SHORT_FORMS.get(error.option_name, error.option_name.removeprefix("--"))
            if name in INSTEAD:
                ctx.fail(f"a node has no {error.option_name}: {INSTEAD[name]}")
            raise

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*node_options(), *super().get_params(ctx)]


@lru_cache(maxsize=1)
def node_options() -> list[click.Option]:
    """An option for each setting. One that is not given is None, or () if it may be repeated."""
    from spoolnode.cli.settings import SETTINGS, kind_of

    return [_option(name, kind_of(name), SETTINGS[name].metadata) for name in SETTINGS]


def _option(name: str, kind: type, metadata: Any) -> click.Option:
    from spoolnode.cli.settings import SETTINGS

    item = SETTINGS[name]
    default = item.default_factory() if callable(item.default_factory) else item.default
    long = "--" + name.replace("_", "-")
    shown = _shown(default, metadata["metavar"])
    text = metadata["help"] + (f"  [default: {shown}]" if shown and kind is not bool else "")
    if kind is bool:
        return click.Option([f"{long}/--no-{long[2:]}", name], default=None, help=text)
    declarations = [*([metadata["short"]] if metadata["short"] else []), long, name]
    return click.Option(
        declarations, type=_type_of(kind, metadata), multiple=kind is list, default=None, metavar=metadata["metavar"] or None,
        help=text, shell_complete={"DIR": directories, "FILE": files}.get(metadata["metavar"]),
    )  # fmt: skip


def _shown(default: Any, metavar: str) -> str:
    """A default as people would type it: 5d, not 432000."""
    from spoolnode.cli.settings import with_unit

    if isinstance(default, list):
        return ", ".join(default)
    return with_unit(default, metavar) or (f"{default:g}" if isinstance(default, float) else str(default))


def _type_of(kind: type, metadata: Any) -> Any:
    if metadata["choices"]:
        return click.Choice(metadata["choices"].split(","))
    if metadata["metavar"] == "BYTES":
        return _size
    if metadata["metavar"] == "SEC":
        return duration
    return str if kind is list else WHOLE if kind is int else kind


class _Whole(click.types.IntParamType):
    name = "whole number"  # as the environment and the file call it


class WholeRange(click.IntRange):
    """`click.IntRange` with a name that is easy to read in an error."""

    name = "whole number"


WHOLE = _Whole()


def duration(text: str | float) -> float:
    """The type of an option that takes a length of time."""
    try:
        return text if isinstance(text, float) else read_duration(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a length of time: write {RIGHT}") from None


def time_limit(text: str | float) -> float:
    """The same, but more than 0."""
    seconds = duration(text)
    if not seconds:
        raise click.BadParameter(f"it is {text!r}; it must be more than 0")
    return seconds


def rate(text: str) -> float:
    """The type of an option that takes a number per unit of time. Returns it per second."""
    number, slash, unit = text.partition("/")
    seconds = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(unit.strip()) if slash else None
    try:
        per_second = float(number) / seconds if seconds else 0.0
    except ValueError:
        per_second = 0.0
    if not 0.0 < per_second < float("inf"):
        raise click.BadParameter(f"{text!r} is not a rate: write a number per second, minute or hour, like 10/s, 300/m or 1000/h")
    return per_second


def yes_option(function: F) -> F:
    """`--yes`."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")(function)


def confirmed(question: str, yes: bool, *, says_all: bool = False) -> None:
    """Asks, unless the answer was given on the command line; ends the command unless the answer is yes.

    `says_all`: the command names all that it does, so that a script, which cannot be asked, means it.
    """
    is_script = not sys.stdin.isatty()
    if yes or (is_script and says_all):
        return
    if is_script:
        raise CommandFailure(f"{question} Standard input is not a terminal, so nothing was done; --yes does it without asking")
    click.confirm(question, abort=True, err=True)


def _size(text: str) -> int:
    from spoolnode.cli.settings import read_size

    try:
        return read_size(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a number of bytes, such as 65536, 64M or 1G") from None


def of_uwsgi(function: F) -> F:
    """`--ini`, and the options of uWSGI that are accepted beside our own."""
    function = click.option(
        "--ini", multiple=True, metavar="FILE.ini[:SECTION]", shell_complete=files,
        help="Read the spooler's side of uWSGI's own configuration; may be repeated. All other settings override it.",
    )(function)  # fmt: skip
    function = click.option("--spooler-processes", type=int, hidden=True, metavar="N")(function)
    for name, (short, metavar, _) in WITHOUT_EFFECT.items():
        declarations = [f"--{name}", name.replace("-", "_"), *([short] if short else [])]
        if metavar:
            function = click.option(*declarations, hidden=True, metavar=metavar)(function)
        else:
            function = click.option(*declarations, hidden=True, is_flag=True, default=None)(function)
    return function


def as_typed(name: str, args: list[str]) -> str:
    """An option without effect as the user wrote it: its short form, unless one of the long ones is there."""
    long = {f"--{name}", *(f"--{alias}" for alias, real in ALIASES.items() if real == name)}
    return next((word for word in (arg.partition("=")[0] for arg in args) if word in long), WITHOUT_EFFECT[name][0])
