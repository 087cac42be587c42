"""Measures the steps of the event loop of a node in a process of its own.

Each step counts with the processor time of its thread, not with the time on the wall: a busy machine makes no difference. The
node imports this file as `sitecustomize`, and runs on asyncio's own loop, whose steps can be measured from outside.
"""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TOLD = "LOOP_STEPS"
"""Environment variable: the file that gets a line for each long step."""
LONG = 0.005
"""Seconds; shorter steps are not told."""


def environment_for(folder: Path) -> dict[str, str]:
    """What a node in that folder needs in its environment to be measured."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.path.append({str(Path(__file__).parent)!r})\nimport loop_steps\n")
    path = os.pathsep.join(filter(None, (str(folder), *sys.path)))
    return {"PYTHONPATH": path, TOLD: str(folder / "steps")}


def long_steps(folder: Path) -> list[str]:
    """The long steps so far, the longest first: milliseconds, and what was done; they are forgotten then."""
    told = folder / "steps"
    lines = told.read_text().splitlines() if told.exists() else []
    told.write_text("")
    return sorted(lines, key=lambda line: -float(line.split()[0]))


def _measured(run: Callable[[Any], None], told: str) -> Callable[[Any], None]:
    def measured(handle: Any) -> None:
        began = time.thread_time()
        run(handle)
        took = time.thread_time() - began
        if took > LONG and threading.current_thread() is threading.main_thread():
            with open(told, "a", encoding="utf-8") as file:
                file.write(f"{took * 1000:.1f} {handle!r}\n")

    return measured


if TOLD in os.environ:
    sys.modules["uvloop"] = None  # type: ignore[assignment]  # as if it were not installed
    asyncio.Handle._run = _measured(asyncio.Handle._run, os.environ[TOLD])  # type: ignore[attr-defined]  # no public hook
