"""Where a late task was, from what faulthandler wrote."""

import asyncio.base_events
from pathlib import Path

import pytest

from spoolnode.node.work import worker
from spoolnode.node.work.stack import stack_of

OURS = worker.__file__
MAIN = f"""Current thread 0x00007f947d82eb80 (most recent call first):
  File "/app/tasks.py", line 5 in inner
  File "{Path(OURS).parents[2]}/client/blocking.py", line 9 in send
  File "/app/tasks.py", line 9 in job
  File "{OURS}", line 210 in _run_task
  File "{OURS}", line 99 in run_worker
  File "<frozen runpy>", line 88 in _run_code
"""
LOOP = f"""Thread 0x00007f947cc296c0 [name] (most recent call first):
  File "/app/tasks.py", line 33 in job_async
  File "{OURS}", line 280 in _run
  File "{asyncio.base_events.__file__}", line 600 in run_forever
  File "{OURS}", line 300 in _run_loop
"""
OTHER = f"""Thread 0x00007f947cc296c1 (most recent call first):
  File "{OURS}", line 130 in _listen
"""
OF_MAIN = f"""  File "/app/tasks.py", line 5 in inner
  File "{Path(OURS).parents[2]}/client/blocking.py", line 9 in send
  File "/app/tasks.py", line 9 in job"""
OF_LOOP = '  File "/app/tasks.py", line 33 in job_async'


@pytest.mark.parametrize("dump", [f"{OTHER}\n{LOOP}\n{MAIN}", f"{MAIN}\n{LOOP}\n{OTHER}", f"{LOOP}\n{MAIN}"])
def test_the_stack_of_a_task_is_that_of_its_thread_without_our_frames(dump: str) -> None:
    assert stack_of(dump, in_loop=False) == OF_MAIN
    assert stack_of(dump, in_loop=True) == OF_LOOP


@pytest.mark.parametrize("dump", ["", "Fatal", OTHER])
def test_a_dump_without_that_thread_has_no_stack(dump: str) -> None:
    assert stack_of(dump, in_loop=False) == ""
    assert stack_of(dump, in_loop=True) == ""


def test_frames_that_are_all_ours_are_kept() -> None:
    assert "in _listen" in stack_of(OTHER.replace("Thread", "Current thread"), in_loop=False)
