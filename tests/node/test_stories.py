"""The steps on several nodes are one story, whatever their clocks say."""

from typing import Any

import pytest

from spoolnode.node.control.stories import as_one_story

A, B, C = "a" * 12, "b" * 12, "c" * 12


def steps(*kinds: str, at: float = 0.0) -> list[dict[str, Any]]:
    """Steps of one node, a second apart; `forwarded C` is to that node."""
    told = []
    for count, kind in enumerate(kinds):
        event, _, peer = kind.partition(" ")
        more = {"peer": {"A": A, "B": B, "C": C}[peer]} if peer else {}
        told.append({"at": at + count, "event": event, "origin_id": f"{A}_1_2", **more})
    return told


def events(told: dict[str, list[dict[str, Any]]]) -> list[str]:
    return [step["event"] for step in as_one_story(told)]


@pytest.mark.parametrize("ahead", [-3600.0, 0.0, 3600.0])
@pytest.mark.parametrize("asked", [[A, B], [B, A]])
def test_a_node_that_got_a_task_goes_on_where_it_was_forwarded(ahead: float, asked: list[str]) -> None:
    told = {A: steps("accepted", "forwarded B"), B: steps("accepted", "attempt", "dead", at=ahead)}
    assert events({node: told[node] for node in asked}) == ["accepted", "forwarded", "accepted", "attempt", "dead"]


def test_a_task_that_comes_back_goes_on_where_it_was() -> None:
    told = {A: steps("accepted", "forwarded B", "accepted", "done"), B: steps("accepted", "forwarded A", at=500.0)}
    assert events(told) == ["accepted", "forwarded", "accepted", "forwarded", "accepted", "done"]


def test_steps_after_a_node_that_does_not_answer_are_not_lost() -> None:
    told = {A: steps("accepted", "forwarded C"), B: steps("accepted", "done")}
    assert events(told) == ["accepted", "forwarded", "accepted", "done"]
    assert not as_one_story({A: []})
