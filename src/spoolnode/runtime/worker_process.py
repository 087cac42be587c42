"""A worker process: `python -m spoolnode.runtime.worker_process DESCRIPTOR`, which only a node starts.

This is where the node's machinery (`spoolnode.node.work.worker`) and the application (`spoolnode.runtime.loading`) meet.
"""

import os
from typing import Any

from spoolnode.compat.spool_view import SpoolView
from spoolnode.compat.uwsgi_opt import uwsgi_options
from spoolnode.context import WorkerContext
from spoolnode.node.badconfig import BadConfig
from spoolnode.node.outcome import App
from spoolnode.node.work.current import runs_on
from spoolnode.node.work.worker import run_worker
from spoolnode.runtime.loading import load_app


def load(facts: dict[str, Any]) -> App:
    """Loads the application with the facts about the node. Tasks that it sends go to the node's own socket.

    Raises:
        BadConfig: its working directory cannot be entered.
        BaseException: what `load_app` raises.
    """
    try:
        os.chdir(facts["chdir"])
    except OSError as error:
        raise BadConfig(
            f"the application's working directory {facts['chdir']} cannot be entered: {error.strerror}; "
            "name one that exists with --chdir"
        ) from error
    os.environ["SPOOLNODE_VIA"] = facts["socket"]
    os.environ["SPOOLNODE_SPOOL"] = facts["root"]
    root = os.path.realpath(facts["root"])  # as in uWSGI
    spool = SpoolView(root, facts["node_id"])
    context = WorkerContext(
        root, facts["worker"] + 1, facts["node_pid"], spool.pids, spool.jobs, spool.task, frequency=facts["frequency"],
        options=uwsgi_options(facts["settings"]), is_first=facts["is_first"], is_reload=facts["is_reload"],
    )  # fmt: skip
    settings = facts["settings"]
    runs_on(settings["name"], settings["max_attempts"])
    return load_app(facts["app"], context, settings["import_"], settings["pythonpath"])


if __name__ == "__main__":
    run_worker(load)
