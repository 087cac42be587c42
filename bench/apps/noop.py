"""The application of the drain and of the idle node: a task that does nothing."""

import os
import time


def noop(task: object) -> None:
    """Has succeeded."""


# Tells the benchmark which process has loaded the application, and when (monotonic): its first task comes right after.
with open(os.environ["BENCH_STAMP"], "a") as stamp:
    stamp.write(f"{os.getpid()} {time.clock_gettime(time.CLOCK_MONOTONIC)}\n")
