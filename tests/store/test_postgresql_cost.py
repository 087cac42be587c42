"""What the statements of the driver for PostgreSQL cost: however many tasks there are, each reads a few pages."""

import asyncio
import json
from collections import defaultdict
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from postgres import Postgres
from store_tasks import new, take

import spoolnode
from spoolnode.cluster.store.interface import Again, Burial, TaskState
from spoolnode.cluster.store.postgresql import PostgresStore
from spoolnode.cluster.store.postgresql_connections import ServerConnections

ROWS = 100_000
FILL = f"""
INSERT INTO spoolnode.task (id, hops, state, dest, rank, due, key, attempts, size, block, ended)
SELECT 'a' || n, 0, (ARRAY['later', 'ended', 'dead', 'ready', 'ready'])[n % 5 + 1],
       CASE n % 3 WHEN 0 THEN 'any' ELSE 'gone' END, 5, now() + make_interval(secs => 86400 + n),
       CASE n % 10 WHEN 3 THEN decode(md5(n::text), 'hex') END, 0, 0, 'block', now()
FROM generate_series(1, {ROWS}) AS n"""
GROUP = 20
"""Tasks of each verb."""
MOST = 25 * GROUP
"""Pages: each task of a group is in several indexes, of two or three levels each."""
MOST_TO_COUNT = 3_000
"""The same of a count. It looks at ten thousand tasks, and at their pages in the table too until they are vacuumed."""
EXPLAINED = (
    "session_preload_libraries=auto_explain", "auto_explain.log_min_duration=0", "auto_explain.log_analyze=on",
    "auto_explain.log_buffers=on", "auto_explain.log_timing=off", "auto_explain.log_format=json", "client_min_messages=log",
)  # fmt: skip
"""With these settings a server tells the plan of each statement to the client, with the pages that it read."""


class Costs:
    """The most pages that each statement has read, and the most pairs of rows that it compared in vain."""

    def __init__(self) -> None:
        self.pages: dict[str, int] = defaultdict(int)
        self.pairs: dict[str, int] = defaultdict(int)

    def heard(self, notice: psycopg.errors.Diagnostic) -> None:
        _, begins, told = (notice.message_primary or "").partition("{")
        if begins:
            said = json.loads(begins + told)
            pages = said["Plan"]["Shared Hit Blocks"] + said["Plan"]["Shared Read Blocks"]
            self.pages[said["Query Text"]] = max(pages, self.pages[said["Query Text"]])
            self.pairs[said["Query Text"]] = max(pairs_in(said["Plan"]), self.pairs[said["Query Text"]])

    @property
    def too_high(self) -> dict[str, int]:
        return {text: n for text, n in self.pages.items() if n > (MOST_TO_COUNT if "count(*)" in text else MOST)}

    @property
    def squared(self) -> dict[str, int]:
        """Statements that compare each task of a group with each other one."""
        return {text: n for text, n in self.pairs.items() if n > GROUP}


def pairs_in(plan: dict[str, Any]) -> int:
    """How many pairs of rows a plan has compared in vain."""
    own = plan.get("Rows Removed by Join Filter", 0) * plan["Actual Loops"]
    return int(own) + sum(map(pairs_in, plan.get("Plans", ())))


async def say_every_verb(url: str) -> None:
    """Each so often that the server makes a plan for all values, as it does for a node that runs for a while."""
    store = await PostgresStore.open(url)
    for turn in range(7):
        store._next_sweep = store._next_forgetting = 0.0
        await store.publish([new(f"n{turn}.{n}", to="mine", key=b"k" if n > GROUP - 3 else b"") for n in range(GROUP)])
        taken = await take(store, "any", "mine", "tag:gpu", most=GROUP)
        leases = [lease for lease, _ in taken]
        async for _ in store.body(leases[0]):
            pass
        await store.extend(leases, 30)
        for most in (GROUP // 2, GROUP):
            await store.admit("f", most, leases, leases[:2])
        for _ in range(2):
            await store.end(leases[:8])
        await store.again([Again(lease) for lease in leases[8:12]])
        await store.bury([Burial(lease, "why") for lease in leases[12:]])
        await store.revive([task.id for _, task in taken[12:]])
        claimed = await store.claim([f"a{100 * turn + n}" for n in range(GROUP)], 0.0)
        await store.extend([lease for lease, _ in claimed[:2]], 30)
        for state in TaskState:
            page = await store.list(state, GROUP)
            if page.next:
                await store.list(state, GROUP, page.next)
        await store.count()
        await store.places(10)
        await store.find("a7")
        await store.peek("a7")
        await store.remove(f"a{100 * turn + 52}")
        await store.watch(["other", "tag:gpu"], 0)
    await store.close()


def enqueue(url: str, costs: Costs) -> None:
    """What applications do in their own transactions."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.add_notice_handler(costs.heard)
        for _ in range(7):
            spoolnode.spool_in(connection, {"spool_key": "k"})


def test_what_a_statement_costs_does_not_grow_with_the_store(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = Costs()
    monkeypatch.setattr(ServerConnections, "_heard", lambda _self, _connection, notice: costs.heard(notice))
    postgres.sql("CREATE DATABASE costs")
    asyncio.run(migrated(postgres.url("costs")))
    postgres.sql("ALTER TABLE spoolnode.task SET (autovacuum_enabled = off)", "costs")
    url = f"{postgres.url('costs')}&options={quote(' '.join(f'-c {setting}' for setting in EXPLAINED), safe='')}"
    postgres.sql("VACUUM ANALYZE spoolnode.task", "costs")  # its figures are those of an empty queue then, as they often are
    postgres.sql(FILL, "costs")
    for figures in ("old", "new"):
        if figures == "new":
            postgres.sql("VACUUM ANALYZE spoolnode.task", "costs")
        asyncio.run(say_every_verb(url))
        enqueue(url, costs)
        assert costs.too_high == {}, f"with {figures} figures"
        assert costs.squared == {}, f"with {figures} figures"
    assert len(costs.pages) > 30, "auto_explain tells"


async def migrated(url: str) -> None:
    await (await PostgresStore.open(url, migrates=True)).close()
