"""Nodes with other timing than the usual one. `QUICK` has short pauses, and as much time for an answer as ever: a busy machine
needs that.

    python quick.py '{"silence": 0.5}' join ...

is `spoolnode join ...` with that timing; see `timed`.
"""

import json
import sys
from dataclasses import asdict, replace
from functools import partial

from spoolnode.cli import main
from spoolnode.cluster import cluster
from spoolnode.cluster.timing import USUAL, Timing

QUICK = replace(
    USUAL,
    silence=0.5,
    stale=1.0,
    gap=0.05,
    longest_backoff=0.5,
    distrust=1.0,
    first_retry=0.1,
    longest_retry=0.5,
    search=0.1,
)


def timed(args: list[str], timing: Timing) -> list[str]:
    """The command line `python -m spoolnode ...` with this timing."""
    python, _, _, *rest = args
    return [python, __file__, json.dumps(asdict(timing)), *rest]


if __name__ == "__main__":
    del sys.path[0]  # as `python -m spoolnode` does: the modules beside this one are those of tests
    cluster.joiner = partial(cluster.joiner, timing=Timing(**json.loads(sys.argv.pop(1))))
    sys.exit(main(prog_name="spoolnode"))
