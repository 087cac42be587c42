"""Sends from Python, one call after the other, and waits until all have run; then as many at once; then a few one by one. argv:
dramatiq, procrastinate or spoolnode.

Prints as JSON how many a second were sent, and done; how many were done that were sent at once; and the seconds from each lone
call to its run.
"""

import json
import os
import struct
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

LIMIT = 60.0


class Sender(NamedTuple):
    """How one side sends a task, and many."""

    send: Callable[[], object]
    send_many: Callable[[int], object]


def sender() -> Sender:
    """That of the side. Each has an environment of its own, so it alone is imported."""
    if sys.argv[1] == "dramatiq":
        from tick_dramatiq import tick  # noqa: PLC0415  # see above

        def send() -> None:
            tick.send("Serena", "Linux", "Caio")

        return Sender(send, lambda count: [send() for _ in range(count)])  # it has no call for many
    if sys.argv[1] == "procrastinate":
        import tick_procrastinate  # noqa: PLC0415  # see above

        tick_procrastinate.app.open()
        return Sender(tick_procrastinate.send, tick_procrastinate.send_many)
    from spoolnode import send_many, send_to_spooler  # noqa: PLC0415  # see above

    task, node = {"Name": "Serena", "System": "Linux", "Tizio": "Caio"}, os.environ.get("BENCH_NODE")
    return Sender(lambda: send_to_spooler(task, node=node), lambda count: send_many([task] * count, node=node))


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
    (send, send_many), calls, samples = sender(), int(os.environ["BENCH_CALLS"]), int(os.environ["BENCH_SAMPLES"])
    for _ in range(20):  # cold code, connections
        send()
    wait(total := 20)
    begin = time.monotonic()
    for _ in range(calls):
        send()
    sent = time.monotonic()
    wait(total := total + calls)
    begin_many = time.monotonic()
    send_many(calls)
    wait(total := total + calls)
    begins = []
    for _ in range(samples):
        time.sleep(0.01)
        begins.append(time.monotonic())
        send()
        wait(total := total + 1)
    with open(os.environ["BENCH_TICKS"], "rb") as file:
        ticks = [tick for (tick,) in struct.iter_unpack("<d", file.read())]
    last, last_of_many = max(ticks[: 20 + calls]), max(ticks[: 20 + 2 * calls])
    alone = [tick - begun for tick, begun in zip(ticks[20 + 2 * calls :], begins, strict=True)]
    rates = {"sent": calls / (sent - begin), "done": calls / (last - begin), "many": calls / (last_of_many - begin_many)}
    print(json.dumps(rates | {"alone": alone}))


main()
