"""Nodes with a common store keep to the limits of functions together."""

from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from joined import APP, Commune, states, wait_until_ended
from nats_servers import NatsCluster
from postgres import Postgres
from subjects import InNats, InPostgres
from support import eventually

LONG = ("--store-lease", "3600", "--workers", "3")
"""A lease that no test waits for."""
LIMITED = (
    APP
    + """
from spoolnode import spool

@spool(name="limited", limit=int(os.environ.get("LIMIT", "1")))
def limited(**env):
    spooler(env)
"""
)


@pytest.fixture(params=["nats", "postgresql"])
def limited(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Commune]:
    """Nodes with a store of each kind, and a function with a limit."""
    server = request.getfixturevalue("nats_server" if request.param == "nats" else "postgres")
    found = Commune(tmp_path, InNats(server).cluster.url if isinstance(server, NatsCluster) else InPostgres(server).url)
    found.app = LIMITED
    yield found
    found.clean_up()


def most_at_once(commune: Commune, numbers: Collection[int]) -> int:
    """How many of these tasks ran at once at most."""
    running = most = 0
    for what in (what for what, number, _ in commune.lines() if number in numbers):
        running += 1 if what == "start" else -1
        most = max(most, running)
    return most


def test_two_nodes_together_run_as_many_tasks_of_a_function_at_once_as_its_limit_says(limited: Commune) -> None:
    for name in ("alpha", "beta"):
        limited.start(name, *LONG, LIMIT="2")
    alpha, gate = limited.nodes["alpha"], limited.directory / "gate"
    tasks = [
        number for name in limited.nodes for number in limited.send(alpha, 15, name, ud_spool_func="limited", gate=str(gate))
    ]  # fmt: skip
    eventually(lambda: len(limited.starts()) == 2, "two run", patience=60)
    limited.wait_for(limited.send(alpha, 20))  # by then, more would have started
    gate.touch()
    limited.wait_for(tasks)
    assert set(limited.starts().values()) == {1}
    assert most_at_once(limited, tasks) == 2


def test_tasks_of_other_functions_overtake_those_for_which_there_is_no_room_on_any_node(limited: Commune) -> None:
    gate = limited.directory / "gate"
    alpha = limited.start("alpha", *LONG)
    (first,) = limited.send(alpha, 1, ud_spool_func="limited", gate=str(gate))
    limited.wait_for_start(first, "alpha")
    limited.start("beta", *LONG)
    held_back = limited.send(alpha, 20, ud_spool_func="limited", priority="1")
    limited.wait_for(limited.send(alpha, 20))
    assert not limited.starts().keys() & set(held_back)
    gate.touch()
    limited.wait_for([first, *held_back])


def test_a_node_whose_limit_is_larger_runs_as_many_as_its_own_says(limited: Commune) -> None:
    gate = limited.directory / "gate"
    alpha = limited.start("alpha", *LONG)
    (first,) = limited.send(alpha, 1, ud_spool_func="limited", gate=str(gate))
    limited.wait_for_start(first, "alpha")
    limited.start("beta", *LONG, LIMIT="2")  # the next version of the application
    second, third = limited.send(alpha, 2, "beta", ud_spool_func="limited", gate=str(gate))
    eventually(lambda: len(limited.starts()) == 2, "one more runs", patience=60)
    limited.wait_for(limited.send(alpha, 20))
    gate.touch()
    limited.wait_for([first, second, third])
    assert most_at_once(limited, [first, second, third]) == 2


def test_the_place_of_a_task_whose_node_was_killed_is_free_when_its_lease_has_run_out(
    commune: Commune, in_postgres: InPostgres, postgres: Postgres
) -> None:
    commune.app = LIMITED
    gate = commune.directory / "gate"
    alpha = commune.start("alpha", *LONG)
    (first,) = commune.send(alpha, 1, ud_spool_func="limited", gate=str(gate))
    commune.wait_for_start(first, "alpha")
    beta = commune.start("beta", *LONG)
    alpha.kill9()
    (second,) = commune.send(beta, 1, ud_spool_func="limited")
    eventually(lambda: states(postgres) == {"held": 2}, "beta has it", patience=60)
    commune.wait_for(commune.send(beta, 20))  # by then, it would have started
    assert second not in commune.starts()
    gate.touch()
    postgres.sql("UPDATE spoolnode.task SET until = now() WHERE taker LIKE '%alpha'", in_postgres.database)
    commune.wait_for([first, second])
    wait_until_ended(postgres)
    assert commune.where([first])[first] == ["beta"]


def test_a_node_with_room_keeps_one_for_the_next_place_while_others_come_and_go(
    commune: Commune, in_postgres: InPostgres, postgres: Postgres
) -> None:
    def turns() -> list[int]:
        """How often each of the tasks that nodes hold was taken."""
        return [turn for (turn,) in postgres.sql("SELECT turn FROM spoolnode.task WHERE state = 'held'", in_postgres.database)]

    commune.app = LIMITED
    gate = commune.directory / "gate"
    alpha = commune.start("alpha", *LONG)
    commune.start("beta", *LONG)
    (first,) = commune.send(alpha, 1, ud_spool_func="limited", gate=str(gate))
    eventually(lambda: commune.starts()[first], "it runs", patience=60)
    (second,) = commune.send(alpha, 1, ud_spool_func="limited")
    eventually(lambda: turns() == [1, 1], "a node has taken the second one", patience=60)
    others = commune.send(alpha, 20, ud_spool_func="limited")
    eventually(lambda: max(turns(), default=0) > 4, "another one has come and gone", patience=60)
    assert sorted(turns())[1] <= 2, "the first one runs, and the second one was kept"
    gate.touch()
    commune.wait_for([first, second, *others])
    assert set(commune.starts().values()) == {1}
