"""`tail`: what happens on a node while it happens, one line an event."""

import json
import re
import signal
import sys
import time
from typing import Any
from urllib.parse import quote, urlencode

import click

from spoolnode.cli.completing import tasks_and_functions
from spoolnode.cli.options import json_option, spool_option

AGAIN_SECONDS = 0.5
"""From one attempt to reach a node that has gone to the next."""
ELSEWHERE_SECONDS = 1.0
"""From one question about a task that another node has to the next."""
ENDS = {"done": 0, "merged": 0, "dead": 1, "removed": 1}
"""The events that end a task, and the exit status of a `tail` that followed it."""
UNSURE = 3
OF_STORE = ("store", "tmp/")
"""Where a task of the common store is: there, or with this node."""

_OWN_ID = re.compile(r"[0-9a-f]{12}_[0-9]+_[0-9]+")


@click.command("tail")
@click.argument("what", required=False, default="", metavar="[ID|FUNCTION]", shell_complete=tasks_and_functions)
@spool_option
@json_option
def tail_command(what: str, spool: str, as_json: bool) -> None:
    """Follows what happens, one line for each event.

    With FUNCTION only the tasks of that function are followed, with ID only that task, until its end, also on another node.
    docs/api.md lists the events; with --json each line is one of them.

    If the node ends, it waits until the node runs again; what happens meanwhile is not shown. Ctrl-C ends it.

    Exit status, with ID: 0 the task is done; 1 it was given up, cancelled or removed; 3 its end is not known.

    \b
    Examples:
      spoolnode tail
      spoolnode tail shop.tasks:mail
      spoolnode tail $(spoolnode call shop.tasks:mail 1)
    """
    from spoolnode.cli.directory import root_of

    root = root_of(spool)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # started in the background, Python would ignore it
    identity = ""
    try:
        identity = _identity(root, what)
        status = _Follower(root, identity, "" if identity else what, as_json).follow()
    except KeyboardInterrupt:
        status = UNSURE if identity else 0  # the way to end it
    sys.exit(status)


def _identity(root: str, what: str) -> str:
    """The id that is meant; empty if a function is. Tasks in files from elsewhere have other ids than ours."""
    from spoolnode.cli.directory import identity_of
    from spoolnode.client.control import NotThere, ask
    from spoolnode.protocol.names import SPOOL_PREFIX, is_task_id

    if _OWN_ID.fullmatch(what) or what.rpartition("/")[2].startswith(SPOOL_PREFIX):
        return identity_of(what)
    if not what or not is_task_id(what):
        return ""
    try:
        ask(root, "GET", f"/tasks/{quote(what)}")
    except NotThere:
        return ""
    return what


class _Follower:
    """Shows the events of everything, of one task or of one function, over restarts of the node."""

    def __init__(self, root: str, identity: str, function: str, as_json: bool) -> None:
        self._root = root
        self._identity = identity
        self._as_json = as_json
        chosen = {name: text for name, text in {"task": identity, "function": function}.items() if text}
        self._path = f"/events?{urlencode(chosen)}"
        self._is_known = False
        """Whether the task was there at a look."""
        self._told: set[tuple[Any, ...]] | None = None
        """Steps of its story that were shown; None: none, but perhaps events."""
        self._has_shown = False

    def follow(self) -> int:
        """Shows them until the task has ended. Returns the exit status."""
        from spoolnode.client.control import ControlError, NotRunning, NotThere, listening

        has_begun = False
        while True:
            try:
                with listening(self._root, self._path) as events:
                    if has_begun:
                        click.echo("the node runs again", err=True)
                    status = self._look() if self._identity else None
                    has_begun = True
                    for event in events if status is None else ():
                        self._show(event)
                        if self._identity and (status := self._after(event)) is not None:
                            break
                if status is not None:
                    return status
                click.echo("the node has ended; waiting until it runs again", err=True)
            except (NotRunning, ControlError) as error:  # it is starting, or ended during a question
                if not has_begun or isinstance(error, NotThere):
                    raise
            time.sleep(AGAIN_SECONDS)

    def _after(self, event: dict[str, Any]) -> int | None:
        """The exit status after an event of the task; None if it goes on here."""
        return self._look() if event["event"] == "forwarded" else ENDS.get(event["event"])

    def _look(self) -> int | None:
        """The exit status if the task has ended, also on another node, which is waited for; None if it is still here.

        One of the common store is waited for in any case: each node may run it next, and the events of this one do not tell.
        """
        from spoolnode.node.spool.inspect import DEAD, ENDED

        while (task := self._ask()) is not None:
            story = task["story"]
            last = story[-1] if story else {"event": ""}
            if task["state"] == DEAD and last["event"] != DEAD:  # no story is kept
                last = {"event": DEAD, "at": task["changed_at"], "id": task["id"], "reason": task["reason"]}
                story = [*story, last]
            has_ended = task["state"] in (DEAD, ENDED)
            if not has_ended and self._told is None and not task["where"].startswith(OF_STORE):
                return None
            self._tell(story)
            if has_ended and last["event"] in ENDS:
                return ENDS[last["event"]]
            if has_ended and last["event"] == "forwarded" and not _tells(last):
                click.echo(f"what becomes of it at {last['to']} is not known here: that is not a node", err=True)
                return UNSURE
            time.sleep(ELSEWHERE_SECONDS)
        click.echo("the task has ended, and how is not known: no story of it is kept", err=True)
        return UNSURE

    def _tell(self, story: list[dict[str, Any]]) -> None:
        """Shows those steps that were not shown yet; others may come between them."""
        told = set(map(_key, story[: self._first_untold(story)])) if self._told is None else self._told
        for step in story:
            if _key(step) not in told:
                self._show(step)
        self._told = told.union(map(_key, story))

    def _first_untold(self, story: list[dict[str, Any]]) -> int:
        """The step with which to begin: after events, the one in which the task has left this node, or its end."""
        if not self._has_shown:
            return 0
        return next((number for number, step in enumerate(story, 1) if step["event"] == "forwarded"), len(story) - 1)

    def _ask(self) -> dict[str, Any] | None:
        """The task; None if it was known before and has left no trace."""
        from spoolnode.client.control import NotThere, ask

        try:
            task: dict[str, Any] = ask(self._root, "GET", f"/tasks/{quote(self._identity)}")
        except NotThere:
            if self._is_known:
                return None
            raise
        self._is_known = True
        return task

    def _show(self, event: dict[str, Any]) -> None:
        from spoolnode.cli.happened import detail_of
        from spoolnode.cli.printing import say
        from spoolnode.protocol.printable import printable_json

        self._has_shown = True
        if self._as_json:
            click.echo(printable_json(json.dumps(event, ensure_ascii=False)))
            return
        when = time.strftime("%H:%M:%S", time.localtime(event.get("at")))
        words = (f"{event['event']:<11}", event.get("id", ""), event.get("function", ""), detail_of(event))
        say("  ".join((when, *filter(None, words))).rstrip())


def _key(step: dict[str, Any]) -> tuple[Any, ...]:
    return step["at"], step["event"], step.get("node")


def _tells(step: dict[str, Any]) -> bool:
    """Whether a task was forwarded to a node, which tells its story; a uWSGI server does not."""
    from spoolnode.protocol.names import is_node_id

    return is_node_id(str(step.get("peer", "")))
