"""Ends processes that tasks of earlier runs have left behind, and reaps those that have ended."""

import asyncio
from collections.abc import Callable
from functools import partial

from spoolnode.node.disk.threads import DiskThread
from spoolnode.node.work import strays

REAP_SECONDS = 1.0


async def end_leftovers(moves: DiskThread, path: str, instance: str, report: Callable[..., None]) -> None:
    """Ends processes of tasks from runs that were killed, and notes that this run may be killed, too.

    `path`: the file that remembers such runs; `instance`: this one.
    """
    earlier = await moves.run(partial(strays.read_instances, path))
    await _remember(moves, path, [*earlier, instance], report)
    for other in earlier:
        in_group = await asyncio.to_thread(strays.end_cgroup, strays.cgroup_of(other))
        killed, left = await asyncio.to_thread(strays.end, strays.mark_of(other))
        killed += in_group
        if killed or left:
            reason = "tasks of a node that was killed have started them"
            report("strays_ended", processes=killed, left=left, reason=reason)
    if earlier:
        await _remember(moves, path, [instance], report)


async def _remember(moves: DiskThread, path: str, instances: list[str], report: Callable[..., None]) -> None:
    try:
        await moves.run(partial(strays.write_instances, path, instances))
    except OSError as error:  # the warden does not need it; the next start would, if the warden is killed, too
        report("strays_unknown", reason=f"{path}: {error.strerror}")


async def reap_orphans(workers: Callable[[], set[int]]) -> None:
    """Reaps orphans for ever: the first process of a container inherits them.

    `workers`: the processes for which the pool waits.
    """
    while True:
        await asyncio.sleep(REAP_SECONDS)
        strays.reap(workers())
