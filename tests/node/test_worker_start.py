"""A worker starts quickly: each start of a node waits for it, and so does each task after a crash or a timeout."""

import subprocess
import sys

from support import environment

HEAVY = {"asyncio", "dataclasses", "hashlib", "importlib.resources", "inspect", "ipaddress", "pathlib", "random", "tempfile"}
"""What only some tasks or nodes need. Together they were a third of the time that a worker needs until it is up."""


def test_worker_loads_nothing_that_only_some_tasks_need() -> None:
    code = "import sys; others = set(sys.modules); import spoolnode.runtime.worker_process; print(*set(sys.modules) - others)"
    done = subprocess.run([sys.executable, "-P", "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert HEAVY & set(done.stdout.split()) == set()
