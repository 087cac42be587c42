"""The checker of histories finds each broken promise, and allows what is allowed."""

import pytest
from history import Killed, Ledger, check, read_lines

CALM = """\
up 0 1.10.a -
start 1 1.10.a main
end 1 1.10.a main
start 2 1.10.a main
end 2 1.10.a main
"""


def problems_of(text: str, ledger: Ledger | None = None, killed: Killed | None = None, kept: set[int] | None = None) -> list[str]:
    """The findings of the checker if tasks 1 to 3 were sent, and 1 and 2 acknowledged."""
    ledger = ledger or Ledger(sent={1, 2, 3}, acknowledged={1: 0.0, 2: 0.0})
    return check(read_lines(text), ledger, killed or Killed(), kept or set())[1]


def test_a_calm_history_has_no_problem() -> None:
    assert problems_of(CALM) == []


def test_a_lost_task_is_found_unless_it_is_still_kept() -> None:
    lost = CALM.replace("2 1.10.a", "1 1.10.a").splitlines()[:3]
    assert problems_of("\n".join([*lost, ""])) == ["task 2 was acknowledged and is lost"]
    assert problems_of("\n".join([*lost, ""]), kept={2}) == []


def test_a_refused_task_that_ran_is_found() -> None:
    ledger = Ledger(sent={1, 2}, acknowledged={1: 0.0}, refused={2})
    assert problems_of(CALM, ledger) == ["task 2 was refused and ran"]


def test_a_task_of_unknown_fate_may_run_or_not() -> None:
    assert problems_of(CALM, Ledger(sent={1, 2, 3}, acknowledged={1: 0.0}, unknown={2, 3})) == []


def test_a_task_that_nobody_sent_is_found() -> None:
    assert problems_of(CALM + "start 9 1.10.a main\nend 9 1.10.a main\n") == ["task 9 ran and was never sent"]


def test_damage_is_found() -> None:
    assert problems_of(CALM + "bad 3 1.10.a main\n") == ["task 3 arrived damaged"]


AGAIN = "start 2 1.11.b main\nend 2 1.11.b main\n"


def test_a_task_may_run_again_when_its_end_was_the_last_word_of_a_killed_worker() -> None:
    assert problems_of(CALM + AGAIN, killed=Killed(workers={10})) == []
    assert problems_of(CALM + AGAIN, killed=Killed(nodes={1})) == []


def test_a_task_may_not_run_again_when_nobody_was_killed() -> None:
    assert problems_of(CALM + AGAIN) == ["task 2 ended in worker 1.10.a, which nobody killed, and ran again"]


def test_a_task_may_not_run_again_when_its_worker_went_on_after_its_end() -> None:
    text = CALM + AGAIN.replace("2 1.11", "1 1.11")
    assert problems_of(text, killed=Killed(workers={10})) == ["task 1 ran again, although worker 1.10.a went on after its end"]


def test_a_task_that_was_cut_may_run_again_and_only_after_a_kill() -> None:
    text = CALM.removesuffix("end 2 1.10.a main\n") + AGAIN
    assert problems_of(text, killed=Killed(workers={10})) == []
    assert problems_of(text) == ["task 2 never ended in worker 1.10.a, which nobody killed"]


def test_async_tasks_may_be_cut_together_but_only_the_last_end_is_in_doubt() -> None:
    text = "start 1 1.10.a async\nstart 2 1.10.a async\nend 1 1.10.a async\nstart 2 1.11.b async\nend 2 1.11.b async\n"
    assert problems_of(text, killed=Killed(workers={10})) == []
    again = text + "start 1 1.11.b async\nend 1 1.11.b async\n"
    assert problems_of(again, killed=Killed(workers={10})) == []
    later = again.replace("end 1 1.10.a async", "end 1 1.10.a async\nstart 3 1.10.a async")
    found = problems_of(later, killed=Killed(workers={10}))
    assert found == ["task 1 ran again, although worker 1.10.a went on after its end"]


@pytest.mark.parametrize("lane", ["main", "async"])
def test_a_task_that_ran_in_two_workers_at_once_is_found(lane: str) -> None:
    text = f"start 1 1.10.a {lane}\nstart 1 1.11.b {lane}\nend 1 1.10.a {lane}\nend 1 1.11.b {lane}\n"
    found = problems_of(text, Ledger(sent={1}), Killed(workers={10}))
    assert found == ["task 1 ran in two workers at once"]


def test_two_tasks_left_open_in_one_thread_are_found() -> None:
    text = "start 1 1.10.a main\nstart 2 1.10.a main\n"
    found = problems_of(text, Ledger(sent={1, 2}), Killed(workers={10}))
    assert found == ["worker 1.10.a left 2 tasks open in one thread"]
