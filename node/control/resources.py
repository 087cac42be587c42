"""The shapes of `/api/v1`, which `openapi.json` describes: made here from the facts inside the node. Pure.

Names carry their units: `_seconds` is a length of time, `_at` a moment in seconds since 1970, `_bytes` a size, `_per_second` a
rate. Inside the node, and between nodes, names may be others: these are a promise to programs.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from spoolnode.node.control.function_hours import Runs, quantile
from spoolnode.node.control.pages import Listed
from spoolnode.node.figures import Figures
from spoolnode.node.spool.inspect import DEAD, LATER, WAITING_STATE
from spoolnode.node.spool.pauses import Paused
from spoolnode.node.story.ended import EndedTask

_NODE = {
    "uptime": "uptime_seconds", "oldest_waiting": "oldest_waiting_seconds", "free": "free_bytes", "min_free": "min_free_bytes",
    "pace": "pace_per_second", "time": "told_at", "certificate_until": "certificate_expires_at",
}  # fmt: skip
_NOT_OF_NODE = frozenset({"paused", "paused_functions"})
_OUTCOMES = ("done", "failed", "again", "dead")
_LENGTHS: Mapping[str, tuple[Callable[[Runs], Sequence[int]], float]] = {
    "run_p50_seconds": (attrgetter("ran"), 0.5),
    "run_p95_seconds": (attrgetter("ran"), 0.95),
    "wait_p50_seconds": (attrgetter("waited"), 0.5),
    "wait_p95_seconds": (attrgetter("waited"), 0.95),
}
"""How long half of the runs took, or had been ready, and how long 95 % of them."""
_FIGURES = {"oldest_waiting": "oldest_waiting_seconds", "free": "free_bytes", "min_free": "min_free_bytes"}
_NOT_OF_PEER = frozenset({"figures", "retry_in"})
_PEER = {"since": "since_seconds", "rtt": "rtt_seconds", "clock": "clock_ahead_seconds"}
_LINK = {"retry_in": "retry_in_seconds"}
_TASK = {"due": "due_at", "accepted": "accepted_at", "changed": "changed_at", "size": "size_bytes", "body_size": "body_bytes"}
_RUNNING = {"seconds": "running_seconds"}
_TIMER = {"next": "next_at", "last": "last_at"}
IN_STORE = "store"
"""In place of the file of a task: it is in the common store."""
NO_LINK = {
    "known": False,
    "name": "",
    "state": "none",
    "failures": 0,
    "retry_in": None,
    "reason": "this node is not in a cluster",
}
"""In place of the state of a link without a cluster."""


def _renamed(facts: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in facts.items()}


def of_node(status: Mapping[str, Any]) -> dict[str, Any]:
    """A node in numbers, without what tasks say of themselves."""
    numbers = {name: value for name, value in status.items() if name not in _NOT_OF_NODE}
    rates = {f"{name}_per_second": rate for name, rate in status["rates"].items()}
    paused = {"everything": status["paused"], "functions": status["paused_functions"]}
    return {
        "peers": {},
        "certificate_expires_at": None,
        "store": None,
        **_renamed(numbers, _NODE),
        "rates": rates,
        "pauses": paused,
    }


def of_peer(row: Mapping[str, Any]) -> dict[str, Any]:
    """Another node, as this one sees it."""
    told = {name: value for name, value in row.items() if name not in _NOT_OF_PEER}
    figures = row["figures"]
    return _renamed({**told, "running": figures.running, "dead": figures.dead, "page": row["page"] or None}, _PEER)


def of_this_in_cluster(status: Mapping[str, Any], address: str) -> dict[str, Any]:
    """This node, among all of its cluster."""
    return {
        "name": status["name"], "id": status["id"], "here": True, "address": address,
        "state": "up" if status["state"] == "running" else "leaving", "since_seconds": status["uptime"], "reason": "",
        "version": status["version"], "tags": sorted(status["tags"]), **_renamed(Figures.of(status)._asdict(), _FIGURES),
        "clock_ahead_seconds": None, "outbox": 0, "retry_in_seconds": None, "open": True, "page": None,
    }  # fmt: skip


def of_peer_in_cluster(row: Mapping[str, Any]) -> dict[str, Any]:
    """Another node, among all of the cluster."""
    same = {name: row[name] for name in ("name", "id", "address", "state", "reason", "version", "tags", "outbox")}
    return {
        **same, "here": False, "since_seconds": row["since"], **_renamed(row["figures"]._asdict(), _FIGURES),
        "clock_ahead_seconds": row["clock"], "retry_in_seconds": row["retry_in"], "open": row["open"],
        "page": row["page"] or None,
    }  # fmt: skip


def of_history(
    at: float, nodes: Mapping[str, Sequence[Figures | None]], functions: Mapping[str, Sequence[Runs | None]]
) -> dict[str, Any]:  # fmt: skip
    """The last hour, minute by minute. `at`: its end."""
    rates = ("in_per_second", "done_per_second", "failed_per_second")
    rows = [{"id": node_id, **{name: _column(points, name) for name in rates}} for node_id, points in nodes.items()]
    return {"ends_at": at, "nodes": rows, "functions": [_of_minutes(name, functions[name]) for name in sorted(functions)]}


def _of_minutes(name: str, minutes: Sequence[Runs | None]) -> dict[str, Any]:
    """The runs of a function, minute by minute."""
    lengths = [None if runs is None else _lengths(runs) for runs in minutes]
    return {
        "name": name, **{what: _column(minutes, what) for what in _OUTCOMES},
        **{what: [None if found is None else found[what] for found in lengths] for what in _LENGTHS},
    }  # fmt: skip


def _lengths(runs: Runs) -> dict[str, float | None]:
    return {what: quantile(counts(runs), part) for what, (counts, part) in _LENGTHS.items()}


def _column(points: Sequence[Any], name: str) -> list[Any]:
    return [None if point is None else getattr(point, name) for point in points]


def of_link(destination: str, waiting: int, in_doubt: int, state: Mapping[str, Any] | None) -> dict[str, Any]:
    """The number of tasks that wait for a destination, and the state of the way there."""
    return {"destination": destination, "waiting": waiting, "in_doubt": in_doubt, **_renamed(state or NO_LINK, _LINK)}


def of_timer(row: Mapping[str, Any]) -> dict[str, Any]:
    """A timer of the application."""
    return _renamed(row, _TIMER)


def of_task(
    listed: Listed, running: Mapping[str, Mapping[str, Any]], paused: Paused, error: Callable[[str], str]
) -> dict[str, Any]:  # fmt: skip
    """A task in a list.

    Args:
        running: facts about the tasks that run, by their ids.
        error: returns why a task that waits failed the last time; empty if that is not known.
    """
    info = listed.info
    reason = listed.reason or ("" if info.state == DEAD else error(info.id).partition("\n")[0])
    row = _renamed(info._asdict(), _TASK) | {"function": listed.function, "reason": reason}
    is_held_back = paused.everything or listed.function in paused.functions
    row["paused"] = info.state in (WAITING_STATE, LATER) and info.where != IN_STORE and is_held_back
    is_running = info.id in running and info.state != DEAD
    return row | of_run(running[info.id]) | {"paused": False} if is_running else row


def of_ended(task: EndedTask) -> dict[str, Any]:
    """An end of a task in a list."""
    return {
        "id": task.id, "state": "ended", "end": task.end, "ended_at": task.at, "function": task.function,
        "reason": task.reason, "run_seconds": task.seconds, "destination": task.to,
    }  # fmt: skip


def of_run(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts about a task that runs."""
    return {"state": "running", **_renamed(facts, _RUNNING)}


def of_contents(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of a task."""
    return _renamed(facts, _TASK)


def of_pauses(paused: Paused) -> dict[str, Any]:
    """The pauses of a node."""
    return {"everything": paused.everything, "functions": sorted(paused.functions)}


def of_function(
    name: str, *, is_paused: bool, limit: Mapping[str, float] | None, held_back: int, running: int, dead: int, hour: Runs
) -> dict[str, Any]:  # fmt: skip
    """A function whose tasks are here, or that is limited or paused."""
    bounds = None if limit is None else {what: limit.get(what) for what in ("at_once", "starts_per_second")}
    return {
        "name": name, "paused": is_paused, "limit": bounds, "held_back": held_back, "running": running, "dead": dead,
        "last_hour": {
            **{what: getattr(hour, what) for what in _OUTCOMES}, **_lengths(hour),
        },
    }  # fmt: skip
