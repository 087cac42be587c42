"""Checks what a node needs from its machine. It only reads, and removes what it writes for a test."""

import os
from collections.abc import Iterator

from spoolnode.doctor import application, machine, spool_directory
from spoolnode.doctor.finding import Finding
from spoolnode.node.config import Config
from spoolnode.node.disk.layout import Layout


def examine(config: Config) -> Iterator[Finding]:
    """All checks for a node with this (validated) configuration, in an order that helps a reader."""
    layout = Layout(config.spool)
    yield spool_directory.usable(layout)
    if os.path.isdir(layout.root):
        yield spool_directory.file_system(layout.root)
        if os.access(layout.root, os.W_OK | os.X_OK):
            yield spool_directory.sync_cost(layout)
        yield spool_directory.free_space(layout.root, config.min_free)
        yield from spool_directory.leftovers(layout)
    yield machine.node(layout)
    yield from machine.application(layout)
    yield from application.uses_of_uwsgi(config)
    for address in config.listen:
        yield machine.listen(address, layout)
    yield from machine.peers(layout)
    yield from machine.certificate(config)
    yield machine.inotify()
    yield machine.versions()
