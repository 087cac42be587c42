"""From what a node tells of a task to Django's TaskResult."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from django.conf import settings

from spoolnode.django.library import NoResult, base, new_result
from spoolnode.django.running import TIMES, find_task
from spoolnode.protocol.values import unpack

NO_FAILURE = ("again", "retry")
"""The ends of attempts that were asked for by a return value."""
TRACE = "Traceback (most recent call last):\n"


def task_result(told: Mapping[str, Any], alias: str, identity: str) -> Any:
    """The result of a task, of which a node tells this (see docs/wire-format.md).

    Raises Django's `TaskResultDoesNotExist` for what is not one of Django's tasks, or whose arguments are not told.
    """
    kept = unpack(told["kept"], "the result") if "kept" in told else {}
    about = kept.get("django", {})
    call = about or (unpack(told["values"]) if "values" in told else None)
    name = str(about.get("function") or told.get("function", ""))
    task = find_task(name)
    if task is None:
        raise NoResult(f"{identity} is a call of {name or 'another function'}, which is not one of Django's tasks")
    if call is None:
        raise NoResult(f"the arguments of the task {identity} are too large to be told")
    result = new_result(
        task if task.backend == alias else task.using(backend=alias), alias, identity, call.get("args", []),
        call.get("kwargs", {}),
    )  # fmt: skip
    story = [step for step in told["story"] if isinstance(step, dict)]
    status = _STATUS.get(str(told["state"]), base.TaskResultStatus.READY)
    times = _times(told, story, about)
    changes = {name: _moment(times.get(name)) for name in TIMES}
    for name, value in {**changes, "status": status, "_return_value": kept.get("result")}.items():
        object.__setattr__(result, name, value)  # Django's record is frozen; its own backends change it like this
    result.errors.extend(_errors(story))
    result.worker_ids.extend(about.get("worker_ids") or _workers(told, story))
    return result


_STATUS = {
    "running": base.TaskResultStatus.RUNNING,
    "dead": base.TaskResultStatus.FAILED,
    "done": base.TaskResultStatus.SUCCESSFUL,
}
"""Those of tasks that do not wait."""


def _times(told: Mapping[str, Any], story: list[dict[str, Any]], about: Mapping[str, Any]) -> dict[str, float]:
    """Its times in seconds since 1970: as far as the story tells them, and, for a good end, as its worker noted them."""
    noted = {name: [about[name]] if name in about else [] for name in TIMES}
    starts = [step["at"] - step.get("seconds", 0.0) for step in story if step["event"] == "attempt"] + noted["started_at"]
    if told["state"] == "running" and "seconds" in told:  # a store does not know when another node began
        starts.append(datetime.now(UTC).timestamp() - told["seconds"])
    ends = [step["at"] for step in story if step["event"] == "dead"] if told["state"] == "dead" else noted["finished_at"]
    found = {
        "enqueued_at": min([*(step["at"] for step in story[:1]), *noted["enqueued_at"]], default=None),
        "started_at": min(starts, default=None),
        "last_attempted_at": max(starts, default=None),
        "finished_at": max([*ends, *starts]) if ends else None,  # the story's times are rounded down
    }
    return {name: time for name, time in found.items() if time is not None}


def _moment(seconds: float | None) -> datetime | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC) if settings.USE_TZ else datetime.fromtimestamp(seconds)  # noqa: DTZ006  # so


def _workers(told: Mapping[str, Any], story: list[dict[str, Any]]) -> list[str]:
    """The node of each attempt."""
    nodes = [str(step.get("node", "")) for step in story if step["event"] == "attempt"]
    return [*nodes, str(story[-1].get("node", ""))] if told["state"] == "running" and story else nodes


def _errors(story: list[dict[str, Any]]) -> list[Any]:
    """The failures of its attempts, and why it was given up without one."""
    failed = [step for step in story if step["event"] == "attempt" and step.get("outcome") not in NO_FAILURE]
    given_up = [step for step in story if step["event"] == "dead" and step.get("reason")]
    return [_error(step) for step in [*failed, *given_up]]


def _error(step: Mapping[str, Any]) -> Any:
    """A failure as Python shows it: the traceback, and below it what was raised."""
    message, mark, frames = str(step.get("reason", "")).partition(f"\n{TRACE}")
    text = f"{TRACE}{frames}\n{message}\n" if mark else message
    return base.TaskError(exception_class_path=step.get("error") or "spoolnode.SpoolnodeError", traceback=text)
