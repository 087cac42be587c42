"""`status`, `ls`, `show` and `timers`: looking, without changing anything."""

import time
from typing import TYPE_CHECKING, Any

import click

from spoolnode.cli import CommandFailure
from spoolnode.cli.completing import ids_of_tasks
from spoolnode.cli.options import WholeRange, json_option, spool_option

if TYPE_CHECKING:
    from spoolnode.node.control.choice import Choice

MOST_REASONS = 20
"""Most destinations for which a listing says why their tasks wait."""
STATUS_SECONDS = 5.0
"""How long `status` waits: a node that is silent for this long is not well, and `status` should say so."""
MOST_WARNINGS = 10
"""Warnings that `status` shows, the worst ones."""
MOST_PROGRESS = 20
"""Running tasks whose progress `status` shows."""
STATES = {
    "waiting": ("running", "waiting", "later", "held"),
    "retrying": ("retrying",),
    "dead": ("dead",),
    "outbox": ("outbox",),
    "ended": ("ended",),
}
"""The states of tasks in each listing."""
ROWS = 100
"""Tasks that a listing shows by default."""


def limit_option(function: Any) -> Any:
    """`--limit`."""
    return click.option(
        "--limit", type=WholeRange(0), default=ROWS, show_default=True, metavar="N", help="Show at most this many; 0: all."
    )(function)


@click.command("status")
@click.option("--cluster", "of_all", is_flag=True, help="All nodes that this one knows, one a line.")
@spool_option
@json_option
def status_command(of_all: bool, spool: str, as_json: bool) -> None:
    """Shows the state of a running node. The last lines are warnings: what is wrong in its cluster, and what to do.

    With --cluster: each node in numbers, this one first. Those of other nodes are from their answers to pings, some seconds old;
    they are empty for a node that does not answer. RUN/WRK: running tasks and workers. OLDEST: how long the oldest ready task
    has waited. OUTBOX: the tasks that wait here for that node. IN, DONE, FAILED: per second, over the last minute. FREE: on the
    disk of its spool.

    \b
    Examples:
      spoolnode status
      spoolnode status --cluster
      spoolnode status --spool /var/lib/spoolnode/spool --json
    """
    from spoolnode.cli.directory import root_of
    from spoolnode.cli.printing import print_json, print_pairs, print_table
    from spoolnode.client.control import ask

    root_of(spool)
    if of_all:
        rows = ask(spool, "GET", "/cluster", STATUS_SECONDS)["items"]
        if as_json:
            print_json(rows)
        else:
            print_table(list(_CLUSTER), [[column(row) for column in _CLUSTER.values()] for row in rows])
        return
    status = ask(spool, "GET", "/node", STATUS_SECONDS)
    links = ask(spool, "GET", "/links", STATUS_SECONDS)["items"]
    if as_json:
        print_json({**status, "links": links})
        return
    running = ask(spool, "GET", "/tasks?state=running", STATUS_SECONDS)["items"] if status["running"] else []
    warnings = [("warning", row["text"]) for row in ask(spool, "GET", "/warnings", STATUS_SECONDS)["items"]]
    print_pairs([*_status_lines(status, links, [task for task in running if "progress" in task]), *warnings[:MOST_WARNINGS]])
    if len(warnings) > MOST_WARNINGS:
        click.echo(f"only the first {MOST_WARNINGS} of {len(warnings)} warnings are shown; `spoolnode top` has all", err=True)


def _status_lines(
    status: dict[str, Any], links: list[dict[str, Any]], advancing: list[dict[str, Any]]
) -> list[tuple[str, Any]]:  # fmt: skip
    """The lines for people. `advancing`: running tasks that have said how far they are."""
    from spoolnode.cli.pause import paused_text
    from spoolnode.cli.printing import ago, size

    state = f"running for {ago(status['uptime_seconds'])}" + ("" if status["state"] == "running" else f", {status['state']}")
    app = status["app"] or "none: tasks are accepted and kept"
    progress = [("", _progress(row)) for row in advancing[:MOST_PROGRESS]]
    refused = ", ".join(f"{count} {reason}" for reason, count in status["refused"].items())
    outbox = [("outbox", f"{link['waiting']} for {_named(link)}{_link(link)}") for link in _by_node(links)]
    peers = ", ".join(f"{count} {state}" for state, count in status["peers"].items())
    kept = "what this node keeps itself" if status["store"] else "each task"
    durable = f"{kept} is on disk before it is acknowledged" if status["sync"] == "always" else "a power cut may lose tasks"
    deaths = _count(status["worker_deaths"], "worker")
    lines = [
        ("node", f"{status['name']} ({status['id']}), {state}, pid {status['pid']}"),
        ("listens", ", ".join(status["listen"])),
        ("cluster", f"{status['cluster']}, peers: {peers or 'none is known'}"),
        ("spool", status["spool"]),
        ("application", f"{app}, {_workers(status)}" if status["app"] else app),
        *([("store", _store(store)), ("", store_tasks(store))] if (store := status["store"]) else []),
        ("sync", f"{status['sync']}: {durable}"),
        ("disk", f"{size(status['free_bytes'])} free; intake stops below {size(status['min_free_bytes'])}"),
        ("waiting", f"{status['waiting']}" + _oldest(status["oldest_waiting_seconds"])),
        *([("paused", paused)] if (paused := paused_text(status["pauses"])) else []),
        ("running", status["running"]),
        *progress,
        ("due later", status["later"]),
        ("retrying", f"{status['retrying']}{' waiting for another attempt' if status['retrying'] else ''}"),
        ("dead", status["dead"]),
        ("accepted", f"{status['accepted']}{_rate(status['rates']['accepted_per_second'])}"),
        ("done", f"{status['done']}{_rate(status['rates']['done_per_second'])}"),
        ("forwarded", f"{status['forwarded']} to other nodes"),
        ("failed runs", f"{status['failed']}, {_count(status['given_up'], 'task')} given up, {deaths} died"),
        ("connections", status["connections"]),
    ]
    found = f"{_count(status['found'], 'task')} found as files in the spool directory" if status["found"] else ""
    unsaid = f"{_count(status['log_dropped'], 'line')} could not be written" if status["log_dropped"] else ""
    optional = [("found", found), ("refused", refused), ("corrupt", status["corrupt"] or ""), ("log", unsaid)]
    return [*lines, *outbox, *[(name, text) for name, text in optional if text]]


def _store(store: dict[str, Any]) -> str:
    """The common store, and what an acknowledgement of it survives now."""
    if not store["there"]:
        return f"away: {store['reason']}"
    events = {"survives_crash": "a crash", "survives_power_cut": "a power cut", "survives_lost_disk": "a lost disk"}
    survived = ", ".join(event for name, event in events.items() if store[name]) or "nothing"
    return f"{store['engine']}; acknowledged tasks survive {survived}; {_count(store['taken'], 'task')} of it here"


def store_tasks(store: dict[str, Any]) -> str:
    """The numbers of tasks in the common store, and their age if it is away."""
    if store["tasks"] is None:
        return "its tasks are not counted yet"
    of_state = {"ready": "ready", "later": "due later", "held": "with nodes", "dead": "dead"}
    numbers = [
        f"{'about ' if state in store['estimated'] else ''}{store['tasks'][state]} {words}" for state, words in of_state.items()
    ]
    age = "" if store["there"] else f", counted {since_moment(store['counted_at'])} ago"
    return ", ".join(numbers) + age


def _progress(row: dict[str, Any]) -> str:
    """How far a running task is."""
    text = f": {row['progress_text']}" if row.get("progress_text") else ""
    return f"{row['id']} {row['progress']:.0%}{text}"


def _by_node(links: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One link for each node: tasks may wait for it under its name and under its id."""
    found: dict[str, dict[str, Any]] = {}
    for link in links:
        key = link["name"] or link["destination"]
        found[key] = _together(link, found[key]) if key in found else link
    return [*found.values()]


def _together(link: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    by_id, by_name = (link, other) if link["name"] else (other, link)
    why = by_id if by_id["reason"] else by_name
    return {**why, "destination": by_id["destination"], "name": by_id["name"], "waiting": link["waiting"] + other["waiting"]}


def _named(link: dict[str, Any]) -> str:
    """A destination for people: a node's name, and its id when the tasks wait under that."""
    return f"{link['name']} ({link['destination']})" if link["name"] else str(link["destination"])


def _link(link: dict[str, Any]) -> str:
    """Why tasks for another node still wait."""
    from spoolnode.cli.printing import ago

    if not link["reason"]:
        return ""
    again = "" if link["retry_in_seconds"] is None else f"; tried again in {ago(link['retry_in_seconds'])}"
    return f" ({link['reason']}{again})"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _workers(status: dict[str, Any]) -> str:
    old = status["old_workers"]
    verb = "still runs" if old == 1 else "still run"
    finishing = f"; {_count(old, 'old worker')} {verb} tasks from before the reload" if old else ""
    return _count(status["workers"], "worker") + finishing


def _oldest(seconds: float | None) -> str:
    from spoolnode.cli.printing import ago

    return "" if seconds is None else f", the oldest for {ago(seconds)}"


def _rate(per_second: float) -> str:
    """Over the last minute."""
    return f" ({per_second:.1f}/s)" if per_second else ""


@click.command("ls")
@click.option("--retrying", "state", flag_value="retrying", help="Tasks that wait for another attempt.")
@click.option("--dead", "state", flag_value="dead", help="Tasks that were given up.")
@click.option("--outbox", "state", flag_value="outbox", help="Tasks that wait for another node.")
@click.option("--ended", "state", flag_value="ended", help="Tasks that have ended, the last ones first.")
@limit_option
@spool_option
@json_option
def ls_command(state: str | None, limit: int, spool: str, as_json: bool) -> None:
    """Lists the tasks in a spool.

    In the order in which they run, with or without a running node.

    STATE: running; waiting: ready to run; paused: ready, but held back by `spoolnode pause`; later: it waits for its time or
    for another attempt; held: another node has it from the common store. DUE: when that is.
    AGE: since it was accepted. ATTEMPTS: runs so far, with the present one; after a run that asks for another, they count from
    zero.

    Of a running node with a common store, its tasks come last. STORE then says for which node they wait, or for any. If the
    store is away, they are missing, and the exit status is 1.

    With --outbox, FOR is the node that a task waits for. SENT is `perhaps` if it was sent and no answer came, so the other
    node may have it already. Below the table: for each of these nodes, why its tasks still wait.

    With --retrying, REASON says why the last attempt failed, as long as the node remembers. With --ended, END is done, dead,
    removed, merged (another task with its key did its work) or forwarded; REASON says why, or to which node; and TOOK is the
    time of the last run. They come from the history of this node; how long that is kept: see --history of `join`.

    \b
    Examples:
      spoolnode ls
      spoolnode ls --outbox
      spoolnode ls --ended --limit 20
      spoolnode ls --dead --limit 0 --json
    """
    list_tasks(spool, state or "waiting", limit, as_json)


def list_tasks(spool: str, state: str, limit: int, as_json: bool, choice: "Choice | None" = None) -> None:
    """Prints the tasks of a state, or of them those that are chosen. Raises `CommandFailure` if some are missing."""
    from spoolnode.cli.directory import open_directory
    from spoolnode.cli.printing import print_json

    directory = open_directory(spool)
    rows, more = directory.tasks(STATES[state], limit, choice)
    if as_json:
        print_json(rows)
    elif rows or not directory.missing:
        _print_tasks(spool, state, rows, is_narrow=choice is not None and choice.is_narrow())
        if more:
            click.echo(f"only the first {limit} are shown; --limit 0 shows all", err=True)
    if directory.missing:
        raise CommandFailure(directory.missing)


def _print_tasks(spool: str, state: str, rows: list[dict[str, Any]], *, is_narrow: bool) -> None:
    """Prints a table. `is_narrow`: whether some tasks were chosen."""
    from spoolnode.cli.printing import print_table

    if state in ("outbox", "ended"):
        _name_destinations(spool, rows)
    columns = {"waiting": _WAITING, "retrying": _RETRYING, "dead": _DEAD, "outbox": _OUTBOX, "ended": _ENDED}[state]
    if any(row.get("where") == "store" for row in rows):
        columns = {"id": columns["id"], "store": _in_store, **columns}
    nothing = {
        "waiting": "no task waits",
        "retrying": "no task waits for another attempt",
        "dead": "no such task is dead" if is_narrow else "no task is dead",
        "outbox": "no task waits for another node",
        "ended": "the history of this node knows no task that has ended",
    }[state]
    print_table(list(columns), [[column(row) for column in columns.values()] for row in rows], nothing)
    if state == "outbox":
        _say_why(spool)


def _say_why(spool: str) -> None:
    """Says for each destination without an open link why its tasks wait. Only a running node knows it."""
    from spoolnode.cli.directory import root_of
    from spoolnode.cli.printing import say
    from spoolnode.client.control import NotRunning, ask

    try:
        links = ask(root_of(spool), "GET", "/links")["items"]
    except NotRunning:
        return
    reasons = [f"{_named(link)}: {link['reason']}" for link in _by_node(links) if link["reason"]]
    for reason in reasons[:MOST_REASONS]:
        say(reason, err=True)


def _name_destinations(spool: str, rows: list[dict[str, Any]]) -> None:
    """Replaces the ids of nodes, which any and tag:X became, with names. Only a running node knows them."""
    from spoolnode.cli.directory import root_of
    from spoolnode.client.control import NotRunning, ask

    try:
        known = {peer["id"]: peer["name"] for peer in ask(root_of(spool), "GET", "/nodes")["items"] if peer["name"]}
    except NotRunning:
        return
    for row in rows:
        row["destination"] = known.get(row["destination"], row["destination"])


def _age(row: dict[str, Any]) -> str:
    return since_moment(row["accepted_at"])


def since_moment(when: float | None) -> str:
    """How long ago that was, for people."""
    from spoolnode.cli.printing import ago

    return "" if when is None else ago(max(time.time() - when, 0.0), units=1)


def _due(row: dict[str, Any]) -> str:
    from spoolnode.cli.printing import ago

    seconds = (row["due_at"] or 0.0) - time.time()
    return f"in {ago(seconds, units=1)}" if seconds > 0 else ""


def _size(row: dict[str, Any]) -> str:
    from spoolnode.cli.printing import size

    return size(row["size_bytes"])


def _dead_for(row: dict[str, Any]) -> str:
    return since_moment(row["changed_at"])


def _ended_for(row: dict[str, Any]) -> str:
    return since_moment(row["ended_at"])


def _took(row: dict[str, Any]) -> str:
    from spoolnode.cli.printing import ago

    return "" if row["run_seconds"] is None else ago(row["run_seconds"])


def _state(row: dict[str, Any]) -> str:
    return "paused" if row["paused"] and row["state"] == "waiting" else str(row["state"])


def _in_store(row: dict[str, Any]) -> str:
    """The destination of a task of the common store; empty for one on the disk."""
    return str(row["destination"]) if row["where"] == "store" else ""


def _plain(name: str) -> Any:
    return lambda row: row[name]


# The columns by their titles. A narrow terminal has no room for the last ones.
_WAITING = {
    "id": _plain("id"), "state": _state, "function": _plain("function"), "priority": _plain("priority"), "due": _due,
    "age": _age, "attempts": _plain("attempts"), "size": _size,
}  # fmt: skip
_RETRYING = {
    "id": _plain("id"), "due": _due, "function": _plain("function"), "attempts": _plain("attempts"), "reason": _plain("reason"),
    "age": _age,
}  # fmt: skip
_DEAD = {
    "id": _plain("id"), "dead for": _dead_for, "function": _plain("function"), "reason": _plain("reason"), "age": _age,
    "attempts": _plain("attempts"), "size": _size,
}  # fmt: skip
_OUTBOX = {
    "id": _plain("id"), "for": _plain("destination"), "sent": lambda row: "perhaps" if row["attempts"] else "",
    "function": _plain("function"), "age": _age, "size": _size,
}  # fmt: skip
_ENDED = {
    "id": _plain("id"), "end": _plain("end"), "ago": _ended_for, "function": _plain("function"), "took": _took,
    "reason": lambda row: f"to {row['destination']}" if row["destination"] else row["reason"],
}  # fmt: skip


def _work(row: dict[str, Any]) -> str:
    return "" if row["workers"] is None else f"{row['running']}/{row['workers']}"


def _span(name: str) -> Any:
    def span(row: dict[str, Any]) -> str:
        from spoolnode.cli.printing import ago

        return ago(row[name], units=1)

    return span


def _per_second(name: str) -> Any:
    return lambda row: "" if row[name] is None else f"{row[name]:.1f}/s"


def _free(row: dict[str, Any]) -> str:
    from spoolnode.cli.printing import size

    return "" if row["free_bytes"] is None else size(row["free_bytes"])


_CLUSTER = {
    "node": lambda row: f"{row['name'] or row['address']}{' (here)' if row['here'] else ''}", "state": _plain("state"),
    "for": _span("since_seconds"), "run/wrk": _work, "waiting": _plain("waiting"), "oldest": _span("oldest_waiting_seconds"),
    "later": _plain("later"), "retrying": _plain("retrying"), "dead": _plain("dead"), "outbox": _plain("outbox"),
    "in": _per_second("in_per_second"), "done": _per_second("done_per_second"), "failed": _per_second("failed_per_second"),
    "free": _free,
}  # fmt: skip


@click.command("show")
@click.argument("identity", metavar="ID", shell_complete=ids_of_tasks("running", "waiting", "later", "outbox", "dead"))
@spool_option
@json_option
def show_command(identity: str, spool: str, as_json: bool) -> None:
    """Shows a task: its contents, and its story also after its end.

    ID may also be the name of its file. For a task that came from another node, it may be the id that the task has there
    (shown as spool_id; spool_origin is the id of that node). It works with or without a running node.

    The story says, one step a line, when and on which node the task was accepted and from where, where it went, each attempt with
    its error, and how it ended.
    With --json it has the whole tracebacks. How long stories are kept: see --history of `join`.

    If no node runs on the directory, the common store is not asked. The state is `unknown` then of a task that is not in the
    directory and whose story there has no end: `spoolnode store ls` may have it.

    \b
    Examples:
      spoolnode show 74ba73fab663_1795859211165932_80
      spoolnode show 74ba73fab663_1795859211165932_80 --json
    """
    from spoolnode.cli.directory import identity_of, open_directory
    from spoolnode.cli.printing import print_json, print_pairs

    task = open_directory(spool).task(identity_of(identity))
    if as_json:
        print_json(task)
    else:
        print_pairs(_task_lines(task))


def _task_lines(task: dict[str, Any]) -> list[tuple[str, Any]]:
    from spoolnode.cli.printing import moment, size

    times = {"progress_at": moment, "due_at": moment, "accepted_at": moment, "changed_at": moment}
    special = {"priority": None, "progress": "{:.0%}".format, **times, "size_bytes": size, "body_bytes": size}
    lines: list[tuple[str, Any]] = []
    for name, value in task.items():
        if name == "variables" or value in (None, []) or (name == "body_bytes" and not value):
            continue
        if name == "story":
            lines += zip(["story", *[""] * len(value)], map(_step, value), strict=False)
            continue
        form = special.get(name)
        lines.append((name, form(value) if form else _indented(value)))
    return [*lines, *[(f"  {key}", _indented(value)) for key, value in task.get("variables", {}).items()]]


def _step(step: dict[str, Any]) -> str:
    """A step of a story for people: when and where, and what."""
    from spoolnode.cli.happened import detail_of
    from spoolnode.cli.printing import moment

    return "  ".join(filter(None, (moment(step["at"]), step.get("node", ""), f"{step['event']} {detail_of(step)}".rstrip())))


def _indented(value: Any) -> Any:
    return value.rstrip().replace("\n", "\n    ") if isinstance(value, str) else value


@click.command("timers")
@spool_option
@json_option
def timers_command(spool: str, as_json: bool) -> None:
    """Shows the timers of the application: @timer and @cron.

    For each: WHEN it is due, the NEXT time, the LAST time for which it was run and by which node (BY). ON says where it runs:
    on each node for itself, or on one node of the cluster (cluster=True).

    \b
    Examples:
      spoolnode timers
      spoolnode timers --json
    """
    from spoolnode.cli.directory import root_of
    from spoolnode.cli.printing import moment, print_json, print_table
    from spoolnode.client.control import ask

    root_of(spool)
    rows = ask(spool, "GET", "/timers")["items"]
    if as_json:
        print_json(rows)
        return
    cells = []
    for row in rows:
        place = "one node" if row["cluster"] else "each node"
        cells.append((row["name"], row["when"], place, moment(row["next_at"]), moment(row["last_at"]), row["by"]))
    print_table(["name", "when", "on", "next", "last", "by"], cells, "the application has no timers")
