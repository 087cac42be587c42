"""Which tasks of limited functions ask a common store, and which it has let run."""

import pytest

from spoolnode.node.spool.admissions import Admissions

FREE, ONE, TWO = 0, 1, 2
"""Functions; each number is the limit, too."""


@pytest.fixture
def admissions() -> Admissions:
    return Admissions(lambda function: function)


def function_of(ref: str) -> int:
    """The function of a task is in its name."""
    return int(ref[0])


def next_of(admissions: Admissions, *started: str) -> dict[int, list[str]]:
    """Those that ask next, when nothing else holds them back."""
    return admissions.next(lambda function: function, started)


def test_a_task_of_a_function_without_a_limit_starts_unasked_and_others_ask_once(admissions: Admissions) -> None:
    asked: list[None] = []
    admissions.asked = lambda: asked.append(None)
    assert admissions.sorted_out(["0a", "1b", "0c"], 5, function_of) == ["0a", "0c"]
    assert admissions.sorted_out(["1b"], 5, function_of) == []
    assert ("1b" in admissions, "0a" in admissions, len(admissions), len(asked)) == (True, False, 1, 1)
    assert admissions.admit("1b") == 5
    assert admissions.sorted_out(["1b"], 5, function_of) == ["1b"]
    assert "1b" not in admissions


def test_as_many_ask_as_may_start_here_with_those_that_are_admitted_and_have_not_started(admissions: Admissions) -> None:
    admissions.sorted_out(["2a", "2b", "2c", "1d", "1e"], 5, function_of)
    assert next_of(admissions) == {TWO: ["2a", "2b"], ONE: ["1d"]}
    admissions.admit("2a")
    assert next_of(admissions)[TWO] == ["2b"]
    assert next_of(admissions, "2a")[TWO] == ["2b", "2c"]
    assert admissions.next(lambda _: 0, []) == {TWO: [], ONE: []}


def test_when_one_is_over_others_ask_at_once(admissions: Admissions) -> None:
    admissions.sorted_out(["1a", "1b"], 5, function_of)
    admissions.admit("1a")
    asked: list[None] = []
    admissions.asked = lambda: asked.append(None)
    admissions.forget("1a")
    assert (len(asked), next_of(admissions)) == (1, {ONE: ["1b"]})
    admissions.forget("1b")
    assert len(asked) == 1


def test_all_places_are_here_when_as_many_run_as_may(admissions: Admissions) -> None:
    admissions.sorted_out(["2a", "2b", "1c"], 5, function_of)
    for ref in ("2a", "2b", "1c"):
        admissions.admit(ref)
    assert not admissions.has_all_places(TWO, {"2a", "1c"})
    assert admissions.has_all_places(TWO, {"2a", "2b"})


def test_those_of_a_lower_rank_ask_first_whenever_they_came(admissions: Admissions) -> None:
    admissions.sorted_out(["1a", "1b"], 5, function_of)
    admissions.sorted_out(["1c"], 2, function_of)
    assert next_of(admissions) == {ONE: ["1c"]}


def test_one_that_has_left_is_not_admitted_and_one_with_another_lease_asks_again(admissions: Admissions) -> None:
    admissions.sorted_out(["1a", "2b"], 5, function_of)
    admissions.forget("1a")
    assert admissions.admit("1a") is None
    assert not admissions.has_admitted("2b")
    admissions.admit("2b")
    assert admissions.has_admitted("2b")
    assert (admissions.revoke("2b"), admissions.revoke("2b"), admissions.revoke("1a")) == (True, False, False)
    assert admissions.sorted_out(["2b"], 5, function_of) == []
    admissions.admit("2b")
    admissions.forget("2b")
    assert admissions.sorted_out(["2b"], 5, function_of) == []
