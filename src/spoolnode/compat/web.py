"""The modules `uwsgi` and `uwsgidecorators` in a web process: what such a process does with a spooler is to send to it."""

import os
import sys

from spoolnode.compat import uwsgi_module, uwsgidecorators
from spoolnode.compat.context import WorkerContext
from spoolnode.node.layout import Layout
from spoolnode.worker import SpoolView


def install_modules(spool: str | None) -> None:
    """Puts both into `sys.modules`: see `spoolnode.compat.install`."""
    layout = Layout(os.path.abspath(spool or os.environ.get("SPOOLNODE_SPOOL") or "spool"))
    if not os.environ.get("SPOOLNODE_VIA") and os.access(layout.socket, os.W_OK):
        os.environ["SPOOLNODE_VIA"] = layout.socket
    view = SpoolView(layout.root, _node_id(layout))
    context = WorkerContext(layout.root, 0, os.getppid(), view.pids, view.jobs, view.task)
    module = uwsgi_module.build(context)
    module.__dict__.update(
        i_am_the_spooler=lambda: False,
        worker_id=lambda: 1,  # 0 would mean: no worker of the web server
        masterpid=os.getppid,
    )
    sys.modules["uwsgi"] = module
    sys.modules["uwsgidecorators"] = uwsgidecorators


def _node_id(layout: Layout) -> str:
    """The id of the node; empty when there has been none yet."""
    try:
        with open(layout.node_id, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
