"""Inside a worker: an exception of the application as an outcome and as a text, whatever the exception does itself."""

import importlib
import os
import traceback
from collections.abc import Callable
from types import TracebackType

from spoolnode.node.badconfig import BadConfig
from spoolnode.node.outcome import FAILED, Judge, Outcome, class_path
from spoolnode.node.work import messages
from spoolnode.node.work.taskfile import Task

_OURS = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
_NOT_OF_APPLICATION = (f"{_OURS}{os.sep}", importlib.__file__, "<frozen importlib")
"""Beginnings of the names of files whose frames say nothing about the application."""


def judged(judge: Judge, task: Task, error: BaseException) -> Outcome:
    """The outcome of a task that raised. Never raises, whatever the exception is."""
    try:
        return failure(error, judge(task, error))
    except BaseException as problem:  # noqa: BLE001  # it compares the exception with classes of the application
        said = f"{_shown(error, _said)} (what it means cannot be told: {_shown(problem, _said)})"
        return failure(error, FAILED._replace(reason=said))


def failure(error: BaseException, meaning: Outcome = FAILED) -> Outcome:
    """That outcome of an exception, with the reason: what it says, then the traceback without it. Never raises."""
    reason = _shown(error, lambda shown: _reason(shown, meaning.reason))
    return meaning._replace(reason=reason, error=meaning.error or _shown(error, class_path))


def _shown(error: BaseException, show: Callable[[BaseException], str]) -> str:
    """The text that `show` makes of an exception, or only its type if its own code or a lack of memory prevents that."""
    try:
        return show(error)
    except BaseException as problem:  # noqa: BLE001  # its own code may raise anything
        return f"{_type_name(error)} (it cannot be shown: {_type_name(problem)})"


def _type_name(error: BaseException) -> str:
    """The name of its class, past a metaclass that may raise."""
    return str(type.__dict__["__name__"].__get__(type(error)))


def _said(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip()


def _reason(error: BaseException, said: str) -> str:
    last = traceback.format_exception_only(error)
    lines = traceback.format_exception(type(error), error, _frames_of_application(error))
    if lines[-len(last) :] == last:
        del lines[-len(last) :]
    # Both may be cut: the message at its end, the traceback at its beginning.
    summary = (said or "".join(last).strip())[: messages.MAX_TEXT // 2]
    trace = "".join(lines).rstrip()[-(messages.MAX_TEXT // 2 - 1) :]
    return f"{summary}\n{trace}" if trace else summary


def why_not_loaded(error: BaseException) -> tuple[str, bool]:
    """Why an application did not load: the traceback, or only a sentence (True) if it is our own. Never raises."""
    is_sentence = isinstance(error, BadConfig) and _frames_of_application(error) is None
    return _shown(error, str if is_sentence else _whole)[-messages.MAX_TEXT :], is_sentence


def _whole(error: BaseException) -> str:
    return "".join(traceback.format_exception(type(error), error, _frames_of_application(error)))


def _frames_of_application(error: BaseException) -> TracebackType | None:
    """The traceback without leading frames of ours or of the import system."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_NOT_OF_APPLICATION):
        trace = trace.tb_next
    return trace
