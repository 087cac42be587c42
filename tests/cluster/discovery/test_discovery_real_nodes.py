"""Real nodes that find each other by what a fake of Consul tells them, and what a node says that cannot use its source."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from fake_consul import FakeConsul
from support import PATIENCE, RunningNode, eventually


@contextmanager
def in_a_thread(consul: FakeConsul) -> Iterator[asyncio.AbstractEventLoop]:
    """The fake at work, on an event loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(consul.start(), loop).result(PATIENCE)
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(consul.stop(), loop).result(PATIENCE)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[RunningNode]]:
    made = []
    for name in ("alpha", "beta"):
        (tmp_path / name).mkdir()
        made.append(RunningNode(tmp_path / name, name))
    yield made
    for node in made:
        node.clean_up()


def test_nodes_find_each_other_by_consul_and_its_token_is_not_shown(nodes: list[RunningNode]) -> None:
    alpha, beta = nodes
    consul = FakeConsul(token="s3cret")
    with in_a_thread(consul) as loop:
        beta.start()
        alpha.start("--discover", f"consul://s3cret@{consul.address}/spoolnode")
        port = int(beta.via.rpartition(":")[2])
        loop.call_soon_threadsafe(partial(consul.put, "beta", port, address="127.0.0.1"))

        def is_found() -> bool:
            rows = json.loads(alpha.command("peers", "--json").stdout)
            found = [(row["name"], row["state"], row["sources"]) for row in rows]
            return found == [("beta", "up", [f"consul://{consul.address}/spoolnode"])]

        eventually(is_found, "alpha has found beta")
        assert " consul " in alpha.command("peers").stdout
    alpha.wait_for_log("discovery_failed", source=f"consul://{consul.address}/spoolnode")
    assert alpha.stop() == 0
    assert "s3cret" not in str(alpha.log)


def test_a_node_without_a_store_that_is_to_look_there_says_so_in_one_sentence_and_does_not_start(
    nodes: list[RunningNode],
) -> None:
    done = nodes[0].command("join", "-s", "127.0.0.1:0", "--discover", "store")
    assert done.returncode == 2
    assert "--discover store: this node has no store in which nodes could find each other: name it with --store" in done.stderr
