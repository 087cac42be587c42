"""The node's numbers in Prometheus' text format."""

from collections.abc import Iterator
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

CONTENT_TYPE = CONTENT_TYPE_LATEST

_GAUGES = {
    "waiting": "Tasks that are ready and wait for a worker",
    "running": "Tasks that run now",
    "later": "Tasks that wait for their time, or for their next attempt",
    "retrying": "Tasks that did not end well and will be tried again",
    "dead": "Tasks that were given up",
    "corrupt": "Files that could not be read",
    "workers": "Workers that are up",
    "old_workers": "Workers from before a reload that still finish what they run",
    "connections": "Open connections",
    "oldest_waiting": "Seconds that the oldest ready task has waited",
    "free": "Bytes free on the disk of the spool",
    "min_free": "Bytes free below which intake stops",
    "uptime": "Seconds since the start",
}
_COUNTERS = {
    "accepted": "Tasks accepted over a socket",
    "found": "Tasks found as files in the spool",
    "done": "Tasks that ended well",
    "failed": "Attempts that failed",
    "given_up": "Tasks moved to dead/",
    "forwarded": "Tasks handed to other nodes",
    "repeats": "Tasks that came over a link a second time, and were not stored again",
    "handshake_failures": "TLS connections that ended before both sides had shown who they are",
    "worker_deaths": "Workers that died unasked",
    "log_dropped": "Lines of the log that could not be written",
    "task_seconds": "Seconds that tasks ran",
}


class _Snapshot:
    """One status, as a collector."""

    def __init__(self, status: dict[str, Any]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """The metrics of this snapshot."""
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f"spoolnode_{name}", text, value=float(self._status[name] or 0))
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"spoolnode_{name}", text, value=float(self._status[name]))
        refused = CounterMetricFamily("spoolnode_refused", "Requests refused, by reason", labels=["reason"])
        for reason, count in self._status["refused"].items():
            refused.add_metric([reason], count)
        yield refused
        peers = GaugeMetricFamily("spoolnode_peers", "Other nodes that are known, by state", labels=["state"])
        for state, count in self._status.get("peers", {}).items():
            peers.add_metric([state], count)
        yield peers
        yield from self._outbox()

    def _outbox(self) -> Iterator[Metric]:
        """The metrics of the outbox and its links, by destination."""
        outbox = GaugeMetricFamily("spoolnode_outbox", "Tasks that wait for a peer", labels=["destination"])
        for destination, count in self._status["outbox"].items():
            outbox.add_metric([destination], count)
        yield outbox
        failures = GaugeMetricFamily("spoolnode_link_failures", "Failed attempts in a row to reach it", labels=["destination"])
        for destination, link in self._status.get("links", {}).items():
            failures.add_metric([destination], link["failures"])
        yield failures


def render(status: dict[str, Any]) -> bytes:
    """The text that Prometheus reads."""
    registry = CollectorRegistry()
    registry.register(_Snapshot(status))
    return generate_latest(registry)
