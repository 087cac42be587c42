"""Tasks for an address that no node takes wait in the store like all others. They get to the one that is there."""

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from joined import Commune, states, wait_until_ended
from postgres import Postgres
from programs import free_port
from real_programs import LINES, Lines, Uwsgi
from subjects import InPostgres
from support import eventually

SERVER = f"""{LINES}
import uwsgi


def spooler(env):
    write_line(env.get(b"n", env.get("n")).decode())
    return uwsgi.SPOOL_OK


uwsgi.spooler = spooler
"""


@pytest.fixture
def server(place: Path) -> Iterator[Uwsgi]:
    """A uWSGI server, not started yet."""
    (place / "spool").mkdir()
    (place / "server.py").write_text(SERVER)
    program = Uwsgi(place)
    yield program
    program.end()


def spooling(server: Uwsgi, *options: str) -> str:
    """Starts it with a spooler; its address."""
    server.start("-w", "server", "--spooler", str(server.directory / "spool"), "--spooler-frequency", "1", *options)
    return f"127.0.0.1:{server.port}"


def signal_all(server: Uwsgi, number: int) -> None:
    """Signals its master, its worker and its spooler."""
    assert server.process is not None
    master = server.process.pid
    found = subprocess.run(["pgrep", "-P", str(master)], capture_output=True, text=True, check=True)
    for pid in (master, *map(int, found.stdout.split())):
        os.kill(pid, number)


def ran(server: Uwsgi, tasks: list[int]) -> Counter[int]:
    """How often each task has run there, once all have."""
    lines = Lines(server.directory)
    lines.wait(len(tasks))
    return Counter(map(int, lines()))


def test_tasks_for_a_uwsgi_server_go_there_from_the_store_each_once_by_whatever_node(
    commune: Commune, postgres: Postgres, server: Uwsgi
) -> None:
    to = spooling(server)
    alpha, beta = commune.start("alpha"), commune.start("beta", app=False)
    tasks = commune.send(alpha, 40, to) + commune.send(beta, 40, to)
    assert ran(server, tasks) == Counter(tasks)
    wait_until_ended(postgres)
    later = commune.send(alpha, 1, to)  # they know the server by now
    assert ran(server, tasks + later) == Counter(tasks + later)
    wait_until_ended(postgres)
    assert sum(node.status()["forwarded"] for node in (alpha, beta)) == 81
    assert [node.status()["total"] for node in (alpha, beta)] == [0, 0]


def test_what_waits_for_an_address_where_nothing_answers_goes_to_the_uwsgi_server_that_comes_there(
    commune: Commune, postgres: Postgres, server: Uwsgi
) -> None:
    to = f"127.0.0.1:{free_port()}"
    alpha = commune.start("alpha")
    tasks = commune.send(alpha, 3, to)
    assert "nothing listens" in alpha.wait_for_log("link_failed", destination=to)["reason"]
    assert states(postgres) == {"ready": 3}
    alpha.stop()
    beta = commune.start("beta")  # it has never heard of these tasks
    beta.wait_for_log("link_failed", destination=to)
    assert f"{to} is tried now for its tasks in the common store" in beta.command("flush", to).stdout
    spooling(server, "-s", to)
    assert ran(server, tasks) == Counter(tasks)
    wait_until_ended(postgres)


def test_what_a_uwsgi_server_refuses_waits_in_the_store(commune: Commune, postgres: Postgres, server: Uwsgi) -> None:
    server.start("-w", "server", "--socket-timeout", "5")
    to = f"127.0.0.1:{server.port}"
    alpha = commune.start("alpha")
    tasks = commune.send(alpha, 2, to)
    assert "is its spooler on" in alpha.wait_for_log("link_paused", destination=to)["reason"]
    eventually(lambda: states(postgres) == {"ready": 2}, "both wait again")
    server.end()
    spooling(server, "-s", to)
    assert ran(server, tasks) == Counter(tasks)
    wait_until_ended(postgres)


def test_a_task_that_a_uwsgi_server_cannot_read_is_dead_in_the_store_and_the_others_go_on(
    commune: Commune, postgres: Postgres, server: Uwsgi
) -> None:
    to = spooling(server)
    alpha = commune.start("alpha")
    commune.send(alpha, 1, to, body=b"small")
    commune.send(alpha, 1, to, price=5)
    tasks = commune.send(alpha, 1, to)
    assert ran(server, tasks) == Counter(tasks)
    eventually(lambda: states(postgres) == {"dead": 2, "ended": 1}, "both are kept")
    reasons = {
        reason for (reason,) in postgres.sql("SELECT reason FROM spoolnode.task WHERE state = 'dead'", InPostgres.database)
    }
    assert reasons == {
        f"not delivered to {to}: it has a body, which a uWSGI server would drop",
        f"not delivered to {to}: it has values that are not text, which a uWSGI server cannot read",
    }
    assert list((alpha.spool / "dead").iterdir()) == []


def test_what_is_for_the_address_of_a_node_waits_for_it_also_if_it_is_away_or_takes_nothing(
    commune: Commune, postgres: Postgres, server: Uwsgi
) -> None:
    to = spooling(server)
    alpha, beta = commune.start("alpha"), commune.start("beta", app=False)
    there = beta.via
    silent = commune.send(alpha, 1, there)
    gone = commune.start("gamma", app=False)
    address = gone.via
    gone.stop()
    away = commune.send(alpha, 1, address)
    alpha.wait_for_log("link_failed", destination=address)
    plain = commune.send(alpha, 1, to)
    assert ran(server, plain) == Counter(plain)
    eventually(lambda: states(postgres) == {"ready": 2, "ended": 1}, "those for the nodes wait")
    beta.stop()
    commune.start("beta")
    commune.start("gamma")
    assert [beta.via, gone.via] == [there, address], "they are where they were"
    commune.wait_for([*silent, *away])
    wait_until_ended(postgres)
    assert commune.where([*silent, *away]) == {silent[0]: ["beta"], away[0]: ["gamma"]}


def test_a_task_that_a_killed_node_was_sending_is_sent_by_another_after_the_lease(
    commune: Commune, postgres: Postgres, server: Uwsgi
) -> None:
    to = spooling(server)
    alpha = commune.start("alpha")
    tasks = commune.send(alpha, 1000, to)
    eventually(lambda: os.listdir(server.directory / "spool"), "it is sending them")
    signal_all(server, signal.SIGSTOP)  # it answers nothing now
    try:
        eventually(lambda: states(postgres).get("held"), "it was not done")
        alpha.kill9()
    finally:
        signal_all(server, signal.SIGCONT)
    commune.start("beta")
    wait_until_ended(postgres)
    eventually(lambda: set(ran(server, tasks)) == set(tasks), "the server has run what it took")


def test_what_is_for_a_node_by_a_name_of_its_machine_runs_there(commune: Commune, postgres: Postgres) -> None:
    alpha, beta = commune.start("alpha"), commune.start("beta")
    by_name = f"localhost:{beta.via.rpartition(':')[2]}"
    tasks = commune.send(alpha, 150, by_name)
    commune.wait_for(tasks)
    tasks += commune.send(alpha, 1, by_name)  # they know it by now
    commune.wait_for(tasks)
    assert commune.where(tasks) == {number: ["beta"] for number in tasks}
    wait_until_ended(postgres)
