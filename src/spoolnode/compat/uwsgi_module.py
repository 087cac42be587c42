"""Builds the module that workers install as `uwsgi`: what an application in a real spooler process sees in Python 3."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

from spoolnode import client
from spoolnode.api import SPOOL_IGNORE, SPOOL_OK, SPOOL_RETRY
from spoolnode.compat import values
from spoolnode.compat.context import WorkerContext
from spoolnode.protocol import names
from spoolnode.protocol.errors import SpoolnodeError
from spoolnode.wire import message, resolve, send_timeout

VERSION = (2, 0, 31)
"""The release of uWSGI whose behaviour this module has."""


class UwsgiModule(ModuleType):
    """The module `uwsgi` in a worker. A name that it does not have is an `AttributeError` that says why."""

    def __init__(self, context: WorkerContext) -> None:
        super().__init__("uwsgi", "spoolnode's stand-in for the module of a uWSGI server's spooler process")
        self.__dict__.update(_constants(context), **_functions(context))

    def __getattr__(self, name: str) -> Any:
        why = "; set it to the callable that runs the tasks" if name == "spooler" else ""
        raise AttributeError(f"module 'uwsgi' has no attribute {name!r} in a worker of spoolnode{why}")


def build(context: WorkerContext) -> UwsgiModule:
    """The module for this worker."""
    return UwsgiModule(context)


def _constants(context: WorkerContext) -> dict[str, Any]:
    spool = os.fsencode(context.spool)
    return {
        "SPOOL_OK": SPOOL_OK,
        "SPOOL_RETRY": SPOOL_RETRY,
        "SPOOL_IGNORE": SPOOL_IGNORE,
        "spoolers": (spool,),
        "opt": {"spooler": spool, "master": True},
        "version": ".".join(map(str, VERSION)).encode(),
        "version_info": (*VERSION, 0, b""),
        "hostname": os.fsencode(socket.gethostname()),
        "started_on": int(time.time()),
        "numproc": 1,
        "cores": 1,
        "has_threads": 1,
        "applications": None,
        "sockets": [],
    }


def _functions(context: WorkerContext) -> dict[str, Callable[..., Any]]:
    # Each of these is documented in uWSGI's manual; the docstrings say what is particular here.
    def spool(*arguments: Any, **variables: Any) -> bytes:
        """Stores a task; the path that its file has or would have. As in uWSGI, keywords count only without a dict."""
        return _spool(context, arguments[0] if arguments else variables)

    def spooler_jobs() -> list[bytes]:
        return [os.fsencode(path) for path in context.jobs()]

    def spooler_get_task(path: bytes | str) -> values.Environment | None:
        """The task of this path, or None; takes no lock, so a task may look at itself."""
        name = os.fsdecode(path)
        task = context.get_task(name)
        return None if task is None else values.environment(*task, name)

    def set_spooler_frequency(seconds: int) -> bool:
        """Seconds until a task runs again that asked for it; 0: --spooler-frequency. Nothing else depends on it here."""
        if not isinstance(seconds, int):
            raise TypeError(f"the spooler frequency must be an int; this is a {type(seconds).__name__}")
        if seconds < 0:
            raise ValueError(f"the spooler frequency is {seconds}; it must not be negative")
        context.frequency = float(seconds) or context.configured_frequency
        return True

    def spooler_pids() -> list[int]:
        return context.pids()

    def spooler_pid() -> int:
        return next(iter(context.pids()), 0)

    return {
        "spool": spool,
        "send_to_spooler": spool,
        "spooler_jobs": spooler_jobs,
        "spooler_get_task": spooler_get_task,
        "set_spooler_frequency": set_spooler_frequency,
        "spooler_pids": spooler_pids,
        "spooler_pid": spooler_pid,
        "spooler_dir": lambda: os.fsencode(context.spool),
        "i_am_the_spooler": lambda: True,
        "i_am_the_lord": lambda *_: False,
        "masterpid": lambda: context.node_pid,
        "worker_id": lambda: 0,
        "mule_id": lambda: 0,
        "in_farm": lambda *_: None,
        "is_a_reload": lambda: False,
        "log": _log,
        "micros": lambda: time.time_ns() // 1000,
        "setprocname": lambda _: None,
        "set_user_harakiri": set_user_harakiri,
        "lock": _cannot_lock,
        "unlock": _cannot_lock,
        "is_locked": _cannot_lock,
    }


def _spool(context: WorkerContext, task: object) -> bytes:
    try:
        encoded = values.encode(task)
        identity = client.send(resolve(None), message(encoded), send_timeout(None))
    except SpoolnodeError as error:
        raise ValueError(f"unable to spool job: {error}") from error
    return os.fsencode(os.path.join(context.spool, names.file_name(identity)))


def set_user_harakiri(seconds: int) -> None:
    """Ends this worker, and so the task with a failed attempt, after so many seconds; 0 calls that off."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _log(line: bytes | str) -> bool:
    """Writes a line to standard error, which the node logs with the id of the task."""
    print(os.fsdecode(line), file=sys.stderr, flush=True)  # noqa: T201 - its purpose
    return True


def _cannot_lock(*_: object) -> NoReturn:
    raise ValueError("The spooler cannot lock/unlock resources")
