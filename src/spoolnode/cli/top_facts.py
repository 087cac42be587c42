"""The lines of `top`: what a node tells through its API, in tables for people."""

import time
from typing import Any, NamedTuple

from spoolnode.cli.printing import ago, moment
from spoolnode.client.control import ask

ASK_SECONDS = 5.0
MOST_ROWS = 100
"""Lines of each table."""
UP = ("up", "leaving")


class Line(NamedTuple):
    """One line of a table."""

    key: str
    """Stays the same as long as it is about the same."""
    cells: tuple[str, ...]
    function: str = ""
    """The function that it is about..."""
    task: str = ""
    """...the task, by its id..."""
    error: str = ""
    """...the error of dead tasks..."""
    about: tuple[tuple[str, str], ...] = ()
    """...and all else that is known of it: names and values."""


class Facts(NamedTuple):
    """A look at a node."""

    node: dict[str, Any]
    peers: list[dict[str, Any]]
    functions: list[dict[str, Any]]
    running: list[dict[str, Any]]
    dead: list[dict[str, Any]]
    warnings: list[str]
    """The warnings of this node: each says what is wrong in the cluster and what to do, the worst first."""


def facts_of(root: str) -> Facts:
    """Asks the node. Raises `NotRunning`, `ControlError`."""

    def items(path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = ask(root, "GET", path, ASK_SECONDS)["items"]
        return found

    node = ask(root, "GET", "/node", ASK_SECONDS)
    running = items(f"/tasks?state=running&limit={MOST_ROWS}") if node["running"] else []
    in_store = (node["store"] or {}).get("tasks") or {}
    dead = items("/dead") if node["dead"] or in_store.get("dead") else []
    return Facts(node, items("/nodes"), items("/functions"), running, dead, [row["text"] for row in items("/warnings")])


def headline(facts: Facts) -> str:
    """The node in a line of 80 characters."""
    node = facts.node
    rates = node["rates"]
    state = "" if node["state"] == "running" else f" {node['state'].upper()}"
    tasks = f"{node['waiting']} wait  {node['later']} later  {node['retrying']} retry  {node['dead']} dead"
    speed = f"in {rates['accepted_per_second']:.1f}/s  done {rates['done_per_second']:.1f}/s"
    return f"{node['name']}{state}  up {ago(node['uptime_seconds'], units=1)}  {tasks}  {speed}"


MOST_WARNINGS = 3
"""Lines of them on the first screen."""


def warnings(facts: Facts) -> str:
    """The first warnings, each a line that the screen may cut, and how many there are besides."""
    lines = [f"! {text}" for text in facts.warnings]
    if len(lines) > MOST_WARNINGS:
        more = len(lines) - MOST_WARNINGS + 1
        lines[MOST_WARNINGS - 1 :] = [f"! {more} more warnings: w shows them"]
    return "\n".join(lines)


NODES = ("NODE", "STATE", "FOR", "RUN/WRK", "WAIT", "OUTBOX", "DEAD", "WHY")


def nodes(facts: Facts) -> list[Line]:
    """This node, then the others, then what they share."""
    node = facts.node
    work = f"{node['running']}/{node['workers']}"
    up = ago(node["uptime_seconds"], units=1)
    counts = (str(node["waiting"]), str(node["outbox_total"]), str(node["dead"]))
    cells = (f"{node['name']} (here)", node["state"], up, work, *counts, "")
    store = [] if node["store"] is None else [_store(node["store"])]
    return [Line(node["id"], cells, about=_about(node)), *(_peer(peer) for peer in facts.peers[:MOST_ROWS]), *store]


def _store(store: dict[str, Any]) -> Line:
    """The common store: the tasks that nodes hold run, or are about to."""
    state, tasks = "up" if store["there"] else "AWAY", store["tasks"] or {}
    held, ready, dead = (_known(tasks.get(name)) for name in ("held", "ready", "dead"))
    return Line("store", ("store", state, "", held, ready, "", dead, store["reason"]), about=_about(store))


def _peer(peer: dict[str, Any]) -> Line:
    state = peer["state"] if peer["state"] in UP else peer["state"].upper()
    there = peer["state"] in UP
    cells = (
        peer["name"] or peer["address"], state, ago(peer["since_seconds"], units=1),
        f"{_known(peer['running'])}/{peer['workers']}" if there else "-", str(peer["waiting"]) if there else "-",
        str(peer["outbox"]), _known(peer["dead"]), peer["reason"],
    )  # fmt: skip
    return Line(peer["id"] or peer["address"], cells, about=_about(peer))


def _known(count: int | None) -> str:
    return "-" if count is None else str(count)


FUNCTIONS = ("FUNCTION", "RUNNING", "HELD BACK", "DEAD", "")


def functions(facts: Facts) -> list[Line]:
    """The functions that are limited, paused, run, or have dead tasks."""
    return [
        Line(
            row["name"],
            (row["name"], str(row["running"]), str(row["held_back"]), str(row["dead"]), "PAUSED" if row["paused"] else ""),
            row["name"],
        )
        for row in facts.functions[:MOST_ROWS]
    ]


RUNNING = ("WORKER", "RUNS", "FOR", "HOW FAR", "ID")


def running(facts: Facts) -> list[Line]:
    """Each task that runs, by worker; the others are idle."""
    return [
        Line(
            row["id"],
            (str(row["worker"]), row["function"], ago(row["running_seconds"], units=1), _progress(row), row["id"]),
            row["function"],
            row["id"],
        )
        for row in sorted(facts.running, key=lambda row: (row["worker"], row["id"]))
    ]


def _progress(row: dict[str, Any]) -> str:
    return f"{row['progress']:.0%} {row.get('progress_text') or ''}".rstrip() if row.get("progress") is not None else ""


DEAD = ("DEAD", "OF", "DIED OF", "LAST")


def dead(facts: Facts) -> list[Line]:
    """The dead tasks by function and error."""
    now = time.time()
    return [
        Line(
            f"{row['function']} {row['error']}",
            (str(row["tasks"]), row["function"] or "-", row["error"] or "-", _since(row["newest_at"], now)),
            row["function"],
            error=row["error"],
        )
        for row in facts.dead[:MOST_ROWS]
    ]


TASKS = ("ID", "STATE", "SINCE", "ATTEMPTS", "REASON")


def tasks(rows: list[dict[str, Any]]) -> list[Line]:
    """Tasks in a list."""
    now = time.time()
    return [
        Line(
            row["id"],
            (row["id"], row["state"], _since(row["changed_at"] or row["accepted_at"], now), str(row["attempts"]), row["reason"]),
            row["function"],
            row["id"],
        )
        for row in rows
    ]


def story(task: dict[str, Any]) -> str:
    """A task for people: what is in it, and all that happened."""
    from spoolnode.cli.happened import detail_of

    skipped = ("story", "variables", "where")
    facts = [(name, str(value)) for name, value in task.items() if name not in skipped and value not in (None, [], "")]
    facts += [(f"  {name}", str(value)) for name, value in task.get("variables", {}).items()]
    lines = [f"{name:<14} {value}" for name, value in facts]
    for step in task["story"]:
        lines += ["", f"{moment(step['at'])}  {step.get('node', '')}  {step['event']} {detail_of(step)}".rstrip()]
        lines += [f"    {line}" for line in str(step.get("reason", "")).splitlines()[1:]]
    return "\n".join(lines)


def _about(row: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((name, str(value)) for name, value in row.items() if value not in (None, [], "", {}))


def _since(when: float | None, now: float) -> str:
    return ago(max(now - when, 0.0), units=1) if when is not None else ""
