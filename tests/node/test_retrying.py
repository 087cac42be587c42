"""The memory of tasks that will be tried again, and its cost."""

import tracemalloc

from spoolnode.node.spool.queue import Later
from spoolnode.node.spool.retrying import REASONS, Retrying
from spoolnode.node.spool.tasks import Batch


def test_who_failed_counts_until_it_ends_and_who_asked_does_not() -> None:
    retrying, batch, files = Retrying(), Batch(1), object()
    retrying.fail(batch, 64, "x_1_64", "no")
    retrying.fail(batch, 64, "x_1_64", "still no")
    assert (len(retrying), retrying.reason("x_1_64")) == (1, "still no")
    assert [retrying.ask(batch, 64, "x_1_64") for _ in range(3)] == [1, 2, 3]
    assert (len(retrying), retrying.reason("x_1_64")) == (0, "")
    retrying.fail(batch, 64, "x_1_64", "no")
    retrying.move(batch, 64, files, "uwsgi_spoolfile_on_x_1_64")
    assert len(retrying) == 1
    assert retrying.ask(files, "uwsgi_spoolfile_on_x_1_64", "x_1_64") == 1, "a failure ends a row of rounds"
    retrying.fail(files, "uwsgi_spoolfile_on_x_1_64", "x_1_64", "no")
    retrying.forget(files, ["another", "uwsgi_spoolfile_on_x_1_64"])
    assert len(retrying) == 0
    retrying.fail(batch, 1, "x_1_1", "no")
    retrying.drop(batch)
    assert len(retrying) == 0


def test_function_that_is_missing_is_told_until_its_task_runs_ends_or_fails_otherwise() -> None:
    retrying, batch, files = Retrying(), Batch(1), object()
    for ref in range(5):
        retrying.fail(batch, ref, f"x_1_{ref}", "no callable", "male" if ref else "")
    assert retrying.lacking == {"": 1, "male": 4}
    retrying.fail(batch, 0, "x_1_0", "another reason")
    retrying.fail(batch, 1, "x_1_1", "no callable", "male")
    retrying.move(batch, 2, files, "two")
    retrying.ask(batch, 3, "x_1_3")
    assert retrying.lacking == {"male": 3}
    retrying.forget(batch, [1, 0])
    retrying.drop(batch)
    assert retrying.lacking == {"male": 1}
    retrying.forget(files, ["two"])
    assert retrying.lacking == {}


def test_rounds_have_a_bound() -> None:
    retrying, batch = Retrying(), Batch(1)
    assert max(retrying.ask(batch, 64, "x") for _ in range(2000)) < 1000


def test_twenty_thousand_tasks_that_fail_with_long_reasons_cost_little_each() -> None:
    tasks = 20_000
    retrying, later, batches = Retrying(), Later(), [Batch(number) for number in range(tasks // 500)]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(tasks):
            batch, offset = batches[number % len(batches)], 1000 + number * 100
            retrying.fail(batch, offset, f"5116f1df999f_{batch.number}_{offset}", f"{number} said " + "x" * 12_000)
            later.add(1e9 + number, batch, offset, 0)
        reasons = REASONS * 4200
        each = (tracemalloc.get_traced_memory()[0] - before - reasons) / tasks
    finally:
        tracemalloc.stop()
    assert len(retrying) == tasks
    assert each < 400
    assert retrying.reason(f"5116f1df999f_{batches[(tasks - 1) % len(batches)].number}_{1000 + (tasks - 1) * 100}")
