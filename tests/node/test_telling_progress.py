"""What a task says about its progress reaches the node rarely, but its last word always does."""

import threading
from typing import Any

import pytest
from support import eventually

from spoolnode.node.work import progress
from spoolnode.node.work.progress import ProgressHeard, ProgressTeller


def test_of_many_words_few_are_passed_on_and_the_last_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[list[Any]] = []
    rested = threading.Event()
    monkeypatch.setattr(progress, "sleep", lambda _seconds: rested.wait())
    teller = ProgressTeller(sent.append)
    teller.say("a", 0.0, "begins")
    eventually(lambda: sent, "the first word is passed on at once")
    for number in range(1, 1001):
        teller.say("a", number / 1000, f"page {number} of 1000")
    assert sent == [["progress", "a", 0.0, "begins"]]
    rested.set()
    eventually(lambda: sent[-1] == ["progress", "a", 1.0, "page 1000 of 1000"], "the last word is passed on")
    assert len(sent) == 2


def test_tasks_do_not_wait_for_one_another_and_a_long_text_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[list[Any]] = []
    teller = ProgressTeller(sent.append)
    for name in "abc":
        teller.say(name, 0.5, "x" * 1000)
    eventually(lambda: len(sent) == 3, "each is passed on")
    assert {len(text) for *_, text in sent} == {progress.MOST_TEXT}


def test_the_node_forgets_what_a_task_has_said_when_it_ends() -> None:
    heard = ProgressHeard()
    assert not heard
    heard.hear("a", 0.4, "page 4 of 10")
    assert heard.of("a")["progress_text"] == "page 4 of 10"
    heard.forget(["a", "b"])
    assert not heard
    assert heard.of("a") == {}
