"""The node's numbers for Prometheus: in its text format, or in OpenMetrics (which has units) for those that ask for it."""

import platform
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from spoolnode.node.spool.timings import BOUNDS, Histogram, OfFunction


class _Number(NamedTuple):
    """A number of the status, by its name there."""

    key: str
    text: str
    unit: str = ""
    """It ends the name of the metric."""


_GAUGES = (
    _Number("waiting", "Tasks that are ready and wait for a worker"),
    _Number("running", "Tasks that run now"),
    _Number("later", "Tasks that wait for their time, or for their next attempt"),
    _Number("retrying", "Tasks that did not end well and will be tried again"),
    _Number("dead", "Tasks in dead/ that were given up, not cancelled"),
    _Number("corrupt", "Files that could not be read"),
    _Number("workers", "Workers that are up"),
    _Number("old_workers", "Workers from before a reload that still finish what they run"),
    _Number("connections", "Open connections"),
    _Number("paused", "1 while everything is paused"),
    _Number("oldest_waiting", "How long the oldest ready task has waited", "seconds"),
    _Number("free", "Free on the disk of the spool", "bytes"),
    _Number("min_free", "Free on the disk below which intake stops", "bytes"),
    _Number("uptime", "Time since the start", "seconds"),
)
_FORMER = ("oldest_waiting", "free", "min_free", "uptime")
"""Those whose name had no unit at first: dashboards know them so."""
_COUNTERS = (
    _Number("accepted", "Tasks accepted over a socket"),
    _Number("found", "Tasks found as files in the spool"),
    _Number("done", "Tasks that ended well"),
    _Number("failed", "Attempts that failed"),
    _Number("given_up", "Tasks that were given up: their last attempt failed, or no other node took them in time"),
    _Number("undelivered", "Those of them that waited for another node"),
    _Number("cancelled", "Tasks that were cancelled"),
    _Number("forwarded", "Tasks handed to other nodes"),
    _Number("repeats", "Tasks that came over a link a second time, and were not stored again"),
    _Number("duplicates", "Tasks that were not run, because one with the same key waited already"),
    _Number("handshake_failures", "TLS connections that ended before both sides had shown who they are"),
    _Number("worker_deaths", "Workers that died, also those killed for a timeout or a cancelled task that went on"),
    _Number("log_dropped", "Lines of the log that could not be written"),
    _Number("history_dropped", "Tasks of whose story a part could not be written"),
    _Number("task_seconds", "Time that tasks ran", "seconds"),
)


class Numbers(NamedTuple):
    """Everything that metrics tell."""

    status: dict[str, Any]
    """With the links."""
    is_ready: bool
    """Whether tasks are taken, as `/readyz` says."""
    peers: list[dict[str, Any]]
    limits: dict[str, dict[str, float]]
    """The limits of functions, and how many of their tasks run."""
    held_back: dict[str, int]
    """How many tasks wait because of a pause or a limit of their function."""
    history_rows: int | None
    """None as long as it is not known."""
    functions: dict[str, OfFunction]


class _Snapshot:
    """These numbers, as a collector."""

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers
        self._status = numbers.status

    def collect(self) -> Iterator[Metric]:
        """The metrics of this snapshot."""
        status, numbers = self._status, self._numbers
        versions = {"version": status["version"], "python": platform.python_version()}
        yield InfoMetricFamily("spoolnode_build", "The versions of spoolnode and of its Python", value=versions)
        yield GaugeMetricFamily("spoolnode_ready", "1 while tasks are taken, as /readyz says", value=numbers.is_ready)
        yield from self._plain()
        refused = CounterMetricFamily("spoolnode_refused", "Requests refused, by reason", labels=["reason"])
        for reason, count in status["refused"].items():
            refused.add_metric([reason], count)
        yield refused
        paused = dict.fromkeys(status["paused_functions"], 1)
        yield _by("function", "paused_function", "1 for each function that is paused", paused)
        yield _by("function", "held_back", "Tasks that wait because of a pause or a limit of their function", numbers.held_back)
        for name, text in (
            ("running", "Tasks that run now, of a function with a limit"),
            ("at_once", "How many tasks of a function may run at once"),
            ("starts_per_second", "How many tasks of a function may start in a second"),
        ):
            yield _by("function", f"limit_{name}", text, _column(name, numbers.limits))
        yield from self._functions()
        yield from self._others()

    def _functions(self) -> Iterator[Metric]:
        """The histograms."""
        text = "How long tasks ran, by function and outcome"
        ran = HistogramMetricFamily("spoolnode_task_run", text, labels=["function", "outcome"], unit="seconds")
        text = "How long tasks were ready before their first attempt started, by function"
        waited = HistogramMetricFamily("spoolnode_task_wait", text, labels=["function"], unit="seconds")
        for name, found in self._numbers.functions.items():
            function = name.encode("utf-8", "replace").decode()
            for outcome, histogram in found.ran.items():
                ran.add_metric([function, outcome], _buckets(histogram), histogram.total)
            waited.add_metric([function], _buckets(found.waited), found.waited.total)
        yield ran
        yield waited

    def _plain(self) -> Iterator[Metric]:
        """The metrics without labels."""
        for key, text, unit in _GAUGES:
            value = float(self._status[key] or 0)
            yield GaugeMetricFamily(f"spoolnode_{key}", text, value, unit=unit)
            if key in _FORMER:
                yield GaugeMetricFamily(f"spoolnode_{key}", f"The former name of spoolnode_{key}_{unit}", value)
        for key, text, unit in _COUNTERS:
            yield CounterMetricFamily(f"spoolnode_{key}", text, float(self._status[key]), unit=unit)
        if (rows := self._numbers.history_rows) is not None:
            yield GaugeMetricFamily("spoolnode_history_rows", "Rows of the stories of tasks, counted once a minute", rows)
        if (until := self._status.get("certificate_until")) is not None:
            text = "When the certificate of this node expires, or a list of revoked ones"
            yield GaugeMetricFamily("spoolnode_certificate_expiry_timestamp", text, until, unit="seconds")

    def _others(self) -> Iterator[Metric]:
        """The metrics about other nodes."""
        status = self._status
        yield _by("state", "peers", "Other nodes that are known, by state", status.get("peers", {}))
        up = GaugeMetricFamily("spoolnode_peer_up", "1 for each other node that answers, 0 for the rest", labels=["peer", "id"])
        states = {(row["name"] or row["address"], row["id"]): row["state"] for row in self._numbers.peers}
        for labels, state in states.items():
            up.add_metric(labels, state == "up")
        yield up
        yield from self._store()
        yield _by("destination", "outbox", "Tasks that wait for a peer", status["outbox"])
        links = status.get("links", {})
        for key, name, text, unit in (
            ("in_doubt", "link_in_doubt", "Tasks of them that were sent and not answered, so that they go only there", ""),
            ("failures", "link_failures", "Failed attempts in a row to reach it", ""),
            ("retry_in", "link_retry", "Time until the next attempt to reach it", "seconds"),
        ):
            yield _by("destination", name, text, _column(key, links), unit)

    def _store(self) -> Iterator[Metric]:
        """The metrics about the common store. While it is away, numbers that are old by now are not told."""
        store = self._status.get("store")
        if store is None:
            return
        yield GaugeMetricFamily("spoolnode_store_up", "1 while the common store answers", store["there"])
        tasks = store["tasks"] if store["there"] else None
        yield _by("state", "store_tasks", "Tasks in the common store, of all nodes; over 10,000 perhaps an estimate", tasks or {})


def _by(label: str, name: str, text: str, values: Mapping[str, float], unit: str = "") -> Metric:
    gauge = GaugeMetricFamily(f"spoolnode_{name}", text, labels=[label], unit=unit)
    for own, value in values.items():
        gauge.add_metric([own], value)
    return gauge


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """The upper bound of each bucket, and how many values are not above it."""
    return [*zip([*map(str, BOUNDS), "+Inf"], accumulate(histogram.counts), strict=True)]


def _column(key: str, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """One number of each row that has it."""
    return {name: row[key] for name, row in rows.items() if row.get(key) is not None}


def render(numbers: Numbers, accept: str = "") -> tuple[bytes, str]:
    """The text that Prometheus reads, and its type. `accept`: what the one that asks understands."""
    registry = CollectorRegistry()
    registry.register(_Snapshot(numbers))
    ProcessCollector(registry=registry)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
