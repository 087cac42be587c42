"""`demo` shows what a node does."""

import click


@click.command("demo")
def demo_command() -> None:
    """Shows what a node does, in about fifteen seconds.

    It starts one in a temporary directory, sends it tasks, kills it, starts it again, and stops it. Then three that
    find each other, and one of them is killed.
    """
    from spoolnode.demo import run

    run()
