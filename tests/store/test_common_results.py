"""What a task returned on one node is found through every node of the store."""

import threading
from pathlib import Path

import pytest
from nats_servers import NatsCluster
from store_tasks import held, new
from subjects import InNats, InPostgres, Subject
from support import PATIENCE, RunningNode, eventually

import spoolnode
from spoolnode.client.fetching import ask_about
from spoolnode.cluster.store.interface import MOST_KEPT, TaskState
from spoolnode.protocol.values import unpack

APP = """
from spoolnode import spool

@spool(name="app.add", keep_result=True)
def add(a, b):
    return a + b

@spool(name="app.plain")
def plain():
    return 1

@spool(name="app.fail", keep_result=True, max_attempts=1)
def fail():
    raise ValueError("no such thing")
"""
STORE = ("--store-lease", "3600")


@spoolnode.spool(name="app.add", keep_result=True)
def add(a: int, b: int) -> int:
    return a + b


@spoolnode.spool(name="app.plain")
def plain(text: str = "") -> None: ...


@spoolnode.spool(name="app.fail", keep_result=True, max_attempts=1)
def fail() -> None: ...


def test_a_result_is_kept_with_a_task_that_has_ended(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        store, results = subject.store, {"a": b"\x00a", "b": b"b" * MOST_KEPT, "c": b""}
        leases = {name: await held(store, new(name, b"body")) for name in results}
        assert await store.end([*leases.values()], {leases[name]: result for name, result in results.items()}) == frozenset()
        for name, result in results.items():
            found = await store.find(name)
            assert found is not None
            assert (found.state, found.result, found.task.block) == (TaskState.ENDED, result, b"")
        assert await store.end([*leases.values()]) == frozenset(), "a repeat"
        again = await store.find("a")
        assert again is not None
        assert again.result == b"\x00a"

    subject.run(story)


@pytest.fixture(params=["postgresql", "nats"])
def url(request: pytest.FixtureRequest) -> str:
    """An empty store."""
    if request.param == "postgresql":
        in_postgres: InPostgres = request.getfixturevalue("in_postgres")
        return in_postgres.url
    servers: NatsCluster = request.getfixturevalue("nats_server")
    InNats(servers)  # empties it
    return servers.url


def test_the_result_is_there_through_each_node_also_when_the_one_that_ran_it_is_gone(tmp_path: Path, url: str) -> None:
    nodes = [RunningNode(tmp_path / name, name) for name in ("alpha", "beta", "gamma")]
    for node in nodes:
        node.directory.mkdir()
    alpha, beta, gamma = nodes
    try:
        alpha.start("--store", url, *STORE)  # without an application: beta has to run all
        gamma.start("--store", url, *STORE)
        identity = add.options(via=alpha.via).spool(1, 2)
        found: list[object] = []
        for text in ("x" * 200_000, "y" * (MOST_KEPT * 2)):  # in a body
            waits = plain.options(via=alpha.via, node="delta").spool(text)
            told = ask_about(waits, via=gamma.via)
            assert (told["state"], unpack(told["values"])["args"]) == ("waiting", [text])
        waiting = threading.Thread(target=lambda: found.append(spoolnode.result(identity, PATIENCE, via=gamma.via)))
        waiting.start()
        beta.start("--store", url, *STORE, app=APP)
        waiting.join()
        assert found == [3]
        failed, unkept = fail.options(via=alpha.via).spool(), plain.options(via=alpha.via).spool()
        large = add.options(via=alpha.via).spool("x" * MOST_KEPT, "x")  # type: ignore[arg-type]  # texts add up, too
        with pytest.raises(spoolnode.ResultMissing, match="no such thing"):
            spoolnode.result(failed, PATIENCE, via=gamma.via)
        for missing in (unkept, large):
            with pytest.raises(spoolnode.ResultMissing, match="the common store has no result"):
                spoolnode.result(missing, PATIENCE, via=gamma.via)
        assert len(str(spoolnode.result(large, PATIENCE, via=beta.via))) == MOST_KEPT + 1, "it is on the node that ran it"
        beta.kill9()
        eventually(lambda: not beta.is_running, "it is gone")
        for node in (alpha, gamma):
            assert spoolnode.result(identity, PATIENCE, via=node.via) == 3
            told = ask_about(identity, via=node.via)  # as the Django backend asks
            assert (told["state"], unpack(told["kept"])) == ("done", {"result": 3})
    finally:
        for node in nodes:
            node.clean_up()
