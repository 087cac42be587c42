"""Several nodes, seen from the command line of one: `peers`, `flush`, `drain`, waiting and dead tasks for others."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, RunningNode, environment, eventually

from spoolnode import send_to_spooler
from spoolnode.cli import top_facts
from spoolnode.client.control import ask

Node = Callable[[str], RunningNode]
CLOSED = "127.0.0.1:1"
"""An address where nothing listens."""


@pytest.fixture
def pair(make: Node, app: str) -> tuple[RunningNode, RunningNode]:
    """Two that know each other; alpha runs nothing."""
    alpha, beta = make("alpha"), make("beta")
    beta.start("--tag", "gpu", app=app)
    alpha.start("--discover", f"static://{beta.via}")
    eventually(lambda: [row["state"] for row in rows(alpha, "peers")] == ["up"], "alpha sees beta")
    eventually(lambda: [row["state"] for row in rows(beta, "peers")] == ["up"], "beta sees alpha")
    return alpha, beta


def test_the_cluster_in_numbers_has_this_node_and_the_other_one_with_what_its_pings_tell_until_it_is_down(
    make: Node,
) -> None:
    alpha, beta = make("alpha"), make("beta")
    beta.start("--tag", "gpu")
    for _ in range(3):
        assert send_to_spooler({"n": "1"}, via=beta.via)
    alpha.start("--discover", f"static://{beta.via}")

    def both() -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = ask(str(alpha.spool), "GET", "/cluster")["items"]
        return items

    def row_of_beta() -> dict[str, Any]:
        here, *others = both()
        assert (here["name"], here["here"], here["waiting"]) == ("alpha", True, 0)
        return others[0] if others else {}

    eventually(lambda: row_of_beta().get("waiting") == 3, "a ping of beta tells it")
    row = row_of_beta()
    assert (row["name"], row["here"], row["state"], row["tags"], row["dead"]) == ("beta", False, "up", ["gpu"], 0)
    assert row["free_bytes"] > 0
    assert row["oldest_waiting_seconds"] > 0
    assert abs(row["clock_ahead_seconds"]) < 60
    assert {line["id"] for line in ask(str(alpha.spool), "GET", "/history")["nodes"]} == {row["id"], both()[0]["id"]}
    beta.kill9()
    assert send_to_spooler({"n": "1"}, via=alpha.via, node="beta")
    eventually(lambda: row_of_beta()["state"] == "down", "alpha notices")
    row = row_of_beta()
    assert (row["waiting"], row["outbox"]) == (None, 1)


def rows(node: RunningNode, *line: str) -> list[dict[str, Any]]:
    done = node.command(*line, "--json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_each_node_tells_where_its_own_page_is_so_that_others_can_lead_there(make: Node) -> None:
    alpha, beta = make("alpha"), make("beta")
    beta.start("--http", "127.0.0.1:0")
    alpha.start("--discover", f"static://{beta.via}")
    (row,) = eventually(lambda: [row for row in rows(alpha, "peers") if row["state"] == "up"], "beta is known")
    assert row["page"] == f"http://{beta.lines('ready')[-1]['http']}"
    with urllib.request.urlopen(f"{row['page']}/api/v1/node", timeout=PATIENCE) as response:
        assert json.loads(response.read())["id"] == row["id"]
    (back,) = eventually(lambda: [row for row in rows(beta, "peers") if row["state"] == "up"], "alpha is known")
    assert back["page"] is None, "it has --http none"


def send(node: RunningNode, *args: str) -> str:
    done = node.command("send", *args)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def shown(node: RunningNode, identity: str) -> dict[str, Any]:
    done = node.command("show", identity, "--json")
    assert done.returncode == 0, done.stderr
    task: dict[str, Any] = json.loads(done.stdout)
    return task


def settle(node: RunningNode) -> None:
    """Waits until the tasks in the outbox are files of their own."""
    eventually(lambda: all(row["where"].startswith("outbox/") for row in rows(node, "ls", "--outbox")), "they settle")


# --- peers, ping, status ---


@pytest.mark.slow
def test_first_task_over_a_link_is_no_news_and_a_file_that_somebody_removed_is(pair: tuple[RunningNode, RunningNode]) -> None:
    alpha, beta = pair
    send(alpha, "name=first", "--node", "beta", "--at", "+1h")
    eventually(lambda: [*beta.spool.glob("uwsgi_spoolfile*")], "it is settled, and its number written down")
    (beta.spool / "taken").unlink()
    assert beta.wait_for_log("made_anew")["names"] == ["taken"]
    eventually((beta.spool / "taken").exists, "it is there again")
    assert len(beta.lines("made_anew")) == 1


def test_peers_says_who_is_there_and_how(pair: tuple[RunningNode, RunningNode]) -> None:
    alpha, beta = pair
    (row,) = rows(alpha, "peers")
    assert (row["name"], row["id"], row["address"]) == ("beta", beta.status()["id"], beta.via)
    assert (row["sources"], row["tags"], row["load"], row["outbox"]) == ([f"static://{beta.via}"], ["gpu"], 0.0, 0)
    assert row["rtt_seconds"] > 0
    head, line = alpha.command("peers").stdout.splitlines()
    assert head.split()[:4] == ["NAME", "STATE", "FOR", "ADDRESS"]
    assert line.split()[:2] == ["beta", "up"]
    assert "static" in line
    beta.kill9()
    (row,) = eventually(lambda: [row for row in rows(alpha, "peers") if row["state"] in ("suspect", "down")], "it is missed")
    assert row["reason"]
    _, line, why = alpha.command("peers").stdout.splitlines()
    assert line.split()[0] == "beta"
    assert why.startswith("    ")
    assert beta.via not in why


def test_each_node_is_a_line_in_numbers_and_one_sees_the_dead_of_another(make: Node, app: str) -> None:
    alpha, beta = make("alpha"), make("beta")
    beta.start("--max-attempts", "1", app=app)
    alpha.start("--discover", f"static://{beta.via}")
    send(beta, "do=fail")
    beta.wait_for_log("dead")
    eventually(lambda: [row["dead"] for row in rows(alpha, "peers")] == [1], "a ping of beta tells it")
    titles, line = alpha.command("peers").stdout.splitlines()
    assert (titles.split()[-3:], line.split()[-4:-2]) == (["OUTBOX", "DEAD", "RTT"], ["0", "1"])
    seen = top_facts.nodes(top_facts.facts_of(str(alpha.spool)))[1].cells
    assert (seen[:2], seen[3:]) == (("beta", "up"), ("0/1", "0", "0", "1", ""))
    asked, printed = ask(str(alpha.spool), "GET", "/cluster")["items"], rows(alpha, "status", "--cluster")
    assert [(row["name"], row["here"], row["dead"], [*row]) for row in printed] == [
        (row["name"], row["here"], row["dead"], [*row]) for row in asked
    ]
    titles, here, other = alpha.command("status", "--cluster").stdout.splitlines()
    assert titles.split()[:9] == ["NODE", "STATE", "FOR", "RUN/WRK", "WAITING", "OLDEST", "LATER", "RETRYING", "DEAD"]
    at = [titles.index(name) for name in ("NODE", "STATE", "RUN/WRK", "DEAD")]
    told = [[line[start:].partition("  ")[0] for start in at] for line in (here, other)]
    assert told == [["alpha (here)", "up", "0/0", "0"], ["beta", "up", "0/1", "1"]]
    beta.kill9()
    eventually(lambda: [row["state"] for row in rows(alpha, "peers")] == ["down"], "it is missed")
    titles, line, *_ = alpha.command("peers").stdout.splitlines()
    told = [line[titles.index(name) :].split()[0] for name in ("LOAD", "RTT")]
    assert told == ["-", "-"], "those of its last answer are of no use"
    titles, _, other = alpha.command("status", "--cluster").stdout.splitlines()
    assert other.split()[:2] == ["beta", "down"]
    assert not other[titles.index("RUN/WRK") : titles.index("OUTBOX")].strip(), "what it does not tell is not known"


def test_status_of_the_cluster_needs_a_node(make: Node) -> None:
    alone = make("alone").start()
    alone.kill9()
    done = alone.command("status", "--cluster")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


def test_peers_of_a_node_that_is_alone(make: Node) -> None:
    alone = make("alone").start()
    done = alone.command("peers")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "no other node is known\n")
    assert rows(alone, "peers") == []


def test_watching_is_ended_quietly_by_ctrl_c(pair: tuple[RunningNode, RunningNode]) -> None:
    alpha, _ = pair
    watching = subprocess.Popen(
        [sys.executable, "-m", "spoolnode", "peers", "--watch", "--json", "-Q", str(alpha.spool)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    assert watching.stdout is not None
    for _ in range(2):
        assert [row["name"] for row in json.loads(watching.stdout.readline())] == ["beta"]
    watching.send_signal(signal.SIGINT)
    try:
        _, said = watching.communicate(timeout=PATIENCE)
    finally:
        watching.kill()
        watching.communicate()
    assert (watching.returncode, said) == (0, "")


def test_watching_ends_with_a_sentence_when_the_node_ends(make: Node) -> None:
    alone = make("alone").start()
    alone.kill9()
    done = alone.command("peers", "--watch")
    assert done.returncode == 1
    assert "no node runs on the spool" in done.stderr


def test_ping_tells_cluster_and_version(make: Node) -> None:
    node = make("alone").start("--cluster", "north")
    said = node.command("ping", node.via).stdout
    assert "node alone (" in said
    assert "cluster north, spoolnode " in said
    status = json.loads(node.command("ping", "--json").stdout)["status"]
    assert (status["cluster"], status["draining"], status["accepting"]) == ("north", False, True)


def test_status_says_what_waits_for_whom_and_why(pair: tuple[RunningNode, RunningNode]) -> None:
    alpha, _ = pair
    send(alpha, "name=Ada", "--node", "beta")
    eventually(lambda: alpha.status()["forwarded"] == 1, "it was forwarded")
    send(alpha, "a=b", "--node", "tag:none")
    send(alpha, "a=b", "--node", CLOSED)
    eventually(lambda: any(link["failures"] for link in alpha.status()["links"].values()), "it was tried")
    words = alpha.command("status").stdout
    assert "default, peers: 1 up" in words
    assert "forwarded    1 to other nodes" in words
    assert "1 for tag:none (no node with the tag none is known)" in words
    assert f"1 for {CLOSED} (" in words
    assert alpha.status()["outbox"] == {"tag:none": 1, CLOSED: 1}


def test_answer_to_a_ping_does_not_grow_with_the_destinations(make: Node) -> None:
    alone = make("alone").start()
    send(alone, "a=b", "--node", "x" * 60)

    def status() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(alone.command("ping", "--json").stdout)["status"]
        return found

    eventually(lambda: status()["outbox_total"] == 1, "the status that answers pings is as new as the task")
    assert "x" * 60 not in json.dumps(status())


def test_metrics_tell_of_peers_and_links(make: Node) -> None:
    alone = make("alone").start("--http", "127.0.0.1:0", "--discover", f"static://{CLOSED}")
    send(alone, "a=b", "--node", CLOSED)
    eventually(lambda: any(link["failures"] for link in alone.status()["links"].values()), "it was tried")
    eventually(lambda: alone.status()["peers"] == {"down": 1} or alone.status()["peers"] == {"suspect": 1}, "it is missed")
    with urllib.request.urlopen(f"http://{alone.lines('ready')[-1]['http']}/metrics", timeout=PATIENCE) as answer:
        text = answer.read().decode()
    assert f'spoolnode_outbox{{destination="{CLOSED}"}} 1.0' in text
    assert f'spoolnode_link_failures{{destination="{CLOSED}"}} ' in text
    assert 'spoolnode_peers{state="' in text
    for name in ("forwarded", "repeats", "handshake_failures"):
        assert f"spoolnode_{name}_total 0.0" in text


# --- the outbox ---


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("running", [True, False])
def test_task_for_another_node_is_shown_as_such_wherever_it_lies(make: Node, settled: bool, running: bool) -> None:
    alone = make("alone").start()
    identity = send(alone, "name=Ada", "--node", "beta")
    here = send(alone, "name=Bob")
    if settled:
        settle(alone)
    if not running:
        alone.stop()
    (row,) = rows(alone, "ls", "--outbox")
    assert (row["id"], row["state"], row["destination"]) == (identity, "outbox", "beta")
    assert row["sequence_number"] > 0
    assert [found["id"] for found in rows(alone, "ls")] == [here]
    task = shown(alone, identity)
    assert (task["state"], task["destination"], task["sequence_number"]) == ("outbox", "beta", row["sequence_number"])
    assert task["variables"] == {"name": "Ada"}
    lines = alone.command("ls", "--outbox").stdout.splitlines()
    assert lines[0].split() == ["ID", "FOR", "SENT", "FUNCTION", "AGE", "SIZE"]
    assert lines[1].split()[:2] == [identity, "beta"]
    done = alone.command("rm", identity)
    assert (done.returncode, done.stdout) == (0, f"{identity} removed\n")
    assert rows(alone, "ls", "--outbox") == []
    if running:
        assert alone.status()["outbox"] == {}
        alone.kill9()
    alone.start()
    assert alone.status()["outbox"] == {}
    assert [found["id"] for found in rows(alone, "ls")] == [here]


def test_task_that_came_over_a_link_is_found_by_both_ids(pair: tuple[RunningNode, RunningNode]) -> None:
    alpha, beta = pair
    original = send(alpha, "name=late", "--at", "+1h", "--node", "beta")
    (row,) = eventually(lambda: rows(beta, "ls"), "it arrives")
    for identity in (row["id"], original):
        task = shown(beta, identity)
        assert (task["id"], task["spool_id"], task["spool_origin"]) == (row["id"], original, alpha.status()["id"])
        assert task["spool_to"] == "beta"
    beta.stop()
    assert shown(beta, original)["id"] == row["id"]
    ended = alpha.command("show", original)
    assert ended.returncode == 0
    assert ended.stdout.rstrip().endswith("forwarded to beta"), "alpha has its story, no more"
    assert alpha.command("ls", "--ended").stdout.rstrip().endswith("to beta")


def test_flush_tries_now_and_says_when_it_cannot(make: Node, app: str) -> None:
    alone, beta = make("alone"), make("beta")
    beta.start(app=app)
    beta.stop()
    alone.start("--discover", f"static://{beta.via}")
    for to in ("beta", beta.via, "tag:none"):
        send(alone, f"name={to}", "--node", to)
    done = alone.command("flush", "beta", "gamma", "tag:none")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "Error: 1 task for beta cannot be sent: no node with the id or name beta is known",
        "nothing waits for gamma",
        "Error: 1 task for tag:none cannot be sent: no node with the tag none is known",
    ]
    done = alone.command("flush", beta.via)
    assert (done.returncode, done.stdout) == (0, f"{beta.via} is tried now, 1 task; `spoolnode peers` says how it went\n")
    found = json.loads(alone.command("flush", "--json").stdout)
    assert {row["destination"]: row["tried"] for row in found} == {"beta": False, beta.via: True, "tag:none": False}
    beta.start(app=app)
    beta.wait_for_log("print", text=f"ran {beta.via}")
    beta.wait_for_log("print", text="ran beta")


def test_flush_of_an_address_that_is_no_peer_points_to_the_status(make: Node) -> None:
    alone = make("alone").start()
    send(alone, "a=b", "--node", CLOSED)
    eventually(lambda: "`spoolnode status` says how it went" in alone.command("flush", CLOSED).stdout, "it is tried")


def test_outbox_shows_the_name_of_the_node_that_was_chosen(pair: tuple[RunningNode, RunningNode]) -> None:
    alpha, beta = pair
    beta.kill9()
    identity = send(alpha, "a=b", "--node", beta_id := rows(alpha, "peers")[0]["id"])
    assert alpha.command("ls", "--outbox").stdout.splitlines()[1].split()[:2] == [identity, "beta"]
    assert [row["destination"] for row in rows(alpha, "ls", "--outbox")] == [beta_id]
    eventually(lambda: f"beta ({beta_id}): " in alpha.command("ls", "--outbox").stderr, "it is said why it waits")
    assert f"1 for beta ({beta_id}) (" in alpha.command("status").stdout
    failed = alpha.wait_for_log("link_failed", destination=beta_id)
    assert (failed["destination"], failed["name"]) == (beta_id, "beta")
    send(alpha, "a=b", "--node", "beta")
    lines = [line for line in alpha.command("status").stdout.splitlines() if line.startswith("outbox")]
    assert [line.partition(" (")[0] for line in lines] == ["outbox       2 for beta"]
    assert f"2 for beta ({beta_id}) (" in lines[0]
    assert [line.partition(": ")[0] for line in alpha.command("ls", "--outbox").stderr.splitlines()] == [f"beta ({beta_id})"]


def test_status_has_a_line_for_each_destination(make: Node) -> None:
    alone = make("alone").start()
    for to in ("beta", "gamma"):
        send(alone, "a=b", "--node", to)
    lines = [line.split()[:4] for line in alone.command("status").stdout.splitlines() if line.startswith("outbox")]
    assert lines == [["outbox", "1", "for", to] for to in ("beta", "gamma")]


def test_flush_of_a_name_tries_all_that_waits_for_that_node(pair: tuple[RunningNode, RunningNode]) -> None:
    alpha, beta = pair
    identity = beta.status()["id"]
    beta.kill9()
    for to in ("beta", identity):
        send(alpha, "a=b", "--node", to)
    for to in ("beta", identity, "tag:gpu"):
        (row,) = rows(alpha, "flush", to)
        assert (row["destination"], row["waiting"], row["tried"]) == (to, 2, True)
    table = [line.split()[:2] for line in alpha.command("qshape", "--by", "node").stdout.splitlines()]
    assert table[1:] == [["TOTAL", "2"], ["beta", "2"]], "one row for one node"


def test_flush_with_nothing_to_send(make: Node) -> None:
    alone = make("alone").start()
    done = alone.command("flush")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "nothing waits for another node\n")


def test_a_task_that_was_never_sent_is_cancelled_for_sure_without_a_node(make: Node) -> None:
    alone = make("alone").start()
    identity = send(alone, "a=b", "--node", "beta")
    settle(alone)
    assert alone.stop() == 0
    assert shown(alone, identity)["attempts"] == 0
    done = alone.command("cancel", identity)
    assert (done.returncode, done.stderr) == (0, ""), "it cannot be on beta"
    assert shown(alone, identity)["state"] == "dead"


def test_retry_of_a_task_in_the_outbox_tries_its_destination(make: Node) -> None:
    alone = make("alone").start()
    unknown, known = send(alone, "a=b", "--node", "beta"), send(alone, "a=b", "--node", CLOSED)
    done = alone.command("retry", unknown)
    assert done.returncode == 1
    assert f"the task {unknown} waits for beta: no node with the id or name beta is known" in done.stderr
    done = eventually(lambda: _good(alone, "retry", known), "it is not being sent")
    assert done.stdout == f"{known} is ready, for {CLOSED}\n"
    alone.stop()
    assert f"waits for {CLOSED}; it is sent when a node runs here" in alone.command("retry", known).stderr


def _good(node: RunningNode, *line: str) -> Any:
    done = node.command(*line)
    return done if done.returncode == 0 else None


# --- the dead that could not be delivered ---


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("running", [True, False])
def test_dead_task_that_was_not_delivered_waits_for_its_node_again(make: Node, app: str, running: bool, everything: bool) -> None:
    alpha, beta = make("alpha"), make("beta")
    alpha.start("--hold", "0.2", app=app)
    identity = send(alpha, "name=Ada", "--node", "beta")
    line = alpha.wait_for_log("dead", id=identity)
    assert (line["outcome"], line["destination"]) == ("undeliverable", "beta")
    beta.start(app=app)
    alpha.stop()
    if running:
        alpha.start("--discover", f"static://{beta.via}", app=app)
    done = alpha.command("dead", "retry", *(("--all", "--yes") if everything else (identity,)))
    assert done.stdout == ("1 task is ready\n" if everything else f"{identity} is ready, for beta\n")
    if not running:
        (row,) = rows(alpha, "ls", "--outbox")
        assert (row["id"], row["destination"], row["sequence_number"]) == (identity, "beta", None)
        alpha.start("--discover", f"static://{beta.via}", app=app)
    beta.wait_for_log("print", text="ran Ada")
    eventually(lambda: alpha.status()["forwarded"] == 1, "it has left")
    assert alpha.status()["outbox"] == {}
    alpha.stop()
    assert not alpha.lines("print")


def test_dead_task_of_an_open_choice_is_placed_anew(make: Node, app: str) -> None:
    alpha = make("alpha").start("--hold", "0.2", app=app)
    identity = send(alpha, "name=Ada", "--node", "tag:gpu")
    alpha.wait_for_log("dead", id=identity)
    alpha.stop()
    alpha.start("--tag", "gpu", app=app)
    assert alpha.command("dead", "retry", identity).stdout == f"{identity} is ready\n"
    alpha.wait_for_log("print", text="ran Ada")


# --- drain ---


def test_drain_hands_over_what_waits_and_tells_what_is_left(pair: tuple[RunningNode, RunningNode]) -> None:
    alpha, beta = pair
    for number in range(3):
        send(alpha, f"name=n{number}")
    ours = send(alpha, "name=ours", "--node", "alpha")
    other = send(alpha, "name=other", "--node", "gamma")
    done = alpha.command("drain")
    assert alpha.wait() == 0
    assert done.returncode == 0, done.stderr
    assert done.stderr == "draining: 5 tasks are to go\n"
    assert done.stdout == (
        "the node has ended; 3 of 5 tasks have run or are with other nodes, "
        f"2 are left in {alpha.spool}: 1 for this node, 1 for gamma\n"
    )
    for number in range(3):
        beta.wait_for_log("print", text=f"ran n{number}")
    assert [row["id"] for row in rows(alpha, "ls")] == [ours]
    assert [row["id"] for row in rows(alpha, "ls", "--outbox")] == [other]


def test_drain_says_kept_of_what_was_for_anybody(make: Node) -> None:
    alone = make("alone").start()
    for place in ((), ("--node", "alone")):
        send(alone, "a=b", *place)
    done = alone.command("drain")
    assert alone.wait() == 0
    assert done.stdout == (
        "the node has ended; 0 of 2 tasks have run or are with other nodes, "
        f"2 are left in {alone.spool}: 1 for this node, 1 kept\n"
    )


@pytest.mark.parametrize("how", ["drain", "SIGTERM", "drain with a peer"])
def test_what_a_drain_keeps_is_due_when_it_was(make: Node, app: str, how: str) -> None:
    alone, other = make("alone"), make("other")
    discover = ("--discover", f"static://{other.start().via}") if how == "drain with a peer" else ()
    alone.start("--retry-base", "3600", "--drain-on-stop", *discover, app=app)
    at = int(time.time()) + 3600
    ours = ("--node", "alone")
    appointed = send(alone, "name=later", *ours, "--at", str(at))
    failing = send(alone, "do=fail", *ours)
    pause = alone.wait_for_log("retry", id=failing)["due"]
    if how == "SIGTERM":
        os.kill(alone.pid, signal.SIGTERM)
    else:
        assert alone.command("drain").returncode == 0
    assert alone.wait() == 0
    due = {row["id"]: row["due_at"] for row in rows(alone, "ls")}
    assert due == {appointed: pytest.approx(at, abs=0.01), failing: pytest.approx(pause, abs=0.01)}
    alone.start(app=app)
    ready = alone.lines("ready")[-1]
    assert (ready["waiting"], ready["later"]) == (0, 2)
    assert (alone.status()["waiting"], alone.status()["later"]) == (0, 2)
    alone.stop()
    assert not alone.lines("print")


def test_drain_for_programs_and_without_waiting(make: Node, app: str) -> None:
    alone = make("alone").start(app=app)
    done = alone.command("drain", "--no-wait", "--json")
    assert json.loads(done.stdout) == {"draining": True, "waiting": 0, "outbox": 0}
    assert alone.wait() == 0
    alone.start(app=app)
    done = alone.command("drain", "--json")
    assert alone.wait() == 0
    assert json.loads(done.stdout) == {
        "drained": True, "before": 0, "left": {"waiting": 0, "outbox": {}}, "spool": str(alone.spool),
    }  # fmt: skip


def test_node_that_stops_already_is_not_hurried_by_a_drain(make: Node) -> None:
    alone = make("alone").start(
        app="import os, time\nfrom spoolnode import uwsgi\n\ndef run(task):\n    print('began')\n"
        "    while not os.path.exists('go'):\n        time.sleep(0.01)\n    print('ended')\n\nuwsgi.spooler = run\n"
    )
    send(alone, "a=b")
    alone.wait_for_log("print", text="began")
    for said in ("", "Error: this node is draining already\n"):
        assert alone.command("drain", "--no-wait", "--json").stderr == said
    assert alone.status()["state"] == "draining"
    (alone.directory / "go").touch()
    assert alone.wait() == 0
    assert alone.lines("print", text="ended")


# --- all ---


def test_send_to_all_says_how_many_copies(pair: tuple[RunningNode, RunningNode]) -> None:
    alpha, beta = pair
    done = alpha.command("send", "name=everybody", "--node", "all")
    assert done.stderr == "1 copy was stored\n"  # alpha runs nothing
    beta.wait_for_log("print", text="ran everybody")
    assert json.loads(alpha.command("send", "a=b", "--node", "all", "--json").stdout)["copies"] == 1
    alpha.stop()
    alpha.start("--discover", f"static://{beta.via}", app=(beta.directory / "app.py").read_text())
    eventually(lambda: [row["state"] for row in rows(alpha, "peers")] == ["up"], "alpha sees beta")
    done = alpha.command("send", "name=both", "--node", "all")
    assert done.stderr == "2 copies were stored, one for each node\n"
    for node in pair:
        node.wait_for_log("print", text="ran both")


def test_a_second_node_of_one_name_gets_nothing_until_it_is_accepted(make: Node, app: str, tmp_path: Path) -> None:
    alpha, beta = make("alpha"), make("beta")
    (tmp_path / "twin").mkdir()
    twin = RunningNode(tmp_path / "twin", "beta")
    try:
        beta.start(app=app)
        alpha.start("--discover", f"static://{beta.via}")
        eventually(lambda: [row["state"] for row in rows(alpha, "peers")] == ["up"], "alpha sees beta")
        beta.stop()
        twin.start("--discover", f"static://{alpha.via}", app=app)
        eventually(lambda: "rejected" in [row["state"] for row in rows(alpha, "peers")], "the other one is rejected")
        identity = (twin.spool / "node.id").read_text().strip()
        assert f"spoolnode accept beta {identity}" in alpha.command("peers").stdout
        assert alpha.wait_for_log("name_twice")["ids"]
        send(alpha, "name=Ada", "--node", "beta")
        eventually(lambda: "beta: " in alpha.command("ls", "--outbox").stderr, "it is said why it waits")
        done = alpha.command("accept", "beta", identity)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"beta is the node {identity} from now on\n", "")
        assert "peers that know the other one send nothing here" not in str(alpha.lines("name_twice"))
        eventually(lambda: alpha.status()["forwarded"] == 1, "it gets what waited")
        eventually(lambda: [row["state"] for row in rows(alpha, "peers") if row["id"] == identity] == ["up"], "it is a peer")
    finally:
        twin.clean_up()


def test_accept_says_that_nobody_has_that_id_yet(make: Node) -> None:
    alpha = make("alpha").start()
    done = alpha.command("accept", "beta", "0123456789ab")
    assert (done.returncode, done.stdout) == (0, "beta is the node 0123456789ab from now on\n")
    assert done.stderr == "no node with this id is known here yet; tasks for beta wait until it is\n"
    assert alpha.command("accept", "alpha", alpha.status()["id"]).stderr == ""


@pytest.mark.parametrize(
    ("name", "identity", "reason"),
    [
        ("any", "0123456789ab", "'any' cannot be a node's name; it must be 1 to 63 letters, digits, '.', '_' or '-'"),
        ("beta", "beta", "'beta' is not a node's id; it must be the 12 hexadecimal digits that `spoolnode peers` shows"),
    ],
)
def test_accept_says_what_is_no_name_and_no_id(make: Node, name: str, identity: str, reason: str) -> None:
    alpha = make("alpha")
    alpha.start()
    done = alpha.command("accept", name, identity)
    assert (done.returncode, done.stderr.strip()) == (1, f"Error: {reason}")


def test_who_sends_to_a_name_that_nobody_has_is_told_that_it_is_unknown(pair: tuple[RunningNode, RunningNode]) -> None:
    alpha, _ = pair
    told = "the destination 'nobody' is unknown: no node with the id or name nobody is known; the task waits for it"
    done = alpha.command("send", "a=b", "--node", "nobody")
    assert (done.returncode, done.stderr.strip()) == (0, told)
    assert is_waiting(alpha, done.stdout.strip())
    done = alpha.command("send", "a=b", "--node", "nobody", "--json")
    assert json.loads(done.stdout)["note"] == told
    assert "the destination 'tag:none' is unknown" in alpha.command("send", "a=b", "--node", "tag:none").stderr
    alpha.wait_for_log("unknown_destination", destination="tag:none")
    lines = [line["destination"] for line in alpha.log if line["action"] == "unknown_destination"]
    assert lines == ["nobody", "tag:none"], "each once"
    for known in ("beta", "any", "all", "tag:gpu", CLOSED, "alpha"):
        assert alpha.command("send", "a=b", "--node", known).stderr in ("", "1 copy was stored\n")


def is_waiting(node: RunningNode, identity: str) -> bool:
    return shown(node, identity)["state"] == "outbox"


SENDERS = """
import asyncio, spoolnode
spoolnode.send_to_spooler({"a": "b"}, node="nobody")
asyncio.run(spoolnode.asend_to_spooler({"a": "b"}, node="nobody"))
"""


def test_in_python_the_log_says_that_a_destination_is_unknown(make: Node) -> None:
    alpha = make("alpha")
    alpha.start()
    done = subprocess.run(
        [sys.executable, "-c", SENDERS], env=environment(SPOOLNODE_VIA=alpha.via), capture_output=True, text=True, check=True
    )
    assert done.stderr.count("the destination 'nobody' is unknown") == 2
