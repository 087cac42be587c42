"""Timers of the whole cluster, with real nodes: one of them runs each due time, and another one when that is killed."""

import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from parties import Make, Party
from quick import QUICK
from support import eventually

from spoolnode.client.control import ask

APP = """
import os
from spoolnode import current_task, timer

RAN = os.open(os.environ["RAN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

@timer(1, cluster=True)
def tick():
    os.write(RAN, f"{current_task().due_at.timestamp():.0f}\\n".encode())
"""


def joined(party: Make, name: str, *known: Party) -> Party:
    """A node that runs the application, and knows these."""
    node = party(name)
    node.timing = replace(QUICK, silence=1.5)
    return again(node, *known)


def again(node: Party, *known: Party) -> Party:
    """The same node, started."""
    places = [f"127.0.0.1:{other.port}" for other in known]
    return node.start(
        *(["--discover", f"static://{','.join(places)}"] if places else []), app=APP, RAN=str(node.directory / "ran")
    )


def row(node: Party) -> dict[str, Any]:
    """What it says of its timer."""
    (only,) = ask(str(node.spool), "GET", "/timers")["items"]
    assert isinstance(only, dict)
    return only


@pytest.mark.slow
def test_one_node_runs_each_due_time_and_another_goes_on_when_it_is_killed(party: Make) -> None:
    alpha = joined(party, "alpha")
    beta = joined(party, "beta", alpha)
    gamma = joined(party, "gamma", alpha, beta)
    nodes = (alpha, beta, gamma)
    for node in nodes:
        eventually(lambda node=node: row(node)["last_at"], f"{node.name} has heard that it was run")
    eventually(lambda: len({row(node)["by"] for node in nodes}) == 1, "all are told by which node it is run")
    (first,) = [node for node in nodes if node.name == row(alpha)["by"]]
    others = [node for node in nodes if node is not first]
    runs = len(first.ran)
    eventually(lambda: len(first.ran) >= runs + 3, f"{first.name} goes on")
    before = {due for node in nodes for due in node.ran}
    told = min(round(row(node)["last_at"]) for node in others)
    first.kill9()
    killed = time.time()
    eventually(lambda: sum(len({*node.ran} - before) for node in others) >= 5, "another one goes on")
    eventually(lambda: len({row(node)["by"] for node in others} - {first.name}) == 1, "and that is told")
    again(first, *others)
    eventually(lambda: row(others[0])["by"] == first.name, "it has its turn again")

    counts = Counter(int(due) for node in nodes for due in node.ran)
    missed = [due for due in range(min(counts), max(counts)) if due not in counts]
    assert not missed, f"{missed} of {sorted(counts)}"
    doubles = [due for due, count in counts.items() if count > 1]
    of_the_killed = [due for due in doubles if told < due <= killed]
    assert doubles == of_the_killed, f"only what {first.name} ran since {told} and had not told when it was killed"
