"""The messages of a worker process about an application that does not load, and about a failed task."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE

import spoolnode
from spoolnode.node.config import Config
from spoolnode.node.outcome import Ending, Outcome
from spoolnode.node.work import messages
from spoolnode.node.work.raised import failure, judged
from spoolnode.node.work.slots import Slots
from spoolnode.protocol.values import pack

OURS = str(Path(spoolnode.__file__).parent)


def first_words(directory: Path, app: str) -> list[Any]:
    """The first message of a worker that is started as a node starts it."""
    slots = Slots.create(2)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    facts = {
        "app": app, "root": str(directory / "spool"), "node_id": "x", "node_pid": os.getpid(), "worker": 0,
        "socket": str(directory / "x.sock"), "timeout": 0.0, "slots": slots.descriptor, "concurrency": 1,
        "chdir": str(directory), "frequency": 30.0, "settings": Config().__dict__, "is_first": True, "is_reload": False,
    }  # fmt: skip
    with ours:
        with theirs:
            worker = subprocess.Popen(
                [sys.executable, "-m", "spoolnode.runtime.worker_process", str(theirs.fileno())],
                cwd=directory,
                env={"PYTHONPATH": str(Path(OURS).parent)},
                pass_fds=(theirs.fileno(), slots.descriptor),
            )
        try:
            messages.send_message(ours, [facts])
            ours.settimeout(PATIENCE)
            words = messages.receive(ours)
        finally:
            worker.kill()
            worker.wait()
            slots.close()
    assert words is not None
    return words


@pytest.mark.parametrize(
    ("app", "says"),
    [
        ("nothere", "--app is 'nothere': there is no module 'nothere' in {here}, --pythonpath or PYTHONPATH; "),
        ("nothere.py", "--app: there is no file {here}/nothere.py"),
        ("jobs:nothing", "--app is 'jobs:nothing': 'nothing' does not exist in the module 'jobs'"),
        ("jobs", "the application 'jobs' has nothing to run"),
    ],
)
def test_setting_that_names_nothing_to_run_is_one_sentence(tmp_path: Path, app: str, says: str) -> None:
    (tmp_path / "jobs.py").write_text("x = 1\n")
    kind, text, is_sentence = first_words(tmp_path, app)
    assert (kind, is_sentence) == ("broken", True)
    assert text.startswith(says.format(here=tmp_path))
    assert "\n" not in text


@pytest.mark.parametrize("app", ["jobs", "jobs.py"])
@pytest.mark.parametrize(
    ("source", "last"),
    [
        ("import nothere", "ModuleNotFoundError: No module named 'nothere'"),
        ("from spoolnode import spool\nspool(priority=-1)", "it must be a whole number from 0 to 9999999999"),
        ("1/0", "ZeroDivisionError: division by zero"),
    ],
)
def test_error_of_the_application_is_its_traceback_without_our_beginning(
    tmp_path: Path, app: str, source: str, last: str
) -> None:
    (tmp_path / "jobs.py").write_text(source + "\n")
    kind, text, is_sentence = first_words(tmp_path, app)
    assert (kind, is_sentence) == ("broken", False)
    first, second = text.splitlines()[:2]
    assert first == "Traceback (most recent call last):"
    assert second.startswith(f'  File "{tmp_path}/jobs.py", line ')
    assert text.rstrip().endswith(last)
    assert "importlib" not in text


def caught(function: Any) -> BaseException:
    try:
        function()
    except BaseException as error:  # noqa: BLE001 - that is what a worker catches
        return error
    raise AssertionError("it raised nothing")


def fail() -> None:
    raise ValueError("the reason")


def test_reason_is_what_the_exception_says_once_and_then_where() -> None:
    outcome = failure(caught(fail))
    assert outcome.kind is Ending.FAILED
    first, second, *rest = outcome.reason.splitlines()
    assert (first, second) == ("ValueError: the reason", "Traceback (most recent call last):")
    assert outcome.reason.count("ValueError: the reason") == 1
    assert "in fail" in "".join(rest)


def test_error_in_our_own_frames_has_no_traceback() -> None:
    error = caught(lambda: pack({"x": object()}))
    assert error.__traceback__ is not None
    assert error.__traceback__.tb_next is not None
    error.__traceback__ = error.__traceback__.tb_next.tb_next  # as if a worker had called it
    error.__cause__ = None
    error.__suppress_context__ = True
    reason = failure(error).reason
    assert reason.startswith("spoolnode.protocol.errors.BadTask: `x` is of type object, which cannot travel")
    assert "Traceback" not in reason


def test_reason_that_is_too_long_keeps_what_the_exception_says() -> None:
    def long() -> None:
        raise ValueError("start " + "x" * 100_000)

    reason = failure(caught(long)).reason
    assert len(reason) <= messages.MAX_TEXT
    assert reason.startswith("ValueError: start xxx")
    assert "in long" in reason


def test_task_whose_exception_cannot_be_judged_has_failed_and_says_both() -> None:
    def judge(*_: object) -> Outcome:
        raise TypeError("no class")

    unused: Any = None
    outcome = judged(judge, unused, caught(fail))
    assert outcome.kind is Ending.FAILED
    first, *rest = outcome.reason.splitlines()
    assert first == "ValueError: the reason (what it means cannot be told: TypeError: no class)"
    assert "in fail" in "".join(rest)
