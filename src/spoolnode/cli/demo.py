"""`demo` shows what a node does."""

import click


@click.command("demo")
def demo_command() -> None:
    """Shows what a node does, in about fifteen seconds.

    It starts a node in a temporary directory, sends it tasks, kills it, starts it again, and stops it. Then it starts three
    nodes that find each other, and kills one of them.

    \b
    Examples:
      spoolnode demo
    """
    from spoolnode.demo.show import run_demo

    run_demo()
