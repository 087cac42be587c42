"""The application of the latency: writes to a FIFO when it was called (monotonic)."""

import os
import time

_fifo = -1


def stamp(task: object) -> None:
    """Has succeeded."""
    global _fifo  # noqa: PLW0603  # opened by the process that runs the tasks: uWSGI's spooler closes what it inherits
    now = time.clock_gettime(time.CLOCK_MONOTONIC)
    if _fifo < 0:
        _fifo = os.open(os.environ["BENCH_FIFO"], os.O_WRONLY)
    os.write(_fifo, b"%.9f\n" % now)
