"""Where a late task was: at a signal from the node its worker writes the stacks of its threads into the shared memory, and ends.

faulthandler writes them, so that works whatever the task does: also in code that is not Python and never returns.
"""

import faulthandler
import os
import re
import signal
from itertools import zip_longest

from spoolnode.node.work.slots import Slots

SIGNAL = signal.SIGRTMAX
"""The default of this signal ends the process, without a core file, and hardly anything else uses it."""
MAX_STACK = 16 << 10
"""Most bytes of a stack that are kept."""
_OURS = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
_AROUND = (f"{_OURS}/", f"{os.path.dirname(os.__file__)}/asyncio/", "<frozen runpy>")
"""Beginnings of the names of files with frames around a task: ours, those of the event loop, Python's own start."""
_THREAD = re.compile(r"^(?:Current thread|Thread) .*\n", re.MULTILINE)
_FRAME = re.compile(r'  File "(.*)", line ')


def write_at_signal(slots: Slots) -> None:
    """In a worker: has the signal write where all threads are, and then end the process, as it does by default."""
    slots.write_behind()
    faulthandler.register(SIGNAL, file=slots.descriptor, all_threads=True, chain=True)


def forget() -> None:
    """In a child that a task forked: it does not write into its worker's memory."""
    faulthandler.unregister(SIGNAL)


def stack_of(dump: str, *, in_loop: bool) -> str:
    """The stack of the task, innermost call first, without the worker's own frames; empty if it is not in the dump.

    Args:
        dump: what faulthandler wrote.
        in_loop: the task runs in the event loop, and not in the main thread, which gets the signal.
    """
    heads = list(_THREAD.finditer(dump))
    for head, following in zip_longest(heads, heads[1:]):
        frames = dump[head.end() : following.start() if following else len(dump)]
        if in_loop == ("in _run_loop\n" in frames) and (in_loop or head.group().startswith("Current")):
            return "\n".join(_of_application(frames.splitlines()))
    return ""


def _of_application(frames: list[str]) -> list[str]:
    """These frames without the outermost ones that are not the application's; all of them if none is."""
    end = len(frames)
    while end and (not (found := _FRAME.match(frames[end - 1])) or found.group(1).startswith(_AROUND)):
        end -= 1
    return frames[:end] or frames
