"""The modules `uwsgi` and `uwsgidecorators` in a web process: they only send to a spooler."""

import os
from collections.abc import Callable
from typing import NoReturn

from spoolnode.compat import uwsgi_module, uwsgi_opt
from spoolnode.compat.installing import install_lookalikes
from spoolnode.compat.spool_view import SpoolView
from spoolnode.context import WorkerContext
from spoolnode.errors import Unavailable
from spoolnode.node.disk.layout import Layout
from spoolnode.wire import DIRECTORY


def install_modules(spool: str | None) -> None:
    """Puts both into `sys.modules`: see `spoolnode.compat.install`."""
    named = spool or os.environ.get("SPOOLNODE_SPOOL")
    layout = Layout(os.path.realpath(named or "spool"))
    if not os.environ.get("SPOOLNODE_VIA"):
        if named and os.access(layout.root, os.W_OK | os.X_OK):
            os.environ["SPOOLNODE_VIA"] = f"{DIRECTORY}{layout.root}"  # as under uWSGI, it need not run just now
        elif os.access(layout.socket, os.W_OK):
            os.environ["SPOOLNODE_VIA"] = layout.socket
    view = SpoolView(layout.root, _node_id(layout))
    context = WorkerContext(
        layout.root, 0, os.getppid(), view.pids, view.jobs, view.task,
        is_first=False,  # the node's worker warns of functions that are never called; once is enough
        options=uwsgi_opt.always_on(),
        is_loading=True,  # the end of the import is not known: handlers may be registered, but are not called
    )  # fmt: skip
    module = uwsgi_module.build(context)
    module.__dict__.update(
        i_am_the_spooler=lambda: False,
        worker_id=lambda: 1,  # 0 would mean: not a worker of the web server
        masterpid=os.getppid,
        reload=_no_server("reload"),
        stop=_no_server("stop"),
    )
    install_lookalikes(module)


def _no_server(name: str) -> Callable[..., NoReturn]:
    def refuse(*_: object) -> NoReturn:
        raise Unavailable(
            f"uwsgi.{name}: this process does not run under uWSGI; use its web server, or the node with `spoolnode {name}`"
        )

    return refuse


def _node_id(layout: Layout) -> str:
    """The id of the node; empty if there has been none yet."""
    try:
        with open(layout.node_id, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
