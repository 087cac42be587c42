"""Unknown destinations cost next to nothing, however many, and get a link as soon as a node for them is known."""

import asyncio
import random
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from spoolnode.cluster.candidate import Candidate
from spoolnode.cluster.cluster import Cluster
from spoolnode.cluster.dial import DialError, DialFailure
from spoolnode.cluster.sender import ATTEMPTS_AT_ONCE
from spoolnode.node.config import Config
from spoolnode.node.disk.disk import RealDisk
from spoolnode.node.disk.layout import Layout
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.recovery import prepare
from spoolnode.node.spool.retry import RetryPolicy
from spoolnode.protocol.keys import NodeKey

NODE = "0123456789ab"
MANY = 3000


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


class Home:
    """A node, as far as its cluster asks for it. All that it calls are away."""

    def __init__(self, path: Path) -> None:
        self.id, self.instance, self.key = NODE, "instance", NodeKey(bytes(32))
        self.config = Config(spool=str(path), name="alpha", discover=["none"])
        self.addresses = ["127.0.0.1:1"]
        self.reports: list[tuple[str, dict[str, Any]]] = []
        self.journal = Journal(RealDisk(), Layout(str(path)), NODE, sync=False, report=self.report)
        self.storage = Storage(self.journal, RetryPolicy(3), random.Random(1))
        self.spool, self.outbox, self.moving = self.storage.spool, self.storage.outbox, self.storage.moving
        prepare(self.journal.store, self.report)
        self.storage.load()
        self.called: list[str] = []
        self.hangs = False
        """Whom it calls, neither answers nor refuses."""
        self.cluster = Cluster(self, None, self.dial, random.Random(1))

    def report(self, action: str, **details: Any) -> None:
        self.reports.append((action, details))

    def status(self) -> dict[str, Any]:
        return {"id": NODE, "name": "alpha"}

    async def dial(self, address: str, *_: Any) -> Any:
        self.called.append(address)
        if self.hangs:
            await asyncio.Event().wait()
        raise DialError(DialFailure.REFUSED, f"nothing listens on {address}")

    def store(self, to: str) -> None:
        """A task for another node is safe."""
        number = self.outbox.number(to)
        self.outbox.accept_file(f"outbox/{to}/uwsgi_spoolfile_on_{NODE}_1_{number}@{number}", time.time())

    def tried(self, to: str) -> bool:
        """Whether its link was tried."""
        return any(action == "link_failed" and details["destination"] == to for action, details in self.reports)

    async def close(self) -> None:
        await self.cluster.leave()
        await self.cluster.stop()
        for thread in (self.journal.packing, self.journal.commits, self.journal.moves):
            await thread.close()


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def test_made_up_destinations_have_nothing_that_runs(tmp_path: Path) -> None:
    async def story() -> None:
        home = Home(tmp_path / "spool")
        await home.cluster.start()
        before = len(asyncio.all_tasks())
        for n in range(MANY):
            home.store(f"ghost-{n}")
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) - before <= 1
        assert not any(home.cluster.link(f"ghost-{n}")["known"] for n in range(MANY))
        await home.close()

    run(story())


def test_what_waits_for_nobody_gets_its_link_when_somebody_appears(tmp_path: Path) -> None:
    async def story() -> None:
        home = Home(tmp_path / "spool")
        await home.cluster.start()
        for n in range(MANY):
            home.store(f"ghost-{n}")
        home.cluster.found(Candidate("static", "ghost-7", "", "ghost-7", ("127.0.0.1:7",)))
        await until(lambda: home.tried("ghost-7"))
        assert set(home.called) == {"127.0.0.1:7"}
        assert home.cluster.link("ghost-7")["known"]
        assert not home.tried("ghost-8")
        await home.close()

    run(story())


def test_whoever_tries_a_destination_by_hand_need_not_wait_until_it_is_looked_for(tmp_path: Path) -> None:
    async def story() -> None:
        home = Home(tmp_path / "spool")
        home.store("ghost")
        assert not home.cluster.flush("ghost")
        home.cluster.found(Candidate("static", "ghost", "", "ghost", ("127.0.0.1:7",)))
        assert home.cluster.flush("ghost")
        await until(lambda: home.tried("ghost"))
        await home.close()

    run(story())


def test_a_destination_for_which_nothing_waits_any_more_is_forgotten(tmp_path: Path) -> None:
    async def story() -> None:
        home = Home(tmp_path / "spool")
        home.store("ghost")
        (ref,) = home.outbox.files.known
        await home.storage.remove(home.outbox.files, ref)
        await home.journal.sync_marks()
        home.cluster.tick()
        await until(lambda: not home.outbox.destinations)
        await home.close()

    run(story())


def test_links_to_thousands_of_addresses_begin_a_few_at_a_time_and_none_waits_for_another_to_answer(tmp_path: Path) -> None:
    async def story() -> None:
        home = Home(tmp_path / "spool")
        home.hangs = True
        await home.cluster.start()
        for n in range(1000):
            home.store(f"127.1.{n >> 8}.{n & 255}:9")
        begun = [len(home.called)]
        async with asyncio.timeout(60):
            while len(home.called) < 1000:
                await asyncio.sleep(0)
                begun.append(len(home.called) - sum(begun))
        assert max(begun) <= ATTEMPTS_AT_ONCE
        await home.close()

    run(story())


def test_a_cluster_and_its_prober_say_how_they_are(tmp_path: Path) -> None:
    async def story() -> None:
        home = Home(tmp_path / "spool")
        cluster, prober = home.cluster, home.cluster._prober
        assert (repr(cluster), repr(prober)) == (
            "<cluster default: <peers of alpha: none>, 0 senders>",
            "<prober not started, 0 connections>",
        )
        await cluster.start()
        cluster.found(Candidate("static", "beta", "", "beta", ("127.0.0.1:7",)))
        home.store("beta")
        assert repr(cluster) == "<cluster default: <peers of alpha: 1 unknown>, 1 senders>"
        assert repr(prober) == "<prober pinging, 0 connections>"
        await home.close()
        await asyncio.sleep(0)
        assert repr(prober) == "<prober stopped, 0 connections>"

    run(story())
