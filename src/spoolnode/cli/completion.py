"""`completion` prints the script by which a shell completes `spoolnode`, and the shells that call it: click's own machinery, for
which bash gets a script of ours, because it takes `tasks:mail` for three words.
"""

import os
from typing import Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)  # fmt: skip

VARIABLE = "_SPOOLNODE_COMPLETE"
"""The variable by which a script asks for words; click makes its name from that of the program."""

_BASH = """\
%(complete_func)s() {
    local kind word
    COMPREPLY=()
    while IFS=, read -r kind word; do
        case $kind in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("$word") ;;
        esac
    done < <(env %(complete_var)s=bash_complete COMP_LINE="${COMP_LINE:0:COMP_POINT}" \\
        COMP_WORDBREAKS="$COMP_WORDBREAKS" "$1" 2>/dev/null)
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _Quiet(ShellComplete):
    """Words for a line that is being typed: whatever is wrong with it, or with the node, no error reaches the prompt."""

    def complete(self) -> str:
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 2)
        try:
            return super().complete()
        except click.ClickException:
            return ""  # the beginning of the line is wrong already; the command will say so


@add_completion_class
class _Bash(_Quiet, BashComplete):
    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_LINE"]
        words = split_arg_string(line)[1:]
        return (words, "") if line[-1:].isspace() else (words[:-1], words[-1] if words else "")

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        items = super().get_completions(args, incomplete)
        cut = _kept_by_bash(incomplete, os.environ.get("COMP_WORDBREAKS", ""))
        for item in items:
            item.value = item.value[cut:]
        return items


@add_completion_class
class _Zsh(_Quiet, ZshComplete):
    """It asks with click's script."""


@add_completion_class
class _Fish(_Quiet, FishComplete):
    """It asks with click's script."""


def _kept_by_bash(word: str, breaks: str) -> int:
    """How many characters of the words that we offer bash has already, and keeps: it replaces what follows the last break."""
    value = word.partition("=")[2] if word.startswith("-") and "=" in word else word
    return max((value.rfind(character) + 1 for character in ":=" if character in breaks), default=0)


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Prints a script that completes commands in a shell.

    It completes commands, options and files, and from the node or its spool directory the ids of tasks, and the names of
    functions and nodes. A node that does not answer at once is not waited for.

    \b
    Examples:
      eval "$(spoolnode completion bash)"
      spoolnode completion fish > ~/.config/fish/completions/spoolnode.fish
    """
    found: Any = get_completion_class(shell)
    click.echo(found(click.get_current_context().find_root().command, {}, "spoolnode", VARIABLE).source(), nl=False)
