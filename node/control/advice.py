"""Advice for people in sentences: a trouble, and its remedy, from the numbers of the cluster. Pure."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from spoolnode.node.control.function_hours import Runs, together
from spoolnode.node.figures import CLOCK_SECONDS, Figures
from spoolnode.node.spool.timings import NO_FUNCTION, OTHER

ERROR, WARNING = "error", "warning"
OLD_SECONDS = 60.0
"""A task that has been ready for longer, while all workers are busy, waits too long."""
START_SECONDS = 15.0
"""After this time a worker should be up."""
NEAR = 5
"""A disk is nearly full with less than so many times `--min-free`."""
CERTIFICATE_SECONDS = 14 * 86400.0
"""A certificate that expires sooner should be renewed."""
HOUR = 3600.0
MOST = 50
"""Sentences that are told at once."""


class Advice(NamedTuple):
    """One sentence or two."""

    kind: str
    severity: str
    text: str
    """The trouble and its remedy."""
    page: str
    """The page of docs/ about it."""
    node: str = ""
    """The name of the node that it is about, or its address."""
    function: str = ""


class Situation(NamedTuple):
    """All that the sentences are made from."""

    now: float
    """In seconds since 1970."""
    status: Mapping[str, Any]
    """Of this node."""
    wants_workers: bool
    refuses: str
    """Why this node takes no tasks; empty if it does."""
    peers: Sequence[Mapping[str, Any]]
    nodes: Mapping[str, Sequence[Figures | None]]
    """The last hour of each node, by its id."""
    functions: Mapping[str, Sequence[Runs | None]]
    """The last hour of each function on this node."""
    lacking: Mapping[str, int]
    """How many tasks wait here for which the application has no callable, by the functions that they name."""


def advice(facts: Situation) -> list[Advice]:
    """All of it, the worst first."""
    found = [*_of_peers(facts), *_of_deaths(facts), *_of_this_node(facts), *_of_numbers(facts), *_of_pauses(facts.status)]
    found += _of_lacking(facts.status["name"], facts.lacking)
    return sorted(found, key=lambda each: each.severity != ERROR)[:MOST]


def _of_peers(facts: Situation) -> Iterator[Advice]:
    """Nodes that cannot be reached, and clocks that are off."""
    for row in facts.peers:
        name, waiting = _name(row), row["outbox"]
        severity = ERROR if waiting else WARNING
        for_it = f", {_tasks_wait(waiting)} for it here" if waiting else ""
        if row["state"] == "down":
            text = f"{name} has been down for {length(row['since'])}{for_it}. Start it, or, if it will never come back: "
            yield Advice("node_down", severity, f"{text}spoolnode forget {name}", "cluster.md#when-the-other-node-is-down", name)
        elif row["state"] == "rejected":
            text = f"{name} gets nothing{for_it}: {row['reason']}"
            yield Advice("node_rejected", severity, text, "cluster.md#names", name)
        elif row["name"] == facts.status["name"]:
            text = f"{row['address']} ({row['id']}) is named {name}, as this node is, so each of them gets tasks for that name. "
            yield Advice("same_name", WARNING, f"{text}Start one with another --name", "cluster.md#names", name)
        if (ahead := row["clock"]) is not None and abs(ahead) > CLOCK_SECONDS:
            which = "ahead of" if ahead > 0 else "behind"
            text = f"The clock of {name} is {length(abs(ahead))} {which} that of this node. Keep both right with NTP"
            yield Advice("clock_off", WARNING, text, "cluster.md#addressing-a-task", name)


def _of_deaths(facts: Situation) -> Iterator[Advice]:
    """Tasks that were given up in the last hour, unless none is dead any more: they were retried or removed.

    Those that were cancelled do not count.
    """
    names = {row["id"]: _name(row) for row in facts.peers}
    dead = {row["id"]: row["figures"].dead for row in facts.peers} | {facts.status["id"]: Figures.of(facts.status).dead}
    in_store = _dead_in_store(facts.status)
    for node_id, minutes in facts.nodes.items():
        is_here, left = node_id == facts.status["id"], dead.get(node_id)
        if left == 0 and in_store == 0:
            continue
        name = facts.status["name"] if is_here else names.get(node_id, node_id)
        hour = _since_its_start(facts.status, minutes) if is_here and facts.status["uptime"] < HOUR else minutes
        if died := _risen([_died(figures) for figures in hour]):
            worst, count = _worst(facts.functions) if is_here else ("", 0)
            most = f", {f'{count} of them ' if count < died else ''}of {worst}" if worst else ""
            now = f"; {left} {'is' if left == 1 else 'are'} dead now" if left not in (None, 0, died) else ""
            now += f"; {in_store} {'is' if in_store == 1 else 'are'} dead in the store" if in_store else ""
            text = f"{_tasks(died)} died on {name} in the last hour{most}{now}. To see why, there: spoolnode dead ls --by kind"
            yield Advice("tasks_died", ERROR, text, "operations.md#looking-and-repairing", name, worst)
        if undelivered := _risen([figures and figures.undelivered for figures in hour]):
            text = f"{name} has given up {_tasks(undelivered)} for other nodes in the last hour: they could not be delivered"
            again = "To send them again, there: spoolnode dead retry --reason 'not delivered'"
            yield Advice("tasks_undelivered", ERROR, f"{text}. {again}", "cluster.md#when-the-other-node-is-down", name)


def _dead_in_store(status: Mapping[str, Any]) -> int | None:
    """How many tasks are dead in the common store, for whichever node they died on; None if that is not known."""
    store = status.get("store")
    if store is None:
        return 0
    return None if store["tasks"] is None else int(store["tasks"]["dead"])


def _since_its_start(status: Mapping[str, Any], minutes: Sequence[Figures | None]) -> list[Figures | None]:
    """The minutes of a node that is younger than an hour, from before its first task died until now."""
    return [Figures(given_up=0, undelivered=0), *minutes, Figures.of(status)]


def _died(figures: Figures | None) -> int | None:
    """How many tasks have died on a node since its start: those that were given up, but not those for other nodes."""
    if figures is None or figures.given_up is None:
        return None
    return figures.given_up - (figures.undelivered or 0)


def _risen(minutes: Sequence[int | None]) -> int:
    """How much a count has risen since the first minute was noted. It begins again with a start of its node."""
    counts = [count for count in minutes if count is not None]
    return sum(now - before if now >= before else now for before, now in pairwise(counts))


def _worst(functions: Mapping[str, Sequence[Runs | None]]) -> tuple[str, int]:
    """The function of which the most tasks died, and how many; its name is empty if there is none."""
    dead = {name: together(minutes).dead for name, minutes in functions.items() if name not in (OTHER, NO_FUNCTION)}
    worst = max(dead, key=lambda name: dead[name], default="")
    return (worst, dead[worst]) if dead.get(worst) else ("", 0)


def _of_this_node(facts: Situation) -> Iterator[Advice]:
    """Its workers, its intake, its store, its certificate."""
    status = facts.status
    name, is_running = status["name"], status["state"] == "running"
    if facts.wants_workers and is_running and not status["workers"] and status["uptime"] > START_SECONDS:
        text = f"No worker of {name} is up, so {_tasks(status['waiting'])} cannot start. Its log says why the application fails"
        yield Advice("no_worker", ERROR, text, "operations.md#stopping-and-reloading", name)
    if facts.refuses and is_running and status["free"] >= status["min_free"]:  # of the disk, see `_of_numbers`
        yield Advice("closed", ERROR, f"{name} takes no tasks: {facts.refuses}", "operations.md#metrics-and-health", name)
    if (store := status.get("store")) is not None and not store["there"]:
        text = f"The store of {name} is away: {store['reason']}. Look at its servers; the node goes on by itself"
        yield Advice("store_away", ERROR, text, "store.md#nodes-with-a-store", name)
    if (until := status.get("certificate_until")) is not None and until - facts.now < CERTIFICATE_SECONDS:
        left = until - facts.now
        when = f"expires in {length(left)}" if left > 0 else "has expired: nodes do not talk to it any more"
        text = f"The certificate of {name}, or a list of revoked ones, {when}. Renew it; no restart is needed"
        yield Advice("certificate", WARNING if left > 0 else ERROR, text, "tls.md#keeping-certificates-valid", name)


def _of_lacking(name: str, lacking: Mapping[str, int]) -> Iterator[Advice]:
    """Tasks that fail until their function is loaded; all in one sentence, because clients may make names up."""
    if not lacking:
        return
    worst, total = max(lacking, key=lambda function: lacking[function]), sum(lacking.values())
    which = f"the function {worst}" if worst else "uwsgi.spooler"
    if lacking[worst] == total:
        what = f"{which}, which its application does not have. Load one that has it"
    else:
        most = f"{lacking[worst]} of them for {which}"
        what = f"functions that its application does not have, {most}. Load one that has them"
    text = f"{_tasks_wait(total)} on {name} for {what}: spoolnode reload"
    yield Advice("function_missing", ERROR, text, "operations.md#looking-and-repairing", name, worst)


def _of_numbers(facts: Situation) -> Iterator[Advice]:
    """Of each node: what waits too long, and disks that are full."""
    here = facts.status["name"], Figures.of(facts.status)
    for name, figures in (here, *((_name(row), row["figures"]) for row in facts.peers)):
        yield from _of_waiting(name, figures)
        yield from _of_disk(name, figures)


def _of_waiting(name: str, figures: Figures) -> Iterator[Advice]:
    oldest, workers, waiting = figures.oldest_waiting or 0.0, figures.workers or 0, figures.waiting or 0
    if oldest > OLD_SECONDS and 0 < workers <= (figures.running or 0):
        busy = "its only worker is busy" if workers == 1 else f"all its {workers} workers are busy"
        wait = f"On {name} {_tasks_wait(waiting)}, the oldest for {length(oldest)}"
        text = f"{wait}, and {busy}. Give it more (--workers), or start another node"
        yield Advice("tasks_wait", WARNING, text, "cluster.md#sharing-and-draining", name)


def _of_disk(name: str, figures: Figures) -> Iterator[Advice]:
    if figures.free is None or figures.min_free is None:
        return
    left = f"{byte_size(figures.free)} free on its disk"
    if figures.free < figures.min_free:
        text = f"{name} takes no tasks: {left}, and --min-free is {byte_size(figures.min_free)}. Make room"
        yield Advice("disk_full", ERROR, text, "operations.md#metrics-and-health", name)
    elif figures.free < NEAR * figures.min_free:
        text = f"{name} has {left}. Make room: below {byte_size(figures.min_free)} (--min-free) it takes no tasks"
        yield Advice("disk_nearly_full", WARNING, text, "operations.md#metrics-and-health", name)


def _of_pauses(status: Mapping[str, Any]) -> Iterator[Advice]:
    """The pauses of an operator."""
    name, page = status["name"], "operations.md#pausing"
    if status["paused"]:
        text = f"Everything is paused on {name}, where {_tasks_wait(status['waiting'])}. Go on: spoolnode resume"
        yield Advice("paused", WARNING, text, page, name)
    for function in status["paused_functions"]:
        text = f"{function} is paused on {name}. Go on: spoolnode resume {shlex.quote(function)}"
        yield Advice("paused", WARNING, text, page, name, function)


def _name(row: Mapping[str, Any]) -> str:
    return str(row["name"] or row["address"])


def _tasks(count: int) -> str:
    return "1 task" if count == 1 else f"{count} tasks"


def _tasks_wait(count: int) -> str:
    return "1 task waits" if count == 1 else f"{count} tasks wait"


def length(seconds: float) -> str:
    """A length of time in a sentence."""
    for unit, least, name in ((86400, 172800, "days"), (3600, 7200, "h"), (60, 60, "min")):
        if seconds >= least:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


def byte_size(count: int) -> str:
    """A number of bytes in a sentence."""
    for power, unit in ((30, "GiB"), (20, "MiB")):
        if count >= 1 << power:
            return f"{count / (1 << power):.1f} {unit}"
    return f"{count} bytes"
