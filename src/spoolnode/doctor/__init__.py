"""Checks what a node needs from its machine. It only reads, and removes what it writes for a test."""

import os
from collections.abc import Iterator

from spoolnode.doctor import application, machine, nginx, shared_tasks, spool_directory
from spoolnode.doctor.finding import Finding
from spoolnode.node.config import Config
from spoolnode.node.disk.layout import Layout


def examine(config: Config, behind: str = "") -> Iterator[Finding]:
    """All checks for a node with this (validated) configuration, in an order that helps a reader.

    `behind`: the path of a configuration of nginx that sends tasks to the node; empty: there is none.
    """
    layout = Layout(config.spool)
    yield spool_directory.usable(layout)
    if os.path.isdir(layout.root):
        yield spool_directory.file_system(layout.root)
        if os.access(layout.root, os.W_OK | os.X_OK):
            yield spool_directory.sync_cost(layout)
        yield spool_directory.free_space(layout.root, config.min_free)
        yield from spool_directory.leftovers(layout)
    if config.store:
        yield from shared_tasks.in_store(config.store)
    yield machine.node(layout)
    yield from machine.application(layout)
    yield from application.uses_of_uwsgi(config)
    for address in config.listen:
        yield machine.listen(address, layout)
    if behind:
        yield from nginx.in_front(behind, config)
    yield from machine.peers(layout)
    yield from machine.reached(config, layout)
    yield from machine.certificate(config)
    yield machine.inotify()
    yield machine.descriptors()
    yield machine.versions()
