"""The shared tasks as each node shows them: counts, one task, lists; and what its commands do to them."""

import json
from typing import Any

import psycopg
import pytest
from joined import Commune, cut, states
from postgres import Postgres
from subjects import InPostgres
from support import PATIENCE, RunningNode, eventually

import spoolnode
from spoolnode.cli import top_facts
from spoolnode.client.fetching import ask_about

LONG = ("--store-lease", "3600")
"""A lease that no test waits for."""
LATER = "9999999999"
"""A time that never comes."""


def test_each_node_tells_how_many_tasks_the_store_has(commune: Commune, in_postgres: InPostgres) -> None:
    alpha, beta = (commune.start(name, *LONG, app=False) for name in ("alpha", "beta"))
    commune.send(alpha, 3)
    commune.send(alpha, 2, at=LATER)
    expected = {"ready": 3, "later": 2, "held": 0, "dead": 0}

    def told() -> dict[str, Any]:
        found: dict[str, Any] = beta.status()["store"]
        return found

    eventually(lambda: told()["tasks"] == expected, "beta has counted them")
    assert told()["estimated"] == []
    assert "3 ready, 2 due later, 0 with nodes, 0 dead" in beta.command("status").stdout
    shown = {line.key: line.cells for line in top_facts.nodes(top_facts.facts_of(str(beta.spool)))}
    assert shown["store"] == ("store", "up", "", "0", "3", "", "0", "")
    assert states(in_postgres.server) == {"ready": 3, "later": 2}
    cut(in_postgres.server, away=True)
    try:
        beta.wait_for_log("store_away")
        assert told()["tasks"] == expected
        assert "3 ready, 2 due later, 0 with nodes, 0 dead, counted " in beta.command("status").stdout
    finally:
        cut(in_postgres.server, away=False)


def ids_in(postgres: Postgres, state: str) -> list[str]:
    """The ids of the tasks in a state."""
    found = postgres.sql(f"SELECT id FROM spoolnode.task WHERE state = '{state}' ORDER BY serial", InPostgres.database)
    return [row[0] for row in found]


def said(node: RunningNode, *command: str) -> str:
    """What a command prints, each space as one."""
    return " ".join(node.command(*command).stdout.split())


def test_each_node_shows_and_changes_each_task_of_the_store(commune: Commune, postgres: Postgres) -> None:
    alpha = commune.start("alpha", *LONG, "--max-attempts", "1")
    beta = commune.start("beta", *LONG, "--discover", f"static://{alpha.via}", app=False)
    commune.send(alpha, 1, fails="no such customer")
    gate = commune.directory / "gate"
    eventually(lambda: states(postgres) == {"dead": 1}, "one is dead")
    (running,) = commune.send(alpha, 1, gate=str(gate))
    commune.wait_for_start(running, "alpha")
    commune.send(beta, 1, "gamma")
    commune.send(beta, 1, at=LATER)
    for state, shown in (("dead", "dead"), ("held", "held"), ("ready", "waiting"), ("later", "later")):
        (identity,) = ids_in(postgres, state)
        assert f" state {shown} " in said(beta, "show", identity)
    (dead,), (held,), (ready,), (later,) = (ids_in(postgres, state) for state in ("dead", "held", "ready", "later"))
    told = [ask_about(identity, via=beta.via)["state"] for identity in (dead, held, ready, later)]
    assert told == ["dead", "running", "waiting", "later"]
    assert " spool_reason ValueError: no such customer" in said(beta, "show", dead)
    assert " state running " in said(alpha, "show", held)
    done = beta.command("rm", held)
    assert (done.returncode, "is held: alpha has taken it" in done.stderr) == (1, True)
    assert " node alpha " in said(beta, "show", held)
    assert beta.command("retry", ready).returncode == 1
    assert said(beta, "rm", ready) == f"{ready} removed"
    assert said(beta, "cancel", later) == f"{later} cancelled"
    assert ids_in(postgres, "dead") == [dead, later]
    assert said(beta, "retry", dead) == f"{dead} is ready"
    gate.touch()
    eventually(lambda: ids_in(postgres, "dead") == [dead, later], "it has died again")
    assert len(commune.lines()) == 4


def test_each_node_knows_the_end_of_a_task_that_another_one_ran(commune: Commune, postgres: Postgres) -> None:
    alpha = commune.start("alpha", *LONG)
    beta = commune.start("beta", *LONG, app=False)
    gate = commune.directory / "gate"
    (running,) = commune.send(beta, 1, gate=str(gate))
    commune.wait_for_start(running, "alpha")
    (identity,) = ids_in(postgres, "held")
    refused = beta.command("cancel", identity)
    assert (refused.returncode, "`spoolnode cancel` on that node ends it" in refused.stderr) == (3, True)
    assert "held: alpha has taken it" in refused.stderr
    gate.touch()
    followed = beta.command("tail", identity)
    assert followed.returncode == 0
    assert followed.stdout.splitlines()[-1].split()[1:3] == ["done", identity]
    shown = json.loads(beta.command("show", identity, "--json").stdout)
    assert (shown["state"], [step["event"] for step in shown["story"]]) == ("ended", ["accepted", "done"])
    assert (shown["story"][-1]["node"], "on alpha is missing here" in shown["missing"]) == ("alpha", True)
    there = json.loads(alpha.command("show", identity, "--json").stdout)
    assert [step["event"] for step in there["story"]] == ["done"]
    assert f"on the node {identity[:12]} is missing here" in there["missing"]
    late = beta.command("cancel", identity)
    assert (late.returncode, "had ended well on alpha before it could be cancelled" in late.stderr) == (1, True)
    alpha.stop()
    assert json.loads(beta.command("show", identity, "--json").stdout) == shown


def test_a_task_that_another_node_runs_is_cancelled_there_and_its_story_is_told_here(
    commune: Commune, postgres: Postgres
) -> None:
    alpha = commune.start("alpha", *LONG)
    beta = commune.start("beta", *LONG, "--discover", f"static://{alpha.via}", app=False)
    eventually(lambda: beta.status()["peers"] == {"up": 1}, "beta sees alpha")
    (running,) = commune.send(beta, 1, seconds="3600")
    commune.wait_for_start(running, "alpha")
    (identity,) = ids_in(postgres, "held")
    assert said(beta, "cancel", identity) == f"{identity} cancelled"
    assert ids_in(postgres, "dead") == [identity]
    shown = json.loads(beta.command("show", identity, "--json").stdout)
    assert [(step["event"], step["node"]) for step in shown["story"]] == [
        ("accepted", "beta"), ("attempt", "alpha"), ("dead", "alpha")
    ]  # fmt: skip
    eventually(lambda: alpha.status()["peers"] == {"up": 1}, "alpha sees beta")
    assert json.loads(alpha.command("show", identity, "--json").stdout) == shown
    assert beta.command("tail", identity).returncode == 1


def test_a_running_task_that_is_cancelled_while_the_store_is_away_may_run_again_and_cancel_says_so(
    commune: Commune, postgres: Postgres
) -> None:
    alpha = commune.start("alpha", *LONG)
    (running,) = commune.send(alpha, 1, seconds="3600")
    commune.wait_for_start(running, "alpha")
    (identity,) = ids_in(postgres, "held")
    cut(postgres, away=True)
    try:
        alpha.wait_for_log("store_away")
        cancelled = alpha.command("cancel", identity)
        assert (cancelled.returncode, "has not heard it" in cancelled.stderr) == (3, True)
    finally:
        cut(postgres, away=False)
    eventually(lambda: ids_in(postgres, "dead") == [identity], "the store hears it")
    assert said(alpha, "cancel", identity) == f"{identity} cancelled"


def test_a_running_task_is_cancelled_when_the_store_has_heard_it_and_not_before(commune: Commune, postgres: Postgres) -> None:
    alpha = commune.start("alpha", *LONG)
    (running,) = commune.send(alpha, 1, seconds="3600")
    commune.wait_for_start(running, "alpha")
    (identity,) = ids_in(postgres, "held")
    with psycopg.connect(commune.url) as other:
        other.execute("LOCK TABLE spoolnode.task IN EXCLUSIVE MODE")  # as one that hangs: it has not noticed yet
        cancelled = alpha.command("cancel", identity, "--grace", "1")
        assert (cancelled.returncode, "has not heard it" in cancelled.stderr) == (3, True)
    eventually(lambda: ids_in(postgres, "dead") == [identity], "the store hears it")
    assert said(alpha, "cancel", identity) == f"{identity} cancelled"


def test_what_is_cancelled_while_the_store_is_away_is_known_as_that_and_lists_say_that_they_are_not_whole(
    commune: Commune, postgres: Postgres
) -> None:
    alpha = commune.start("alpha", *LONG, app=False)
    beta = commune.start("beta", *LONG, "--discover", f"static://{alpha.via}", app=False)
    eventually(lambda: beta.status()["peers"] == {"up": 1}, "beta sees alpha")
    cut(postgres, away=True)
    try:
        alpha.wait_for_log("store_away")
        identity = spoolnode.send_to_spooler({"n": "1"}, via=alpha.via, send_timeout=PATIENCE)
        listed = alpha.command("ls", "--outbox", "--json")
        assert (listed.returncode, len(json.loads(listed.stdout))) == (0, 1)
        listed = alpha.command("ls", "--json")
        assert (listed.returncode, listed.stdout.strip(), "are missing here" in listed.stderr) == (1, "[]", True)
        counted = alpha.command("dead", "ls", "--by", "kind", "--json")
        assert (counted.returncode, counted.stdout.strip(), "are missing here" in counted.stderr) == (1, "[]", True)
        for command in (("ls",), ("dead", "ls"), ("dead", "ls", "--by", "kind")):
            listed = alpha.command(*command)
            assert (listed.stdout, listed.stderr.count("\n")) == ("", 1)  # and not that no task waits, or is dead
        assert said(alpha, "cancel", identity) == f"{identity} cancelled"
    finally:
        cut(postgres, away=False)
    for node in (alpha, beta):
        with pytest.raises(spoolnode.ResultMissing, match="cancelled by"):
            spoolnode.result(identity, PATIENCE, via=node.via)


def test_what_waits_in_the_store_for_a_node_that_is_forgotten_goes_on(commune: Commune, postgres: Postgres) -> None:
    alpha = commune.start("alpha", *LONG)
    tasks = commune.send(alpha, 2, "gamma")
    commune.send(alpha, 1, "gamma", at=LATER)
    refused = alpha.command("forget", "gamma", "--yes")
    assert (refused.returncode, states(postgres)) == (1, {"ready": 2, "later": 1})
    done = said(alpha, "forget", "gamma", "--move-to", "any", "--yes")
    assert done == (
        "gamma is forgotten; 0 tasks went to any, 3 tasks of the common store went there, too, 0 tasks went to dead/"
    )  # fmt: skip
    commune.wait_for(tasks)
    assert postgres.sql("SELECT dest FROM spoolnode.task WHERE state = 'later'", InPostgres.database) == [("any",)]
    mistyped = alpha.command("forget", "gama", "--move-to", "any", "--yes")
    assert (mistyped.returncode, "no node gama is known here, and no task waits for it" in mistyped.stderr) == (1, True)


def test_those_that_wait_for_another_attempt_say_why_on_each_node(commune: Commune, postgres: Postgres) -> None:
    commune.start("alpha", *LONG, "--retry-base", "1h")
    beta = commune.start("beta", *LONG, app=False)
    commune.send(beta, 1, fails="no such customer")
    eventually(lambda: states(postgres) == {"later": 1}, "it waits for another attempt")
    assert "ValueError: no such customer" in beta.command("ls", "--retrying").stdout
    (identity,) = ids_in(postgres, "later")
    assert "ValueError: no such customer" in json.loads(beta.command("show", identity, "--json").stdout)["last_error"]


def test_each_node_lists_the_tasks_of_the_store_and_those_that_it_runs(commune: Commune, postgres: Postgres) -> None:
    alpha = commune.start("alpha", *LONG, "--max-attempts", "1")
    beta = commune.start("beta", *LONG, app=False)
    commune.send(alpha, 1, fails="no such customer")
    eventually(lambda: states(postgres) == {"dead": 1}, "one is dead")
    gate = commune.directory / "gate"
    (running,) = commune.send(alpha, 1, gate=str(gate))
    commune.wait_for_start(running, "alpha")
    commune.send(beta, 2, "gamma")
    commune.send(beta, 1, at=LATER)

    def listed(node: RunningNode, *options: str) -> list[tuple[str, str, bool]]:
        rows = json.loads(node.command("ls", *options, "--json").stdout)
        return [(row["id"], row["state"], row["where"] == "store") for row in rows]

    (dead,), (held,), ready, (later,) = (ids_in(postgres, state) for state in ("dead", "held", "ready", "later"))
    shared = [*((identity, "waiting", True) for identity in ready), (later, "later", True)]
    assert listed(beta) == [*shared, (held, "held", True)]
    assert listed(alpha) == [(held, "running", False), *shared]
    assert listed(beta, "--limit", "2") == shared[:2]
    assert listed(beta, "--dead") == [(dead, "dead", True)]
    table = beta.command("ls").stdout.splitlines()
    assert table[0].split()[:3] == ["ID", "STORE", "STATE"]
    assert table[1].split()[1:3] == ["gamma", "waiting"]
    assert "no such customer" in beta.command("dead", "ls").stdout
    gate.touch()


def test_commands_on_dead_tasks_reach_those_of_the_store(commune: Commune, postgres: Postgres) -> None:
    alpha = commune.start("alpha", *LONG, "--max-attempts", "1")
    beta = commune.start("beta", *LONG, app=False)
    commune.send(alpha, 3, fails="no such customer")
    commune.send(alpha, 2, fails="no such town")
    eventually(lambda: states(postgres) == {"dead": 5}, "all are dead")
    alpha.stop()
    found = beta.command("doctor", "--json", SPOOLNODE_STORE=commune.url).stdout
    assert "5 given up in the store: see `spoolnode dead ls`" in [row["text"] for row in json.loads(found)]
    (kind,) = json.loads(beta.command("dead", "ls", "--by", "kind", "--json").stdout)
    assert (kind["error"], kind["tasks"]) == ("ValueError", 5)
    assert said(beta, "dead", "retry", "--reason", "town", "--yes") == "2 tasks are ready"
    assert states(postgres) == {"dead": 3, "ready": 2}
    assert said(beta, "dead", "rm", "--since", "1h", "--yes") == "3 tasks removed"
    assert states(postgres) == {"ended": 3, "ready": 2}
    assert said(beta, "dead", "retry", "--all", "--yes") == "0 tasks are ready"
