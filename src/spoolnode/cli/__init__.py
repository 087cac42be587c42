"""The command line: `spoolnode COMMAND`. Each command is loaded only when it is used, so it does not wait for the imports of
others.

Exit statuses are a promise: docs/api.md has the table.
"""

import spoolnode.cli.early  # noqa: F401  # before everything that takes time

# isort: split

import os
from importlib import import_module
from typing import Any

import click

from spoolnode.protocol.printable import printable_lines

_COMMANDS = {
    "join": "join",
    "send": "send",
    "call": "call",
    "status": "look",
    "peers": "other_nodes",
    "top": "top",
    "accept": "other_nodes",
    "forget": "forget",
    "ls": "look",
    "qshape": "qshape",
    "show": "look",
    "timers": "look",
    "tail": "tail",
    "rm": "change",
    "cancel": "change",
    "retry": "change",
    "dead": "dead",
    "ping": "ping",
    "flush": "change",
    "reload": "change",
    "drain": "change",
    "pause": "pause",
    "resume": "pause",
    "settle": "settle",
    "stop": "change",
    "web": "browser",
    "config": "join",
    "store": "common_store",
    "ca": "ca",
    "doctor": "doctor",
    "completion": "completion",
    "demo": "demo",
}
"""Each command and the module of this package that has it, in the order of the help."""


class CommandFailure(click.ClickException):
    """Ends a command with one sentence on standard error, and exit status 1."""

    def __init__(self, message: str) -> None:
        super().__init__(printable_lines(message))


class _WrongSetting(CommandFailure):
    exit_code = 2


class _Unsure(CommandFailure):
    exit_code = 3


class _Commands(click.Group):
    def main(self, *args: Any, **kwargs: Any) -> Any:
        if "_SPOOLNODE_COMPLETE" in os.environ:  # a shell asks for words, not for a command
            import_module("spoolnode.cli.completion")
        return super().main(*args, **kwargs)

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        module = _COMMANDS.get(cmd_name)
        if module is None:
            return None
        command: click.Command = getattr(import_module(f"spoolnode.cli.{module}"), f"{cmd_name}_command")
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        from difflib import get_close_matches

        if args[0] not in _COMMANDS and not args[0].startswith("-") and (near := get_close_matches(args[0], _COMMANDS, 1)):
            ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        from spoolnode.protocol.errors import SpoolnodeError

        try:
            return super().invoke(ctx)
        except SpoolnodeError as error:
            raise _failure_of(error) from error
        except OSError as error:
            if isinstance(error, BrokenPipeError) or not error.filename:
                raise
            raise CommandFailure(f"{error.filename!r} cannot be used: {error.strerror}") from error


def _failure_of(error: Exception) -> CommandFailure:
    from spoolnode.errors import Unanswered
    from spoolnode.node.badconfig import BadConfig

    kind = _WrongSetting if isinstance(error, BadConfig) else _Unsure if isinstance(error, Unanswered) else CommandFailure
    return kind(str(error))


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    del param
    if value and not ctx.resilient_parsing:
        from spoolnode import __version__

        click.echo(f"spoolnode {__version__}")
        ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def main() -> None:
    """A job spooler without a broker: every node speaks uwsgi, keeps its own durable spool and runs its own workers."""
