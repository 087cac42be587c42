"""Decides how many waiting tasks each worker gets. Pure: numbers in, numbers out.

A worker's *window* is the number of tasks that it may hold: its work for `WINDOW_SECONDS` at the pace it has shown, so that
quick tasks travel by the hundred and slow ones one by one. It at most doubles with each report, because one quick task says
little about the next. A worker whose present task takes longer than expected gets no more until that one ends.
"""

from dataclasses import dataclass

from spoolnode.node.work.messages import MAX_CHUNK

WINDOW_SECONDS = 0.02
"""Seconds of work that a worker may hold. More hides a longer way to the node; less loses less time when a task is slow."""
MAX_WINDOW = 2 * MAX_CHUNK
"""Two chunks: one that runs, one that is ready when it ends."""
STALLED_SECONDS = 0.05
"""A task that runs longer than this stalls the tasks behind it in its worker."""


@dataclass(slots=True)
class Pace:
    """The pace of one worker."""

    window: int = 1

    def observe(self, tasks: int, seconds: float) -> None:
        """Takes a report: `tasks` tasks took `seconds` together."""
        if tasks and seconds > 0:
            self.window = max(1, int(min(WINDOW_SECONDS * tasks / seconds, self.window * 2, MAX_WINDOW)))


@dataclass(slots=True)
class View:
    """The facts about one worker."""

    held: int
    """Tasks that it has and has not ended."""
    window: int
    asynchronous: int
    """Those of them that run in its event loop; they do not count for the window."""
    concurrency: int
    """How many may run in its event loop."""
    stalled: bool


def room(view: View) -> int:
    """How many tasks to send this worker now, at most."""
    if view.stalled:
        return 0
    free = view.window - (view.held - view.asynchronous)
    # While one chunk runs, the next one is sent whole, not in crumbs.
    if free * 2 < view.window:
        return 0
    return min(free, MAX_CHUNK, view.concurrency - view.asynchronous if view.asynchronous else MAX_CHUNK)


def plan(views: list[View], waiting: int) -> list[tuple[int, int]]:
    """The number of tasks for each worker, as (index, count): even shares, the emptiest worker first."""
    open_to_work = sorted((index for index in range(len(views)) if room(views[index]) > 0), key=lambda index: views[index].held)
    shares = []
    for done, index in enumerate(open_to_work):
        if waiting <= 0:
            break
        fair = -(-waiting // (len(open_to_work) - done))
        count = min(room(views[index]), fair)
        shares.append((index, count))
        waiting -= count
    return shares


def appetite(views: list[View], waiting: int) -> int:
    """How many more tasks than wait here could start soon: the way to get some takes longer than the quick ones run.

    A worker with quick tasks gets two windows, one to run and one to wait here meanwhile. One with slow tasks gets no more than
    it has room for: what waits here could run elsewhere.
    """
    could_start = sum(max(_ahead(view), 0) for view in views)
    wanted = could_start - waiting
    return wanted if wanted * 2 >= could_start else 0  # not in crumbs


def _ahead(view: View) -> int:
    if view.stalled:
        return 0
    free = room(view)
    return free if view.window == 1 else 2 * view.window - (view.held - view.asynchronous)


def to_relieve(views: list[View], waiting: int) -> list[int]:
    """Workers that should give back tasks that have not started: they are stalled, and another worker is idle."""
    if waiting or not any(view.held == 0 for view in views):
        return []
    return [index for index, view in enumerate(views) if view.stalled and view.held - view.asynchronous > 1]
