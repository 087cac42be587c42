"""`call` stores a call of a function of `@spool`, and lists an application's functions."""

import json
from typing import Any

import click

from spoolnode.cli import CommandFailure
from spoolnode.cli.completing import functions
from spoolnode.cli.options import json_option, node_address, sending_options
from spoolnode.cli.send import check_priority, read_time, tell_stored

TYPE_CHECKING = False
if TYPE_CHECKING:
    from spoolnode.calls.spooled_function import SpooledFunction
    from spoolnode.wire import Message


@click.command("call")
@click.argument("function", required=False, metavar="MODULE:FUNCTION", shell_complete=functions)
@click.argument("arguments", nargs=-1, metavar="[VALUE|NAME=VALUE]...")
@sending_options
@click.option("--app", metavar="APP", help="Check the arguments with this application, and take the options of its @spool.")
@click.option("--list", "listed", metavar="APP", help="List the functions of this application with their parameters.")
@json_option
def call_command(
    function: str | None, arguments: tuple[str, ...], app: str | None, listed: str | None, as_json: bool,
    via: str | None, send_timeout: float | None, **options: Any,
) -> None:  # fmt: skip
    """Stores a call of a @spool function, and prints the task's id.

    A value is JSON; if it is not, it is text. Put -- before the first value that begins with -.

    Exit status 1: nothing was stored. 3: no answer came, so it may or may not have been stored.

    \b
    Examples:
      spoolnode call tasks:mail 1 to='["ada@example.org"]'
      spoolnode call tasks:report 2026-11-28 --at +5m --node tag:gpu
      spoolnode call --list tasks
    """
    if listed is not None:
        if function is not None:
            raise click.UsageError("--list only lists; leave the function out")
        _list(listed, as_json=as_json)
        return
    if function is None:
        raise click.UsageError("name a function like tasks:mail, or an application with --list")
    from spoolnode import client, wire

    args, kwargs = _split(arguments)
    message = _message(function, app, _read(options), args, kwargs)
    sent = client.send_copies(node_address(via), message, wire.send_timeout(send_timeout))
    tell_stored(options["node"], *sent, as_json=as_json)


def _split(arguments: tuple[str, ...]) -> tuple[list[Any], dict[str, Any]]:
    """The positional arguments and the keywords."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals or not name.isidentifier():
            if kwargs:
                raise click.UsageError(f"{argument!r} has no name, and comes after arguments with names")
            args.append(_value(argument))
        elif name in kwargs:
            raise click.UsageError(f"{name!r} is given twice")
        else:
            kwargs[name] = _value(text)
    return args, kwargs


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _read(options: dict[str, Any]) -> dict[str, Any]:
    """The options of the call, as `@spool` takes them."""
    import time

    if options["at"] is not None:
        options = {**options, "at": read_time(options["at"], time.time())}
    if options["priority"] is not None:
        check_priority(options["priority"])
        options = {**options, "priority": int(options["priority"])}
    return options


def _message(function: str, app: str | None, options: dict[str, Any], args: list[Any], kwargs: dict[str, Any]) -> "Message":
    from spoolnode.calls.call_options import Options, check_options, encode_call
    from spoolnode.wire import message

    if app is None:
        checked = Options(**options)
        check_options(checked)
        return message(encode_call(function, checked, tuple(args), kwargs))
    functions = _functions(app)
    if function not in functions:
        raise CommandFailure(f"{app} has no function {function!r}; it has {', '.join(functions) or 'none'}; nothing was sent")
    return functions[function].options(**options).request(tuple(args), kwargs)


def _list(app: str, *, as_json: bool) -> None:
    from spoolnode.cli.printing import print_json

    found = {name: str(function.signature) for name, function in _functions(app).items()}
    if as_json:
        print_json([{"function": name, "parameters": parameters} for name, parameters in found.items()])
        return
    for name, parameters in found.items():
        click.echo(f"{name}{parameters}")


def _functions(app: str) -> "dict[str, SpooledFunction[..., Any]]":
    """The functions of an application, which is imported as a worker would do it."""
    from spoolnode.calls.registry import REGISTRY
    from spoolnode.calls.spooled_function import SpooledFunction
    from spoolnode.context import WorkerContext
    from spoolnode.runtime.loading import import_app

    import_app(app, WorkerContext("/", 1, 0, list, list, lambda _: None, is_first=False))
    return {name: found for name, found in sorted(REGISTRY.functions.items()) if isinstance(found, SpooledFunction)}
