"""A node as far as mDNS is concerned, in a process of its own, on the loop that real nodes have.

    python mdns_child.py '{"id": ..., "cluster": ..., "port": ..., "tuning": {...}}'

Says what it hears as JSON lines with the monotonic time, which is one for all namespaces. SIGTERM: goodbye and end.
"""

import asyncio
import json
import random
import signal
import sys
import time
from typing import Any

import uvloop

from spoolnode.cluster.candidate import Candidate, Identity
from spoolnode.cluster.discovery.mdns import Mdns, Tuning


def say(event: str, **details: Any) -> None:
    print(json.dumps({"event": event, "at": time.monotonic(), **details}), flush=True)  # noqa: T201  # that is its job


class Sink:
    def found(self, candidate: Candidate) -> None:
        say("found", key=candidate.key, addresses=candidate.addresses)

    def gone(self, source: str, key: str) -> None:
        say("gone", key=key)

    def leaving(self, source: str, key: str) -> None:
        say("leaving", key=key)


async def main(options: dict[str, Any]) -> None:
    identity = Identity(options["id"], f"node-{options['id']}", options["cluster"], (), tls=False)
    tuning = Tuning(**options.get("tuning", {}))
    listen = [(options.get("listen", "0.0.0.0"), options["port"])]
    say("started")
    source = Mdns("mdns", identity, listen, say, rng=random.Random(options["id"]), tuning=tuning)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    running = asyncio.create_task(source.run(Sink()))
    await stop.wait()
    start = time.monotonic()
    await source.close()
    say("closed", took=time.monotonic() - start)
    running.cancel()
    await asyncio.wait([running])


uvloop.run(main(json.loads(sys.argv[1])))
