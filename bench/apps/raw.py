"""Publishes one task a message, without a node, and waits for each acknowledgement. argv: postgres or nats, the address, how
many clients at once, seconds.

Prints as JSON how many a second were acknowledged, and percentiles of the time that one took.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import nats
import psycopg

BLOCK = b"\x04\x00Name\x06\x00Serena\x06\x00System\x05\x00Linux\x05\x00Tizio\x04\x00Caio"

Publish = Callable[[], Awaitable[object]]


@asynccontextmanager
async def postgres(url: str, clients: int) -> AsyncIterator[list[Publish]]:
    """A connection for each client. A task is a row of a table that has an id, in a transaction of its own."""
    async with AsyncExitStack() as stack:
        connections = [
            await stack.enter_async_context(await psycopg.AsyncConnection.connect(url, autocommit=True)) for _ in range(clients)
        ]
        await connections[0].execute("CREATE TABLE IF NOT EXISTS raw (id bigserial PRIMARY KEY, block bytea)")

        def publisher(connection: psycopg.AsyncConnection) -> Publish:
            return lambda: connection.execute("INSERT INTO raw (block) VALUES (%s)", (BLOCK,))

        yield [publisher(connection) for connection in connections]


@asynccontextmanager
async def jetstream(url: str, clients: int) -> AsyncIterator[list[Publish]]:
    """One connection for all, as a program has it. A task is a message of a stream with three replicas."""
    client = await nats.connect(url.split(","))
    stream = client.jetstream()
    await stream.add_stream(name="raw", subjects=["raw"], num_replicas=3)
    try:
        yield [lambda: stream.publish("raw", BLOCK, timeout=30)] * clients
    finally:
        await client.close()


async def main() -> None:
    """See above."""
    engine, url, clients, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    took: list[float] = []

    async def one_after_the_other(publish: Publish, end: float) -> None:
        while (begin := time.perf_counter()) < end:
            await publish()
            took.append(time.perf_counter() - begin)

    async with {"postgres": postgres, "nats": jetstream}[engine](url, clients) as publishers:
        await asyncio.gather(*(publish() for publish in publishers))  # cold code
        begin = time.perf_counter()
        await asyncio.gather(*(one_after_the_other(publish, begin + seconds) for publish in publishers))
        rate = len(took) / (time.perf_counter() - begin)
    took.sort()
    p50, p99 = (took[int(share * (len(took) - 1))] * 1e6 for share in (0.50, 0.99))
    print(json.dumps({"rate": rate, "p50_us": p50, "p99_us": p99}))


asyncio.run(main())
