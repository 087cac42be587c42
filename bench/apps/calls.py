"""Sends from Python, one call after the other, and waits until all have run; then a few one by one. argv: dramatiq or
spoolnode.

Prints as JSON how many a second were sent, and done; and the seconds from each lone call to its run.
"""

import json
import os
import struct
import sys
import time
from collections.abc import Callable

LIMIT = 60.0


def sender() -> Callable[[], object]:
    """A function that sends one task."""
    if sys.argv[1] == "dramatiq":
        from tick_dramatiq import tick  # noqa: PLC0415  # each side has its own environment

        return lambda: tick.send("Serena", "Linux", "Caio")
    from spoolnode import send_to_spooler  # noqa: PLC0415  # likewise

    task, node = {"Name": "Serena", "System": "Linux", "Tizio": "Caio"}, os.environ["BENCH_NODE"]
    return lambda: send_to_spooler(task, node=node)


def ran() -> int:
    """Tasks that have run so far."""
    try:
        return os.stat(os.environ["BENCH_TICKS"]).st_size // 8
    except FileNotFoundError:
        return 0


def wait(count: int) -> None:
    """Returns when so many have run."""
    end = time.monotonic() + LIMIT
    while ran() < count:
        if time.monotonic() > end:
            raise SystemExit(f"{ran()} of {count} tasks have run after {LIMIT:g} s")
        time.sleep(0.001)


def main() -> None:
    """See above."""
    send, calls, samples, total = sender(), int(os.environ["BENCH_CALLS"]), int(os.environ["BENCH_SAMPLES"]), 0
    for _ in range(20):  # cold code, connections
        send()
    wait(total := 20)
    begin = time.monotonic()
    for _ in range(calls):
        send()
    sent = time.monotonic()
    wait(total := total + calls)
    begins = []
    for _ in range(samples):
        time.sleep(0.01)
        begins.append(time.monotonic())
        send()
        wait(total := total + 1)
    with open(os.environ["BENCH_TICKS"], "rb") as file:
        ticks = [tick for (tick,) in struct.iter_unpack("<d", file.read())]
    last = max(ticks[: 20 + calls])
    alone = [tick - begun for tick, begun in zip(ticks[20 + calls :], begins, strict=True)]
    print(json.dumps({"sent": calls / (sent - begin), "done": calls / (last - begin), "alone": alone}))


main()
