"""Nodes with a common store: nothing acknowledged is lost, and nothing runs twice but what ran on what died."""

import asyncio
import json
import os
import signal
import threading
import urllib.error
import urllib.request
import zlib
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from joined import Commune, cut, signal_node, states, wait_until_ended
from nats_servers import NatsCluster
from postgres import TASKS, Postgres, migrated, server_with_store
from real_programs import Nginx
from subjects import InNats, InPostgres
from support import PATIENCE, RunningNode, eventually

import spoolnode
from spoolnode import Refused, Unanswered
from spoolnode.cluster.discovery.interfaces import present
from spoolnode.protocol.packet import encode_variables
from spoolnode.protocol.spoolfile import head

LONG = ("--store-lease", "3600")
"""A lease that no test waits for."""
LEASE = ("--store-lease", "20")
"""One that a test waits for, but in which a busy machine restarts a server, or extends it."""


def test_two_nodes_share_a_backlog_and_each_task_runs_once(commune: Commune, postgres: Postgres) -> None:
    alpha = commune.start("alpha", *LONG, app=False)
    tasks = commune.send(alpha, 60, seconds="0.02")
    assert states(postgres) == {"ready": 60}
    assert alpha.status()["total"] == 0
    alpha.stop()
    nodes = [commune.start(name, *LONG, wait=False) for name in ("alpha", "beta")]
    for node in nodes:
        node.wait_until_ready()
    commune.wait_for(tasks)
    wait_until_ended(postgres)
    assert set(commune.starts().values()) == {1}
    assert {who for ends in commune.where(tasks).values() for who in ends} == {"alpha", "beta"}


def test_what_ran_on_a_killed_node_runs_elsewhere_after_the_lease_and_all_else_once(commune: Commune, postgres: Postgres) -> None:
    alpha = commune.start("alpha", *LONG)
    gate = commune.directory / "gate"
    (held,) = commune.send(alpha, 1, gate=str(gate))
    commune.wait_for_start(held, "alpha")
    commune.start("beta", *LONG)
    others = commune.send(alpha, 20)
    alpha.kill9()
    gate.touch()
    assert commune.starts()[held] == 1
    postgres.sql("UPDATE spoolnode.task SET until = now() WHERE taker LIKE '% alpha'", InPostgres.database)  # an hour passes
    commune.wait_for([held, *others])
    wait_until_ended(postgres)
    assert commune.where([held])[held] == ["beta"]
    assert commune.starts()[held] == 2
    assert {commune.starts()[number] for number in others} == {1}


def test_a_long_task_keeps_its_lease_and_runs_once(commune: Commune, postgres: Postgres) -> None:
    alpha, beta = (commune.start(name, "--store-lease", "10") for name in ("alpha", "beta"))
    (slow,) = commune.send(alpha, 1, seconds="15")
    commune.wait_for([slow])
    wait_until_ended(postgres)
    assert commune.starts()[slow] == 1
    assert not alpha.lines("lease_lost") + beta.lines("lease_lost")


def test_a_stopped_node_starts_no_task_that_runs_elsewhere_by_then(commune: Commune, postgres: Postgres) -> None:
    alpha = commune.start("alpha", "--store-lease", "5")
    commune.wait_for(commune.send(alpha, 400))  # they are quick, so its worker gets many at a time
    wait_until_ended(postgres)
    gate = commune.directory / "gate"
    held, *behind = commune.send(alpha, 1, gate=str(gate)) + commune.send(alpha, 5)
    commune.wait_for_start(held, "alpha")
    signal_node(alpha, signal.SIGSTOP)
    try:
        commune.start("beta", *LONG, "--workers", "2")
        commune.wait_for(behind)
        commune.wait_for_start(held, "beta")
        gate.touch()  # now the worker of alpha, which is not stopped, ends its task and could go on
        eventually(lambda: len(commune.where([held])[held]) == 2, "it has ended twice")
    finally:
        signal_node(alpha, signal.SIGCONT)
    alpha.wait_for_log("lease_lost")
    later = commune.send(alpha, 30, seconds="0.02")
    commune.wait_for(later)
    wait_until_ended(postgres)
    assert {commune.starts()[number] for number in behind} == {1}
    assert "alpha" in {who for ends in commune.where(later).values() for who in ends}


def test_what_has_not_started_goes_back_at_an_orderly_stop_and_no_lease_has_to_run_out(
    commune: Commune, postgres: Postgres
) -> None:
    alpha = commune.start("alpha", *LONG)
    commune.wait_for(commune.send(alpha, 400))
    gate = commune.directory / "gate"
    tasks = [*commune.send(alpha, 1, gate=str(gate)), *commune.send(alpha, 200)]
    commune.wait_for_start(tasks[0], "alpha")
    signal_node(alpha, signal.SIGTERM)
    alpha.wait_for_log("stopping")
    gate.touch()
    assert alpha.wait() == 0
    assert "held" not in states(postgres)
    commune.start("beta", *LONG)
    commune.wait_for(tasks)
    wait_until_ended(postgres)
    assert set(commune.starts().values()) == {1}


def test_a_task_that_was_killed_with_its_worker_runs_again_and_that_counts_as_an_attempt(
    commune: Commune, postgres: Postgres
) -> None:
    alpha = commune.start("alpha", "--retry-base", "0.01")
    (task,) = commune.send(alpha, 1, dies=str(commune.directory / "died"))
    commune.wait_for([task])
    wait_until_ended(postgres)
    assert commune.starts()[task] == 2
    assert alpha.wait_for_log("retry")["attempts"] == 1


def test_a_task_that_is_given_up_is_dead_in_the_store_with_the_reason(commune: Commune, postgres: Postgres) -> None:
    alpha = commune.start("alpha", "--retry-base", "0.01", "--max-attempts", "3")
    (task,) = commune.send(alpha, 1, fails="no such customer")
    eventually(lambda: states(postgres) == {"dead": 1}, "it is dead")
    ((reason, attempts),) = postgres.sql("SELECT reason, attempts FROM spoolnode.task", InPostgres.database)
    assert "no such customer" in reason
    assert attempts == 3
    assert commune.starts()[task] == 3
    assert alpha.status()["dead"] == 0


def test_a_task_that_runs_can_be_looked_at_and_cancelled_on_its_node(commune: Commune, postgres: Postgres) -> None:
    alpha = commune.start("alpha")
    (task,) = commune.send(alpha, 1, gate=str(commune.directory / "gate"))
    commune.wait_for_start(task, "alpha")
    ((identity,),) = postgres.sql("SELECT id FROM spoolnode.task", InPostgres.database)
    assert json.loads(alpha.command("show", identity, "--json").stdout)["state"] == "running"
    assert alpha.command("cancel", identity, "--grace", "0.1").returncode == 0
    eventually(lambda: states(postgres) == {"dead": 1}, "it is dead")


def test_bodies_of_any_size_come_as_they_were_sent(commune: Commune, postgres: Postgres) -> None:
    alpha = commune.start("alpha")
    tasks = []
    for size in (1, 100_000, 3_000_000):
        body = os.urandom(size)
        tasks += commune.send(alpha, 1, body=body, sum=str(zlib.crc32(body)))
    commune.wait_for(tasks)
    wait_until_ended(postgres)
    assert set(commune.starts().values()) == {1}
    assert not list((alpha.spool / "tmp").glob("uwsgi_*"))


def test_a_task_goes_to_the_node_or_the_tag_that_it_asks_for(commune: Commune, postgres: Postgres) -> None:
    alpha = commune.start("alpha")
    wanted = {}
    for to in ("beta", "tag:gpu", "alpha", "any"):
        wanted[to] = commune.send(alpha, 5, to)
    commune.wait_for(wanted["alpha"] + wanted["any"])
    eventually(lambda: states(postgres) == {"ready": 10, "ended": 10}, "those for alpha have ended")
    beta = commune.start("beta", "--tag", "gpu")
    last = commune.send(alpha, 1, beta.via)
    commune.wait_for([*wanted["beta"], *wanted["tag:gpu"], *last])
    ends = commune.where([*wanted["beta"], *wanted["tag:gpu"], *last])
    assert {who for found in ends.values() for who in found} == {"beta"}


def test_of_tasks_with_one_key_one_waits(commune: Commune, postgres: Postgres) -> None:
    alpha = commune.start("alpha", app=False)
    for _ in range(3):
        commune.send(alpha, 1, spool_key="page 7")
    assert states(postgres) == {"ready": 1}


def test_priority_and_time_hold_in_the_store(commune: Commune, postgres: Postgres) -> None:
    alpha = commune.start("alpha", app=False)
    commune.send(alpha, 1, at="9999999999")
    late, soon = commune.send(alpha, 1, priority="9") + commune.send(alpha, 1, priority="1")
    alpha.stop()
    commune.start("alpha")
    commune.wait_for([late, soon])
    assert [number for what, number, _ in commune.lines() if what == "end"] == [soon, late]
    eventually(lambda: states(postgres) == {"later": 1, "ended": 2}, "the other one waits for its time")


def test_a_node_that_listens_on_all_addresses_takes_what_is_for_any_of_them(commune: Commune) -> None:
    beta = commune.start("beta", *LONG, app=False)
    alpha = commune.start("alpha", *LONG, "-s", "0.0.0.0:0", "--allow", "127.0.0.0/8")
    addresses = [f"{place.address}:{alpha.port}" for place in present() if place.is_v4]
    tasks = [number for address in addresses for via in (alpha, beta) for number in commune.send(via, 1, address)]
    commune.wait_for(tasks)
    assert {who for ends in commune.where(tasks).values() for who in ends} == {"alpha"}


def test_what_comes_while_the_store_is_away_is_kept_here_and_sent_once_when_it_is_back(
    commune: Commune, postgres: Postgres
) -> None:
    alpha = commune.start("alpha", *LONG)
    commune.wait_for(commune.send(alpha, 1))
    wait_until_ended(postgres)
    cut(postgres, away=True)
    body = os.urandom(300_000)
    kept = (
        commune.send(alpha, 5) + commune.send(alpha, 1, "tag:none") + commune.send(alpha, 1, body=body, sum=str(zlib.crc32(body)))
    )
    alpha.wait_for_log("store_away")
    assert alpha.status()["outbox"] == {"any": 7}
    assert "is away" in alpha.status()["links"]["any"]["reason"]
    alpha.kill9()
    commune.start("alpha", *LONG).wait_for_log("store_away", since=0, count=2)
    cut(postgres, away=False)
    commune.wait_for([*kept[:5], kept[6]])
    eventually(lambda: alpha.status()["outbox"] == {}, "all is sent")
    assert {commune.starts()[number] for number in (*kept[:5], kept[6])} == {1}
    eventually(lambda: states(postgres) == {"ready": 1, "ended": 7}, "the other one waits for its tag")


def test_what_waits_for_the_store_has_the_ids_that_its_senders_were_told(commune: Commune, postgres: Postgres) -> None:
    alpha = commune.start("alpha", *LONG, app=False)
    cut(postgres, away=True)
    told = spoolnode.send_many([{"n": str(n), "body": bytes(n)} for n in (1, 2, 300_000)], via=alpha.via, send_timeout=PATIENCE)
    assert listed(alpha) == set(told)
    assert alpha.command("rm", told[0]).returncode == 0
    assert "is away" in alpha.command("retry", told[1]).stderr
    assert listed(alpha) == set(told[1:])
    assert json.loads(alpha.command("show", told[1], "--json").stdout)["destination"] == "any"
    alpha.stop()
    assert listed(alpha) == set(told[1:])
    assert alpha.command("rm", told[1]).returncode == 0
    assert listed(alpha) == {told[2]}
    cut(postgres, away=False)
    commune.start("alpha", *LONG, app=False)
    eventually(lambda: postgres.sql("SELECT id FROM spoolnode.task", InPostgres.database) == [(told[2],)], "it is in the store")


def test_what_waits_for_the_store_is_listed_with_the_destinations_that_its_senders_named(
    commune: Commune, postgres: Postgres
) -> None:
    alpha = commune.start("alpha", *LONG, app=False)
    cut(postgres, away=True)
    places = {None: "any", "any": "any", "gamma": "gamma", "tag:gpu": "tag:gpu", "127.0.0.1:9": "127.0.0.1:9"}
    wanted = {
        spoolnode.send_to_spooler({"n": "1"}, node=to, via=alpha.via, send_timeout=PATIENCE): place
        for to, place in places.items()
    }

    def shown() -> dict[str, str]:
        return {row["id"]: row["destination"] for row in json.loads(alpha.command("ls", "--outbox", "--json").stdout)}

    assert shown() == wanted
    for identity, to in wanted.items():
        assert json.loads(alpha.command("show", identity, "--json").stdout)["destination"] == to
    alpha.stop()
    assert shown() == wanted
    cut(postgres, away=False)


def listed(node: RunningNode) -> set[str]:
    """The ids of what waits for others, as they are shown."""
    return {task["id"] for task in json.loads(node.command("ls", "--outbox", "--json").stdout)}


def test_an_open_transaction_holds_back_tasks_with_its_key_and_no_others(commune: Commune, postgres: Postgres) -> None:
    alpha = commune.start("alpha", *LONG, app=False)
    with psycopg.connect(commune.url) as connection:
        spoolnode.spool_in(connection, {"n": "1", "spool_key": "k"})
        spoolnode.send_many([{"n": "2", "spool_key": "k"}, {"n": "3"}, {"n": "4", "spool_key": "other"}], via=alpha.via)
        assert states(postgres) == {"ready": 2}
        assert alpha.status()["outbox"] == {"any": 1}
        commune.send(alpha, 3)
        assert states(postgres) == {"ready": 5}
    eventually(lambda: alpha.status()["outbox"] == {}, "the store has it")
    assert states(postgres) == {"ready": 6}
    assert not alpha.lines("store_away")


def test_a_node_that_is_told_to_refuse_says_so_while_the_store_is_away(commune: Commune, postgres: Postgres) -> None:
    alpha = commune.start("alpha", "--store-away", "refuse", "--http", "127.0.0.1:0")
    commune.wait_for(commune.send(alpha, 1))
    cut(postgres, away=True)
    alpha.wait_for_log("store_away")
    with pytest.raises(Refused, match="the common store is away"):
        spoolnode.send_to_spooler({"n": "1000"}, via=alpha.via)
    assert alpha.status()["total"] == 0
    with pytest.raises(urllib.error.HTTPError, match="503"):
        urllib.request.urlopen(f"http://{alpha.lines('ready')[-1]['http']}/readyz", timeout=PATIENCE)
    cut(postgres, away=False)
    alpha.wait_for_log("store_back")
    commune.wait_for(commune.send(alpha, 1))


@pytest.mark.slow  # the store counts as one that hangs after ten seconds
def test_a_node_that_refuses_and_cannot_know_whether_the_store_has_a_task_does_not_say_that_it_has_not(tmp_path: Path) -> None:
    with server_with_store() as server:
        commune = Commune(tmp_path, server.url(TASKS))
        try:
            alpha = commune.start("alpha", "--store-away", "refuse")
            commune.wait_for(commune.send(alpha, 1))
            server.freeze()
            with pytest.raises(Unanswered):
                spoolnode.send_to_spooler({"n": "1000"}, via=alpha.via, send_timeout=PATIENCE)
            alpha.wait_for_log("not_answered")
        finally:
            server.thaw()
            commune.clean_up()


@pytest.mark.slow  # as above
def test_nginx_answers_502_then(tmp_path: Path, place: Path) -> None:
    with server_with_store() as server:
        commune = Commune(tmp_path, server.url(TASKS))
        nginx = Nginx(place)
        try:
            alpha = commune.start("alpha", "--store-away", "refuse")
            nginx.start(f"location / {{ uwsgi_pass {alpha.via}; uwsgi_modifier1 17; uwsgi_param n $arg_n; }}")
            assert status_of(nginx, "/?n=1") == 202
            server.freeze()
            assert status_of(nginx, "/?n=2") == 502
        finally:
            server.thaw()
            nginx.end()
            commune.clean_up()


def status_of(nginx: Nginx, path: str) -> int:
    """What it answers."""
    with closing(nginx.client()) as client:
        client.request("GET", path)
        return client.getresponse().status


def test_what_waited_on_the_disk_moves_into_the_store(commune: Commune, postgres: Postgres) -> None:
    alpha = commune.start("alpha", store=False, app=False)
    here = commune.send(alpha, 30) + commune.send(alpha, 3, "beta") + commune.send(alpha, 2, "tag:gpu")
    later = commune.send(alpha, 1, at="9999999999")
    alpha.stop()
    alpha = commune.start("alpha", app=False)
    assert alpha.wait_for_log("moved_to_store")["tasks"] == len(here) + len(later)
    eventually(lambda: states(postgres) == {"ready": 35, "later": 1}, "all is in the store")
    assert alpha.status()["total"] == 0
    commune.start("beta", "--tag", "gpu")
    commune.wait_for(here)
    assert set(commune.starts().values()) == {1}


def test_a_task_of_a_transaction_that_was_pulled_moves_into_the_store_again(commune: Commune, postgres: Postgres) -> None:
    alpha = commune.start("alpha", store=False, app=False)
    alpha.stop()
    with psycopg.connect(commune.url) as connection:
        spoolnode.spool_in(connection, {"n": "1"})
    pulled = alpha.command("store", "pull", "--store", commune.url, "-Q", str(alpha.spool))
    assert pulled.returncode == 0, pulled.stderr
    assert states(postgres) == {"ended": 1}
    commune.start("alpha", app=False).wait_for_log("moved_to_store")
    eventually(lambda: states(postgres) == {"ready": 1, "ended": 1}, "it is in the store again")


def test_what_moves_into_the_store_keeps_its_attempts(commune: Commune, postgres: Postgres) -> None:
    alpha = commune.start("alpha", "--retry-base", "1000", store=False)
    commune.send(alpha, 1, fails="from a batch")
    commune.send(alpha, 1, fails="from a file", body=bytes(300_000))
    for count in (1, 2):
        alpha.wait_for_log("retry", since=0, count=count)
    alpha.stop()
    commune.start("alpha", app=False).wait_for_log("moved_to_store")
    eventually(lambda: states(postgres) == {"ready": 2}, "both are in the store")
    assert postgres.sql("SELECT attempts FROM spoolnode.task", InPostgres.database) == [(1,), (1,)]
    blocks = postgres.sql("SELECT block FROM spoolnode.task", InPostgres.database)
    assert not [block for (block,) in blocks if b"spool_attempts" in bytes(block)]


def test_a_file_that_others_drop_runs_here(commune: Commune, postgres: Postgres) -> None:
    alpha = commune.start("alpha", app=False)
    (alpha.spool / "uwsgi_spoolfile_on_host_1_2").write_bytes(head(encode_variables([(b"n", b"7")])))
    eventually(lambda: alpha.status()["total"] == 1, "it waits here")
    assert states(postgres) == {}


def test_nodes_with_and_without_a_store_give_each_other_tasks(commune: Commune, postgres: Postgres) -> None:
    apart = commune.start("apart", store=False)
    alpha = commune.start("alpha", "--discover", f"static://{apart.via}")
    alpha.wait_for_log("peer_up")
    out = commune.send(alpha, 5, "apart") + commune.send(alpha, 1, apart.via)
    commune.wait_for(out)
    assert {who for ends in commune.where(out).values() for who in ends} == {"apart"}
    apart.stop()
    apart = commune.start("apart", "--discover", f"static://{alpha.via}", store=False)
    apart.wait_for_log("peer_up", name="alpha")
    back = commune.send(apart, 5, "alpha")
    commune.wait_for(back)
    assert {who for ends in commune.where(back).values() for who in ends} == {"alpha"}
    wait_until_ended(postgres)
    assert states(postgres) == {"ended": 5}
    assert set(commune.starts().values()) == {1}


def test_tasks_for_a_node_without_a_store_wait_for_it_on_this_disk_also_after_a_start_while_it_is_away(
    commune: Commune, postgres: Postgres
) -> None:
    apart = commune.start("apart", store=False)
    found = ("--discover", f"static://{apart.via}")
    alpha = commune.start("alpha", *found)
    alpha.wait_for_log("peer_up")
    apart.stop()
    tasks = commune.send(alpha, 3, "apart")
    alpha.stop()
    alpha = commune.start("alpha", *found)
    tasks += commune.send(alpha, 3, "apart") + commune.send(alpha, 1, apart.via)
    assert (states(postgres), alpha.status()["outbox"]) == ({}, {"apart": 6, apart.via: 1})
    commune.start("apart", "--listen", apart.via, store=False)
    commune.wait_for(tasks)
    assert {who for ends in commune.where(tasks).values() for who in ends} == {"apart"}
    assert set(commune.starts().values()) == {1}


def test_what_waits_in_the_store_for_a_node_without_it_that_no_node_had_met_goes_there_once_one_has(
    commune: Commune, postgres: Postgres
) -> None:
    apart = commune.start("apart", store=False, app=False)
    commune.start("alpha", app=False)
    tasks = commune.send(commune.nodes["alpha"], 20, "apart")
    tasks += commune.send(commune.nodes["alpha"], 1, "tag:gpu", body=bytes(100))
    tasks += commune.send(commune.nodes["alpha"], 1, "apart", body=bytes(300_000))
    (first, *_) = [identity for (identity,) in postgres.sql("SELECT id FROM spoolnode.task ORDER BY serial", InPostgres.database)]
    assert states(postgres) == {"ready": 22}
    apart.stop()
    commune.start("apart", "--tag", "gpu", "--listen", apart.via, store=False)
    beta = commune.start("beta", "--discover", f"static://{apart.via}", app=False)
    commune.wait_for(tasks)
    assert {who for ends in commune.where(tasks).values() for who in ends} == {"apart"}
    assert set(commune.starts().values()) == {1}
    wait_until_ended(postgres)
    shown = json.loads(beta.command("show", first, "--json").stdout)
    assert [step["event"] for step in shown["story"]][-1] == "done"


def test_a_stopped_directory_does_not_say_that_a_task_of_the_store_has_ended(commune: Commune, postgres: Postgres) -> None:
    alpha = commune.start("alpha")
    commune.wait_for(commune.send(alpha, 1))
    commune.send(alpha, 1, "tag:gpu")
    eventually(lambda: states(postgres) == {"ended": 1, "ready": 1}, "the store has heard of the end")
    ids = dict(postgres.sql("SELECT state, id FROM spoolnode.task", InPostgres.database))
    alpha.stop()
    shown = {state: json.loads(alpha.command("show", identity, "--json").stdout)["state"] for state, identity in ids.items()}
    assert shown == {"ended": "ended", "ready": "unknown"}


def test_a_task_that_can_never_leave_the_store_goes_to_the_dead_and_those_behind_it_arrive(
    commune: Commune, postgres: Postgres
) -> None:
    apart = commune.start("apart", store=False)
    alpha = commune.start("alpha", "--discover", f"static://{apart.via}", app=False)
    with psycopg.connect(commune.url, autocommit=True) as connection:
        stuck = spoolnode.spool_in(connection, {"n": "0", "large": "x" * 65_400}, "apart")
        for number in range(1, 4):
            spoolnode.spool_in(connection, {"n": str(number)}, "apart")
    commune.wait_for([1, 2, 3])
    eventually(lambda: states(postgres) == {"ended": 3, "dead": 1}, "each has its end")
    assert "not delivered to apart" in alpha.command("show", stuck).stdout
    assert [line["id"] for line in alpha.lines("dead")] == [stuck]


def test_a_body_that_is_too_large_for_this_node_waits_in_the_store_and_those_behind_it_arrive(
    commune: Commune, postgres: Postgres
) -> None:
    apart = commune.start("apart", store=False)
    alpha = commune.start("alpha", "--discover", f"static://{apart.via}", "--max-body", "1000", app=False)
    with psycopg.connect(commune.url, autocommit=True) as connection:
        spoolnode.spool_in(connection, {"n": "0", "body": bytes(5000)}, "apart")
        for number in range(1, 4):
            spoolnode.spool_in(connection, {"n": str(number)}, "apart")
    commune.wait_for([1, 2, 3])
    eventually(lambda: states(postgres) == {"ended": 3, "later": 1}, "the large one waits")
    assert "at most 1000 (--max-body)" in alpha.wait_for_log("link_paused")["reason"]


def test_what_is_behind_a_long_task_in_its_worker_runs_on_another_node(commune: Commune, postgres: Postgres) -> None:
    alpha = commune.start("alpha", "--workers", "1")
    commune.wait_for(commune.send(alpha, 300))  # it gets many at once now
    gate, slow, quick = commune.directory / "gate", 1000, [*range(1001, 1021)]
    tasks = [{"n": str(slow), "gate": str(gate)}, *({"n": str(number)} for number in quick)]
    spoolnode.send_many(tasks, via=alpha.via, send_timeout=PATIENCE)
    commune.wait_for_start(slow, "alpha")
    commune.start("beta")
    commune.wait_for(quick)
    assert {who for ends in commune.where(quick).values() for who in ends} == {"beta"}
    gate.touch()
    commune.wait_for([slow])
    assert set(commune.starts().values()) == {1}


def test_nodes_share_a_store_in_nats_and_a_killed_one_costs_no_task(tmp_path: Path, nats_server: NatsCluster) -> None:
    InNats(nats_server)  # empties it
    commune = Commune(tmp_path, nats_server.url)
    try:
        alpha = commune.start("alpha", "--workers", "2", *LEASE)
        gate, body = tmp_path / "gate", os.urandom(300_000)
        (held,) = commune.send(alpha, 1, gate=str(gate))
        commune.wait_for_start(held, "alpha")
        commune.start("beta", *LEASE)
        others = commune.send(alpha, 30, seconds="0.02") + commune.send(alpha, 1, body=body, sum=str(zlib.crc32(body)))
        commune.wait_for(others)
        assert set(commune.starts().values()) == {1}
        alpha.kill9()
        gate.touch()
        commune.wait_for([held])
        assert commune.where([held])[held] == ["beta"]
        assert commune.nodes["beta"].status()["store"]["survives_power_cut"] is False
    finally:
        commune.clean_up()


def test_a_node_does_not_start_with_a_store_that_it_cannot_use(tmp_path: Path, postgres: Postgres) -> None:
    node = RunningNode(tmp_path)
    try:
        node.start("--store", postgres.url("postgres"), wait=False)
        assert node.wait() == 2
    finally:
        node.clean_up()
    assert "run `spoolnode store check --migrate`" in "".join(node.noise)


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_runs_twice_when_the_server_is_restarted_under_load(tmp_path: Path, place: Path) -> None:
    server = Postgres(place)
    commune = Commune(tmp_path, server.url(InPostgres.database))
    try:
        server.start()
        server.sql(f"CREATE DATABASE {InPostgres.database}")
        asyncio.run(migrated(commune.url))
        nodes = [commune.start(name, *LEASE) for name in ("alpha", "beta")]
        tasks: list[int] = []

        def load() -> None:
            for round_ in range(40):
                tasks.extend(commune.send(nodes[round_ % 2], 10, seconds="0.01"))

        sender = threading.Thread(target=load)
        sender.start()
        for number in (signal.SIGINT, signal.SIGQUIT):
            ahead = len(tasks) + 50
            eventually(lambda ahead=ahead: len(tasks) >= min(ahead, 400), "some more are sent")
            server.restart(number)
        sender.join()
        commune.wait_for(tasks)
        wait_until_ended(server)
        assert len(tasks) == 400
        assert set(commune.starts().values()) == {1}
    finally:
        commune.clean_up()
        server.end(signal.SIGQUIT)


def test_what_an_application_enqueues_in_its_own_transaction_runs_on_a_node(commune: Commune, in_postgres: InPostgres) -> None:
    body = bytes(range(256)) * 2000
    commune.start("alpha")
    with psycopg.connect(in_postgres.url) as own:
        spoolnode.spool_in(own, {"n": "0", "body": body, "sum": str(zlib.crc32(body))})
        with own.transaction(force_rollback=True):
            spoolnode.spool_in(own, {"n": "1"})
        spoolnode.spool_in(own, {"n": "2", "at": 1.0, "priority": 3}, "alpha")
    commune.wait_for([0, 2])
    wait_until_ended(in_postgres.server)
    assert commune.starts() == {0: 1, 2: 1}
