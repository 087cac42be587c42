"""`spoolnode demo`: real nodes run a few tasks and show what becomes of them. For a newcomer, in about fifteen seconds.

Every step checks what it shows; the first broken promise ends the demo with a sentence.
"""

import signal
import tempfile
import time
from pathlib import Path

import click

from spoolnode import client
from spoolnode.demo.alone import show_one
from spoolnode.demo.stage import DemoNode
from spoolnode.demo.together import show_three


def run_demo() -> None:
    """The whole demo. Raises `SpoolnodeError` if something is not as promised."""
    started = time.monotonic()
    nodes: list[DemoNode] = []
    with tempfile.TemporaryDirectory(prefix="spoolnode-demo-") as directory:
        root = Path(directory)
        try:
            nodes.append(DemoNode(root, "solo"))
            show_one(nodes[0])
            cluster = f"demo-{time.time_ns()}"
            nodes += [DemoNode(root, name, cluster) for name in ("alpha", "beta", "gamma")]
            show_three(*nodes[1:])
        finally:
            client.close()
            for node in nodes:
                node.end(signal.SIGKILL)
    click.echo(f"\nAll as promised, in {time.monotonic() - started:.1f} s.")
