"""The metrics say what the status says, in the form that Prometheus reads."""

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from spoolnode.node.control import metrics

STATUS: dict[str, Any] = {
    "waiting": 1, "running": 2, "later": 3, "retrying": 4, "dead": 5, "corrupt": 6, "workers": 7, "old_workers": 8,
    "connections": 9, "oldest_waiting": 10.5, "free": 11, "min_free": 12, "uptime": 13.25,
    "accepted": 14, "found": 15, "done": 16, "failed": 17, "given_up": 18, "forwarded": 19, "repeats": 20,
    "handshake_failures": 21, "worker_deaths": 22, "log_dropped": 23, "task_seconds": 24.125,
}  # fmt: skip
"""Numbers that all differ."""
NOTHING: dict[str, Any] = {"refused": {}, "outbox": {}}


def read(status: dict[str, Any]) -> dict[tuple[str, str], float]:
    """The text as Prometheus parses it: by name and label."""
    families = list(text_string_to_metric_families(metrics.render(status).decode()))
    assert all(family.documentation for family in families)
    samples = [sample for family in families for sample in family.samples]
    return {(sample.name, "".join(sample.labels.values())): sample.value for sample in samples}


def kinds(status: dict[str, Any]) -> dict[str, str]:
    return {family.name: family.type for family in text_string_to_metric_families(metrics.render(status).decode())}


def test_each_number_of_the_status_is_told_under_its_name() -> None:
    told = {name.removesuffix("_total"): value for (name, _), value in read({**STATUS, **NOTHING}).items()}
    assert told == {f"spoolnode_{name}": float(value) for name, value in STATUS.items()}


def test_what_only_grows_is_a_counter_and_what_is_now_is_a_gauge() -> None:
    told = kinds({**STATUS, **NOTHING})
    counters = {name for name, kind in told.items() if kind == "counter"}
    grows = ("accepted", "found", "done", "failed", "given_up", "forwarded", "repeats", "handshake_failures")
    assert counters == {f"spoolnode_{name}" for name in (*grows, "worker_deaths", "log_dropped", "task_seconds", "refused")}
    assert set(told.values()) == {"counter", "gauge"}


def test_node_in_which_nothing_waits_has_no_oldest_task() -> None:
    assert read({**STATUS, **NOTHING, "oldest_waiting": None})["spoolnode_oldest_waiting", ""] == 0.0


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("spoolnode_refused_total", {"refused": {"full": 3, "closed": 4}}),
        ("spoolnode_peers", {"peers": {"alive": 3, "dead": 4}}),
        ("spoolnode_outbox", {"outbox": {"alpha": 3, "tag:gpu": 4}}),
        ("spoolnode_link_failures", {"links": {"alpha": {"failures": 3}, "beta": {"failures": 4}}}),
    ],
)
def test_numbers_of_one_kind_are_told_apart_by_their_label(name: str, status: dict[str, Any]) -> None:
    told = read({**STATUS, **NOTHING, **status})
    assert sorted(value for (own, _), value in told.items() if own == name) == [3.0, 4.0]
    (given,) = status.values()
    assert {label for own, label in told if own == name} == set(given)


def test_destination_of_any_name_breaks_no_line() -> None:
    odd = 'a"b\\c\nd{}=,ä'
    assert read({**STATUS, **NOTHING, "outbox": {odd: 7}})["spoolnode_outbox", odd] == 7.0
