"""Takes from a common store as a node does, and ends what it took. argv: the address, how many together, how often.

Prints as JSON the milliseconds of each take and of each end.
"""

import asyncio
import json
import sys
import time

from spoolnode.cluster.store.interface import ANY
from spoolnode.cluster.store.opening import open_store


async def main() -> None:
    """See above."""
    url, together, times = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    store = await open_store(url)
    takes, ends = [], []
    for number in range(times + 1):
        begin = time.perf_counter()
        taken = await store.take(together, [ANY], 30.0)
        middle = time.perf_counter()
        await store.end([lease for lease, _ in taken])
        if len(taken) != together:
            raise SystemExit(f"{len(taken)} tasks came instead of {together}")
        if number:  # code is cold at first
            takes.append((middle - begin) * 1000)
            ends.append((time.perf_counter() - middle) * 1000)
    await store.close()
    print(json.dumps({"take": takes, "end": ends}))


asyncio.run(main())
