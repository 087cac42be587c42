"""Many tasks in one call, to a real node: they run, they are fast, and after a kill -9 each is where the call said it is."""

import threading
import time
from typing import Any

import pytest
from support import PATIENCE, RunningNode
from watch import NOTES, notes, wait_for_notes, wait_until_idle

import spoolnode
from spoolnode import client

APP = (
    NOTES
    + """
def spooler(env):
    note(env[b"n"].decode())

import uwsgi
uwsgi.spooler = spooler
"""
)


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"n": str(number)} for number in range(count)]


def test_tasks_that_were_sent_together_run_in_order(node: RunningNode) -> None:
    node.start("--workers", "1", app=APP)
    ids = spoolnode.send_many(numbered(2000), via=node.via, send_timeout=PATIENCE)
    client.close()
    assert len(set(ids)) == 2000
    wait_until_idle(node)
    assert notes(node) == [str(number) for number in range(2000)]


@pytest.mark.slow
def test_many_together_are_at_least_five_times_as_fast_as_one_by_one(node: RunningNode) -> None:
    """Twenty times, in fact, on a quiet machine."""
    node.start()
    tasks = numbered(300)
    for task in tasks[:10]:
        spoolnode.send_to_spooler(task, via=node.via)
    began = time.perf_counter()
    for task in tasks:
        spoolnode.send_to_spooler(task, via=node.via)
    one_by_one = len(tasks) / (time.perf_counter() - began)
    together = max(speed_together(node) for _ in range(3))  # one of them may have been held up
    client.close()
    assert together > 5 * one_by_one


def speed_together(node: RunningNode) -> float:
    """Tasks per second in one call."""
    many = numbered(10_000)
    began = time.perf_counter()
    spoolnode.send_many(many, via=node.via, send_timeout=PATIENCE)
    return len(many) / (time.perf_counter() - began)


@pytest.mark.slow
def test_kill_9_amid_many_leaves_each_where_the_error_says(node: RunningNode) -> None:
    node.start(app=APP)
    count = 60_000
    killer = threading.Thread(target=lambda: (wait_for_notes(node, ["0"]), node.kill9()))
    killer.start()
    with pytest.raises(spoolnode.NotAllStored) as caught:
        spoolnode.send_many(numbered(count), via=node.via, send_timeout=PATIENCE)
    killer.join()
    client.close()
    said = caught.value
    assert len(said.stored) + len(said.in_doubt) + len(said.not_stored) == count
    node.start(app=APP)
    wait_until_idle(node)
    ran = {int(number) for number in notes(node)}
    assert said.stored.keys() <= ran
    assert not ran & said.not_stored.keys()
