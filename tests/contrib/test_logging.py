"""The application's `logging` on a real node: its records are whole in the log, with level and task."""

import subprocess
import sys

from documents import blocks
from support import PATIENCE, RunningNode, environment

APP = """
import logging, os
from spoolnode import spool

log = logging.getLogger("shop")
log.info("loaded")

@spool
def pay():
    log.debug("too much")
    try:
        {}["amount"]
    except KeyError:
        log.exception("no amount\\nin the order")
    log.warning("%s of them", 3)
    if os.fork() == 0:
        log.warning("from a child")
        os._exit(0)
    os.wait()
"""


def test_records_are_whole_and_have_their_level_logger_and_task(node: RunningNode) -> None:
    (configuration,) = blocks("docs/monitoring.md", "Logging", "python")
    node.start(app=configuration.text + APP)
    pay = [sys.executable, "-c", "from app import pay; print(pay.spool())"]
    sender = {"SPOOLNODE_VIA": node.via}
    done = subprocess.run(
        pay, cwd=node.directory, env=environment(**sender), capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert done.stderr == "loaded\n", "outside of a worker it prints"
    node.wait_for_log("done", id=done.stdout.strip())
    loaded, failed, warned = node.lines("log")
    assert (loaded["level"], loaded["logger"], loaded["id"], loaded["text"]) == ("info", "shop", "", "loaded")
    assert (failed["level"], failed["id"]) == ("error", done.stdout.strip())
    first, *_, last = failed["text"].split("\n")
    assert (first, last) == ("no amount", "KeyError: 'amount'")
    assert (warned["level"], warned["text"]) == ("warning", "3 of them")
    node.wait_for_log("print", stream="stderr", text="from a child")
