"""The metrics say what the status says, in the form that Prometheus reads."""

import re
from typing import Any

import pytest
from documents import page, table
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from spoolnode.node.control import metrics
from spoolnode.node.control.metrics import Numbers
from spoolnode.node.spool.timings import Histogram, OfFunction

STATUS: dict[str, Any] = {
    "waiting": 1, "running": 2, "later": 3, "retrying": 4, "dead": 5, "corrupt": 6, "workers": 7, "old_workers": 8,
    "connections": 9, "oldest_waiting": 10.5, "free": 11, "min_free": 12, "uptime": 13.25,
    "accepted": 14, "found": 15, "done": 16, "failed": 17, "given_up": 18, "forwarded": 19, "repeats": 20,
    "handshake_failures": 21, "worker_deaths": 22, "log_dropped": 23, "history_dropped": 25, "task_seconds": 24.125,
    "duplicates": 26, "paused": 1, "undelivered": 27, "cancelled": 28,
}  # fmt: skip
"""Numbers that all differ."""
NOTHING: dict[str, Any] = {"refused": {}, "outbox": {}, "paused_functions": [], "version": "1.2.3"}
FORMER = {"oldest_waiting": "seconds", "free": "bytes", "min_free": "bytes", "uptime": "seconds"}
"""Metrics with two names, the former one and one with the unit."""


def numbers(status: dict[str, Any], **others: Any) -> Numbers:
    """They have nothing but the status, unless `others` say more."""
    parts = {"is_ready": True, "peers": [], "limits": {}, "held_back": {}, "history_rows": None, "functions": {}, **others}
    return Numbers(status=status, **parts)


def families(told: Numbers) -> list[Metric]:
    """Ours, as Prometheus parses them."""
    body, _ = metrics.render(told)
    return [family for family in text_string_to_metric_families(body.decode()) if family.name.startswith("spoolnode_")]


def read(status: dict[str, Any], **others: Any) -> dict[tuple[str, str], float]:
    """The samples by name and labels."""
    found = families(numbers(status, **others))
    assert all(family.documentation for family in found)
    samples = [sample for family in found for sample in family.samples]
    return {(sample.name, " ".join(sample.labels.values())): sample.value for sample in samples}


def kinds(status: dict[str, Any]) -> dict[str, str]:
    return {family.name: family.type for family in families(numbers(status))}


def test_each_number_of_the_status_is_told_under_its_name() -> None:
    told = {name.removesuffix("_total"): value for (name, _), value in read({**STATUS, **NOTHING}).items()}
    with_units = {f"{name}_{unit}": STATUS[name] for name, unit in FORMER.items()}
    here = {**STATUS, **with_units, "ready": 1, "build_info": 1}
    assert told == {f"spoolnode_{name}": float(value) for name, value in here.items()}


def test_what_only_grows_is_a_counter_and_what_is_now_is_a_gauge() -> None:
    told = kinds({**STATUS, **NOTHING})
    counters = {name for name, kind in told.items() if kind == "counter"}
    grows = ("accepted", "found", "done", "failed", "given_up", "forwarded", "repeats", "duplicates", "handshake_failures")
    lost = ("worker_deaths", "log_dropped", "history_dropped", "undelivered", "cancelled")
    assert counters == {f"spoolnode_{name}" for name in (*grows, *lost, "task_seconds", "refused")}
    assert set(told.values()) == {"counter", "gauge", "histogram"}


def test_each_paused_function_is_told_by_its_name() -> None:
    told = read({**STATUS, **NOTHING, "paused": False, "paused_functions": ["shop:mail"]})
    assert told["spoolnode_paused_function", "shop:mail"] == 1.0
    assert told["spoolnode_paused", ""] == 0.0


def test_node_in_which_nothing_waits_has_no_oldest_task() -> None:
    assert read({**STATUS, **NOTHING, "oldest_waiting": None})["spoolnode_oldest_waiting_seconds", ""] == 0.0


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("spoolnode_refused_total", {"refused": {"full": 3, "closed": 4}}),
        ("spoolnode_peers", {"peers": {"alive": 3, "dead": 4}}),
        ("spoolnode_outbox", {"outbox": {"alpha": 3, "tag:gpu": 4}}),
        ("spoolnode_link_failures", {"links": {"alpha": {"failures": 3}, "beta": {"failures": 4}}}),
        ("spoolnode_link_in_doubt", {"links": {"alpha": {"in_doubt": 3}, "beta": {"in_doubt": 4}}}),
        ("spoolnode_link_retry_seconds", {"links": {"alpha": {"retry_in": 3}, "beta": {"retry_in": 4}}}),
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


def test_link_that_is_not_waiting_for_its_next_attempt_has_no_time_until_it() -> None:
    told = read({**STATUS, **NOTHING, "links": {"alpha": {"failures": 0, "in_doubt": 0, "retry_in": None}}})
    assert ("spoolnode_link_retry_seconds", "alpha") not in told
    assert told["spoolnode_link_in_doubt", "alpha"] == 0.0


def test_each_peer_is_up_or_not_also_one_that_has_never_answered() -> None:
    rows = [
        {"name": "beta", "id": "b1", "address": "10.0.0.2:1", "state": "up"},
        {"name": "gamma", "id": "c1", "address": "10.0.0.3:1", "state": "suspect"},
        {"name": "", "id": "", "address": "10.0.0.4:1", "state": "unknown"},
    ]
    told = read({**STATUS, **NOTHING}, peers=rows)
    found = {labels: value for (name, labels), value in told.items() if name == "spoolnode_peer_up"}
    assert found == {"b1 beta": 1.0, "c1 gamma": 0.0, " 10.0.0.4:1": 0.0}


def test_the_tasks_of_the_store_are_told_by_state_and_not_while_it_is_away() -> None:
    counted = {"tasks": {"ready": 7, "later": 5, "held": 2, "dead": 1}}
    told = read({**STATUS, **NOTHING, "store": {"there": True, **counted}})
    assert {labels: value for (name, labels), value in told.items() if name == "spoolnode_store_tasks"} == {
        "ready": 7.0, "later": 5.0, "held": 2.0, "dead": 1.0,
    }  # fmt: skip
    assert told["spoolnode_store_up", ""] == 1.0
    for status in ({"there": False, **counted}, {"there": False, "tasks": None}):
        told = read({**STATUS, **NOTHING, "store": status})
        assert {name: value for (name, _), value in told.items() if "store" in name} == {"spoolnode_store_up": 0.0}
    assert not [name for name, _ in read({**STATUS, **NOTHING}) if "store" in name]


def test_limits_and_what_they_hold_back_are_told_by_function() -> None:
    limits = {"shop:mail": {"running": 1, "at_once": 2}, "shop:pay": {"running": 0, "starts_per_second": 0.5}}
    told = read({**STATUS, **NOTHING}, limits=limits, held_back={"shop:mail": 7})
    assert {key: value for key, value in told.items() if key[1].startswith("shop:")} == {
        ("spoolnode_held_back", "shop:mail"): 7.0,
        ("spoolnode_limit_running", "shop:mail"): 1.0,
        ("spoolnode_limit_at_once", "shop:mail"): 2.0,
        ("spoolnode_limit_running", "shop:pay"): 0.0,
        ("spoolnode_limit_starts_per_second", "shop:pay"): 0.5,
    }


def test_runs_and_waits_are_histograms_by_function() -> None:
    mail = OfFunction(ran={"done": Histogram(), "dead": Histogram()})
    mail.ran["done"].add(0.3, 2)
    mail.ran["dead"].add(9000.0)
    mail.waited.add(0.5)
    told = families(numbers({**STATUS, **NOTHING}, functions={"shop:mail": mail}))
    runs, waits = (next(family for family in told if family.name == f"spoolnode_task_{name}_seconds") for name in ("run", "wait"))
    assert runs.type == waits.type == "histogram"
    samples = {(sample.name.removeprefix("spoolnode_task_run"), *sample.labels.values()): sample.value for sample in runs.samples}
    assert samples["_seconds_sum", "shop:mail", "done"] == 0.6
    assert samples["_seconds_count", "shop:mail", "dead"] == 1
    found = {sample.labels["le"]: sample.value for sample in waits.samples if sample.name.endswith("_bucket")}
    assert (found["0.1"], found["0.5"], found["1.0"], found["+Inf"]) == (0, 1, 1, 1)


def test_history_and_certificate_are_told_by_nodes_that_have_them() -> None:
    told = read({**STATUS, **NOTHING, "certificate_until": 1.8e9}, history_rows=30)
    assert told["spoolnode_history_rows", ""] == 30.0
    assert told["spoolnode_certificate_expiry_timestamp_seconds", ""] == 1.8e9
    assert not {name for name, _ in read({**STATUS, **NOTHING}) if "history_rows" in name or "certificate" in name}


def test_node_that_takes_no_tasks_is_told_from_one_that_does() -> None:
    assert read({**STATUS, **NOTHING}, is_ready=False)["spoolnode_ready", ""] == 0.0


def test_who_understands_units_is_told_them_and_each_name_ends_with_its_unit() -> None:
    status = {**STATUS, **NOTHING, "certificate_until": 1.8e9, "links": {"alpha": {"retry_in": 3.5}}}
    body, kind = metrics.render(numbers(status), "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    told = {family.name: family.unit for family in openmetrics.text_string_to_metric_families(body.decode()) if family.unit}
    assert all(name.endswith(f"_{unit}") for name, unit in told.items())
    assert {f"spoolnode_{name}_{unit}": unit for name, unit in FORMER.items()}.items() <= told.items()
    assert told["spoolnode_task_seconds"] == told["spoolnode_link_retry_seconds"] == "seconds"


def test_process_tells_its_cpu_memory_descriptors_and_start() -> None:
    body, _ = metrics.render(numbers({**STATUS, **NOTHING}))
    told = {family.name for family in text_string_to_metric_families(body.decode())}
    assert {f"process_{name}" for name in ("cpu_seconds", "resident_memory_bytes", "open_fds", "start_time_seconds")} <= told


def test_page_has_a_row_for_each_metric_with_its_type() -> None:
    status = {**STATUS, **NOTHING, "certificate_until": 1.8e9, "store": {"there": True, "tasks": {"dead": 1}}}
    body, _ = metrics.render(numbers(status, history_rows=30))
    told = dict(re.findall(r"^# TYPE (spoolnode_\w+) (\w+)$", body.decode(), flags=re.M))
    former = {f"spoolnode_{name}" for name in FORMER}
    listed = {row[0].strip("`"): row[1] for row in table(page("docs/metrics.md")) if row[0].startswith("`spoolnode_")}
    assert listed == {name: kind for name, kind in told.items() if name not in former}
