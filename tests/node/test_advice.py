"""Troubles and remedies: each sentence alone, and none where all is well."""

from typing import Any

import pytest
from documents import anchors

from spoolnode.node.control import advice
from spoolnode.node.control.advice import ERROR, MOST, WARNING, Situation, byte_size, length
from spoolnode.node.control.function_hours import Runs
from spoolnode.node.figures import UNKNOWN, Figures

NOW = 1_800_000_000.0
HERE, THERE = "aaaaaaaaaaaa", "bbbbbbbbbbbb"


def facts(
    *, wants_workers: bool = True, refuses: str = "", peers: tuple[dict[str, Any], ...] = (), nodes: Any = None,
    functions: Any = None, lacking: Any = None, **status: Any,
) -> Situation:  # fmt: skip
    """Those of a node that is well, except for what is given."""
    well = {
        "name": "alpha", "id": HERE, "state": "running", "uptime": 7200.0, "workers": 2, "running": 0, "waiting": 0,
        "given_up": 0,
        "free": 10**12, "min_free": 10**8, "oldest_waiting": None, "paused": False, "paused_functions": [], "rates": {},
    }  # fmt: skip
    return Situation(NOW, {**well, **status}, wants_workers, refuses, peers, nodes or {}, functions or {}, lacking or {})


def peer(**said: Any) -> dict[str, Any]:
    up = {"name": "beta", "id": THERE, "address": "10.0.0.2:3031", "state": "up", "since": 240.0, "reason": "", "outbox": 0}
    return {**up, "clock": 0.0, "figures": UNKNOWN, **said}


def store(dead: int | None = None) -> dict[str, Any]:
    """The common store as a status tells it; None: it has not been counted yet."""
    tasks = None if dead is None else {"ready": 7, "later": 0, "held": 1, "dead": dead}
    return {"there": True, "reason": "", "tasks": tasks}


def one(found: Situation) -> advice.Advice:
    (each,) = advice.advice(found)
    return each


def test_a_cluster_that_is_well_needs_no_advice() -> None:
    busy = Figures(workers=2, running=2, waiting=100, oldest_waiting=5.0, free=10**12, min_free=10**8)
    died_long_ago = {HERE: [Figures(given_up=7)] * 60, THERE: [None] * 58 + [Figures(given_up=9)] * 2}
    others = peer(figures=busy), peer(state="leaving"), peer(state="suspect")
    assert advice.advice(facts(peers=others, nodes=died_long_ago, running=2, waiting=9, oldest_waiting=5.0)) == []
    assert advice.advice(facts(wants_workers=False, workers=0)) == []
    assert advice.advice(facts(workers=0, uptime=1.0)) == []
    assert advice.advice(facts(certificate_until=NOW + 90 * 86400)) == []


def test_a_node_that_is_down_is_an_error_as_soon_as_tasks_wait_for_it() -> None:
    found = one(facts(peers=(peer(state="down", outbox=512),)))
    assert (found.kind, found.severity, found.node) == ("node_down", ERROR, "beta")
    assert found.text.startswith("beta has been down for 4 min, 512 tasks wait for it here. ")
    idle = one(facts(peers=(peer(state="down", name=""),)))
    assert (idle.severity, idle.node) == (WARNING, "10.0.0.2:3031")
    assert idle.text.startswith("10.0.0.2:3031 has been down for 4 min. ")


def test_another_node_with_the_name_of_this_one_is_told() -> None:
    found = one(facts(peers=(peer(name="alpha"),)))
    assert (found.kind, found.severity) == ("same_name", WARNING)
    assert "Start one with another --name" in found.text


def test_a_node_that_is_rejected_is_told_with_the_reason() -> None:
    found = one(facts(peers=(peer(state="rejected", reason="it could not prove its key", outbox=1),)))
    assert (found.kind, found.severity) == ("node_rejected", ERROR)
    assert found.text == "beta gets nothing, 1 task waits for it here: it could not prove its key"


@pytest.mark.parametrize(("ahead", "which"), [(8.0, "8 s ahead of"), (-300.0, "5 min behind")])
def test_a_clock_that_is_off_is_told(ahead: float, which: str) -> None:
    found = one(facts(peers=(peer(clock=ahead),)))
    assert (found.kind, found.severity) == ("clock_off", WARNING)
    assert f"beta is {which} that of this node" in found.text


def test_tasks_that_died_within_the_hour_are_told_with_the_worst_function() -> None:
    functions = {"tasks:pay": [None, Runs(dead=3), Runs(dead=2)], "tasks:mail": [Runs(dead=1, done=100)]}
    found = one(facts(nodes={HERE: [Figures(given_up=4), None, Figures(given_up=10)]}, functions=functions))
    assert (found.kind, found.severity, found.node, found.function) == ("tasks_died", ERROR, "alpha", "tasks:pay")
    assert found.text.startswith("6 tasks died on alpha in the last hour, 5 of them of tasks:pay. ")


def test_tasks_that_could_not_be_delivered_are_told_apart_from_those_that_died() -> None:
    functions = {"tasks:pay": [Runs(dead=4)]}
    hour = {HERE: [Figures(given_up=4, undelivered=1), Figures(given_up=10, undelivered=3)]}
    died, undelivered = advice.advice(facts(nodes=hour, functions=functions))
    assert died.text.startswith("4 tasks died on alpha in the last hour, of tasks:pay. ")
    assert (undelivered.kind, undelivered.severity, undelivered.function) == ("tasks_undelivered", ERROR, "")
    assert undelivered.text.startswith("alpha has given up 2 tasks for other nodes in the last hour: they could not ")
    young = facts(nodes={HERE: [Figures(given_up=1, undelivered=1)]}, given_up=2, undelivered=2, uptime=60.0)
    assert one(young).text.startswith("alpha has given up 2 tasks for other nodes ")


def test_on_a_young_node_all_that_died_have_died_within_the_hour() -> None:
    assert one(facts(given_up=1, uptime=5.0, nodes={HERE: [Figures(given_up=1)]})).text.startswith("1 task died on alpha ")


def test_tasks_that_died_elsewhere_are_told_over_a_restart_of_that_node() -> None:
    minutes = [Figures(given_up=100), Figures(given_up=102), Figures(given_up=3)]
    found = one(facts(peers=(peer(),), nodes={THERE: minutes}))
    assert (found.node, found.function) == ("beta", "")
    assert found.text.startswith("5 tasks died on beta in the last hour. ")


def test_tasks_that_died_and_are_dead_no_more_are_no_trouble_and_those_that_are_left_are_counted() -> None:
    hour = {HERE: [Figures(given_up=4), Figures(given_up=10)]}
    assert advice.advice(facts(nodes=hour, dead=0)) == []
    assert one(facts(nodes=hour, dead=2)).text.startswith("6 tasks died on alpha in the last hour; 2 are dead now. ")
    there = {THERE: [Figures(given_up=1), Figures(given_up=3)]}
    assert advice.advice(facts(peers=(peer(figures=Figures(dead=0)),), nodes=there)) == []


def test_tasks_that_died_and_are_dead_in_the_store_are_told_as_those_on_the_disk() -> None:
    hour = {HERE: [Figures(given_up=4), Figures(given_up=10)]}
    found = one(facts(nodes=hour, dead=0, store=store(dead=9)))
    assert (found.kind, found.severity) == ("tasks_died", ERROR)
    assert found.text.startswith("6 tasks died on alpha in the last hour; 9 are dead in the store. ")
    assert one(facts(nodes=hour, dead=0, store=store())).text.startswith("6 tasks died on alpha in the last hour. ")
    assert advice.advice(facts(nodes=hour, dead=0, store=store(dead=0))) == []
    assert advice.advice(facts(dead=0, store=store(dead=9))) == []  # they died long ago


def test_tasks_that_wait_too_long_while_all_workers_are_busy_are_told_here_and_elsewhere() -> None:
    found = one(facts(running=2, waiting=9, oldest_waiting=720.0))
    assert (found.kind, found.severity, found.node) == ("tasks_wait", WARNING, "alpha")
    assert found.text.startswith("On alpha 9 tasks wait, the oldest for 12 min, and all its 2 workers are busy. ")
    figures = Figures(workers=1, running=1, waiting=1, oldest_waiting=61.0)
    assert (
        "On beta 1 task waits, the oldest for 1 min, and its only worker is busy"
        in one(facts(peers=(peer(figures=figures),))).text
    )
    assert advice.advice(facts(running=1, waiting=9, oldest_waiting=720.0)) == [], (
        "a worker is free: something else holds them back"
    )


def test_a_disk_that_is_full_or_nearly_is_told_here_and_elsewhere() -> None:
    found = one(facts(free=3 << 20, min_free=100 << 20, refuses="the disk is full"))
    assert (found.kind, found.severity) == ("disk_full", ERROR)
    assert "alpha takes no tasks: 3.0 MiB free on its disk, and --min-free is 100.0 MiB" in found.text
    near = one(facts(peers=(peer(figures=Figures(free=3 << 30, min_free=1 << 30)),)))
    assert (near.kind, near.severity, near.node) == ("disk_nearly_full", WARNING, "beta")
    assert "beta has 3.0 GiB free on its disk" in near.text


def test_intake_that_is_closed_is_told_with_the_reason() -> None:
    found = one(facts(refuses="the spool directory is gone"))
    assert (found.kind, found.severity, found.text) == ("closed", ERROR, "alpha takes no tasks: the spool directory is gone")


def test_pauses_are_told_with_the_way_out() -> None:
    found = one(facts(paused=True, waiting=12))
    assert found.text == "Everything is paused on alpha, where 12 tasks wait. Go on: spoolnode resume"
    function = one(facts(paused_functions=["a b"]))
    assert (function.severity, function.function) == (WARNING, "a b")
    assert function.text == "a b is paused on alpha. Go on: spoolnode resume 'a b'"


@pytest.mark.parametrize(
    ("lacking", "says"),
    [
        ({"tasks:male": 1}, "1 task waits on alpha for the function tasks:male, which its application does not have. "),
        ({"": 2}, "2 tasks wait on alpha for uwsgi.spooler, which its application does not have. "),
        (
            {"a": 1, "b": 3},
            "4 tasks wait on alpha for functions that its application does not have, 3 of them for the function b. ",
        ),
    ],
)
def test_tasks_for_a_function_that_the_application_lacks_are_told_with_the_way_out(lacking: dict[str, int], says: str) -> None:
    found = one(facts(lacking=lacking))
    assert (found.kind, found.severity) == ("function_missing", ERROR)
    assert found.text.startswith(says)
    assert found.text.endswith(": spoolnode reload")


def test_workers_that_do_not_start_are_told() -> None:
    found = one(facts(workers=0, waiting=5))
    assert (found.kind, found.severity) == ("no_worker", ERROR)
    assert found.text.startswith("No worker of alpha is up, so 5 tasks cannot start. ")


def test_a_store_that_is_away_is_told_with_the_reason() -> None:
    found = one(facts(store={"there": False, "reason": "the server does not answer", "tasks": None}))
    assert (found.kind, found.severity) == ("store_away", "error")
    assert "the server does not answer" in found.text
    assert advice.advice(facts(store=store())) == []


@pytest.mark.parametrize(("left", "severity", "says"), [(86400 * 3, WARNING, "expires in 3 days"), (-5, ERROR, "has expired")])
def test_a_certificate_that_ends_soon_is_told(left: float, severity: str, says: str) -> None:
    found = one(facts(certificate_until=NOW + left))
    assert (found.kind, found.severity) == ("certificate", severity)
    assert says in found.text


def test_errors_come_first_and_there_are_never_too_many() -> None:
    many = facts(paused_functions=[f"f{number}" for number in range(200)], workers=0)
    found = advice.advice(many)
    assert len(found) == MOST
    assert [each.severity for each in found[:2]] == [ERROR, WARNING]


def test_each_sentence_names_a_page_that_is_there() -> None:
    peers = (
        peer(state="down", clock=9.0), peer(state="rejected"),
        peer(figures=Figures(workers=1, running=1, oldest_waiting=99.0, free=1, min_free=2)),
        peer(figures=Figures(free=3, min_free=2)),
    )  # fmt: skip
    wrong = {"workers": 0, "refuses": "it is closed", "paused": True, "certificate_until": NOW, "uptime": 100.0}
    found = advice.advice(facts(peers=peers, nodes={HERE: []}, given_up=2, undelivered=1, lacking={"f": 1}, **wrong))
    assert len({each.kind for each in found}) == 13
    for each in found:
        name, anchor = each.page.split("#")
        assert anchor in anchors(f"docs/{name}"), each


def test_lengths_and_sizes_are_said_as_people_say_them() -> None:
    assert [length(seconds) for seconds in (0.4, 59, 60, 7140, 7200, 86400, 172800)] == [
        "0 s", "59 s", "1 min", "119 min", "2 h", "24 h", "2 days",
    ]  # fmt: skip
    assert [byte_size(count) for count in (0, 1 << 20, 5 << 30)] == ["0 bytes", "1.0 MiB", "5.0 GiB"]
