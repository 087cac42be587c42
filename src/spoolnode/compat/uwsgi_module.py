"""Builds the module that workers install as `uwsgi`: as an application in a real spooler process sees it in Python 3.

It has every public name of the real one. A name that cannot work in a worker fails when it is called (see `absent`).
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from spoolnode import client
from spoolnode.api import SPOOL_IGNORE, SPOOL_OK, SPOOL_RETRY
from spoolnode.compat import absent, uwsgi_values
from spoolnode.compat.locks import WorkersLock
from spoolnode.compat.signals import Signals
from spoolnode.context import WorkerContext
from spoolnode.node.disk.layout import Layout, waiting_ref
from spoolnode.protocol import names
from spoolnode.protocol.errors import BadPacket, SpoolnodeError
from spoolnode.protocol.packet import MAX_BLOCK, Variables, encode_variables
from spoolnode.protocol.request import read_terms
from spoolnode.protocol.spoolfile import parse
from spoolnode.protocol.values import Encoded
from spoolnode.wire import Address, message, resolve, send_timeout

UWSGI_VERSION = (2, 0, 31)
"""The release of uWSGI whose behaviour this module has."""


_OWN_FILE = encode_variables([(names.FILE, b"1")])


class UwsgiModule(ModuleType):
    """The module `uwsgi` in a worker. A name that it does not have is an `AttributeError` that says why."""

    def __init__(self, context: WorkerContext) -> None:
        super().__init__("uwsgi", "spoolnode's stand-in for the module of a uWSGI server's spooler process")
        self._workers_lock = WorkersLock(context.spool)
        self._signals = Signals(context)
        self._context = context
        self.__dict__.update(
            {name: absent.Absent(name) for name in absent.FUNCTIONS},
            **_constants(context),
            **_facts(),
            **_functions(context),
            **_signal_functions(self._signals),
            **_locking(context, self._workers_lock),
        )

    def __getattr__(self, name: str) -> Any:
        why = "; set it to the callable that runs the tasks" if name == "spooler" else ""
        raise AttributeError(f"module 'uwsgi' has no attribute {name!r} in a worker of spoolnode{why}")


class Flag(int):
    """A bool that can also be called: `uwsgi.is_a_reload` is a bool in Python, but documented as a function."""

    def __call__(self) -> bool:
        return bool(self)

    def __repr__(self) -> str:
        return repr(bool(self))


def build(context: WorkerContext) -> UwsgiModule:
    """The module for this worker."""
    return UwsgiModule(context)


def _constants(context: WorkerContext) -> dict[str, Any]:
    spool = os.fsencode(context.spool)
    host, now = os.fsencode(socket.gethostname()), int(time.time())
    return {
        "SPOOL_OK": SPOOL_OK,
        "SPOOL_RETRY": SPOOL_RETRY,
        "SPOOL_IGNORE": SPOOL_IGNORE,
        "spoolers": (spool,),
        "opt": {"spooler": spool, "master": True, **context.options},
        "version": ".".join(map(str, UWSGI_VERSION)).encode(),
        "version_info": (*UWSGI_VERSION, 0, b""),
        "hostname": host,
        "started_on": now,
        "is_a_reload": Flag(context.is_reload),
        "magic_table": {b"h": host, b"t": str(now).encode(), b"v": os.getcwdb(), b"u": str(os.getuid()).encode(), b"%": b"%"},
    }


def _facts() -> dict[str, Any]:
    """The same for every worker, with the answers of a uWSGI spooler that was not asked to count."""
    return {
        "numproc": 1,
        "cores": 1,
        "has_threads": 1,
        "buffer_size": MAX_BLOCK,
        "queue_size": 0,
        "applications": None,
        "sockets": [],
        "loop": None,
        "unbit": None,
        "i_am_the_lord": lambda *_: False,
        "worker_id": lambda: 0,
        "mule_id": lambda: 0,
        "in_farm": lambda *_: None,
        "workers": lambda: (),
        "total_requests": lambda: 0,
        "request_id": lambda: 0,
        "listen_queue": lambda *_: 0,
        "logsize": lambda: 0,
        "cl": lambda: 0,
        "connection_fd": lambda: 0,
        "ready": lambda: True,
        "ready_fd": lambda: -1,
        "accepting": lambda: None,
        "disconnect": lambda: None,
        "log_this_request": lambda: None,
        "setprocname": lambda _: None,
        "set_warning_message": lambda _: True,
        "suspend": lambda: True,
        "green_schedule": lambda: True,
        "async_sleep": _async_sleep,
        "micros": lambda: time.time_ns() // 1000,
        "mem": _memory,
        "log": _log,
        "set_user_harakiri": set_user_harakiri,
    }


def _functions(context: WorkerContext) -> dict[str, Callable[..., Any]]:
    # Each of these is documented in uWSGI's manual; the docstrings say what is particular here.
    def spool(*arguments: Any, **variables: Any) -> bytes:
        """Stores a task. Returns the path that its file has or would have. As in uWSGI, keywords count only without a dict.

        A task with an `at` in the future has its file when this returns; unlinking it cancels the task. Others get one when
        they have waited for some seconds and few wait beside them.
        """
        return _spool(context, arguments[0] if arguments else variables or None)

    def spooler_jobs() -> list[bytes]:
        return [os.fsencode(path) for path in context.jobs()]

    def spooler_get_task(path: bytes | str) -> uwsgi_values.Environment | None:
        """The task of this path, or None. It takes no lock, so a task may look at itself."""
        name = os.fsdecode(path)
        task = context.get_task(name)
        return None if task is None else uwsgi_values.environment(*task, name)

    def set_spooler_frequency(seconds: int) -> bool:
        """Sets the seconds until a task that asked for it runs again (0: --spooler-frequency), and nothing else."""
        if not isinstance(seconds, int):
            raise TypeError(f"the spooler frequency must be an int; this is a {type(seconds).__name__}")
        if seconds < 0:
            raise ValueError(f"the spooler frequency is {seconds}; it must not be negative")
        context.frequency = float(seconds) or context.configured_frequency
        return True

    def spooler_pids() -> list[int]:
        return [0] if context.is_importing else context.pids()

    def parsefile(path: str) -> uwsgi_values.Environment | None:
        """The variables in a spool file, or any file that holds a uwsgi packet; also of a task without a file yet."""
        if not isinstance(path, str):
            raise TypeError(f"parsefile() argument 1 must be str, not {type(path).__name__}")
        task = None if os.path.exists(path) else context.get_task(path)
        return _parse_file(path) if task is None else _without_name(task[0])

    def to_node(number: signal.Signals) -> Callable[[], bool]:
        def send() -> bool:
            if context.is_loading:
                raise ValueError("the application cannot reload or stop the node while it is imported: that would never end")
            os.kill(context.node_pid, number)
            return True

        return send

    return {
        "spool": spool,
        "send_to_spooler": spool,
        "spooler_jobs": spooler_jobs,
        "spooler_get_task": spooler_get_task,
        "set_spooler_frequency": set_spooler_frequency,
        "i_am_the_spooler": lambda: None if context.is_importing else True,
        "spooler_pids": spooler_pids,
        "spooler_pid": lambda: next(iter(spooler_pids()), 0),
        "parsefile": parsefile,
        "spooler_dir": lambda: os.fsencode(context.spool),
        "masterpid": lambda: context.node_pid,
        "reload": to_node(signal.SIGHUP),
        "stop": to_node(signal.SIGTERM),
    }


def _signal_functions(signals: Signals) -> dict[str, Callable[..., Any]]:
    def signal_(number: int, node: str = "") -> None:
        signals.raise_(number, node)

    def add_cron(number: int, minute: int, hour: int, day: int, month: int, weekday: int) -> bool:
        return signals.add_cron(number, (minute, hour, day, month, weekday))

    def add_ms_timer(number: int, milliseconds: int) -> None:
        """Exists only in uWSGI 2.1."""
        signals.add_timer(number, milliseconds / 1000)

    functions: list[bytes] = []

    def register_rpc(name: str, function: Callable[..., Any], *_: int) -> bool:  # noqa: ARG001  # it is never called
        functions.append(name.encode())
        return True

    def add_file_monitor(number: int, path: str) -> None:
        """Does not watch anything; `doctor` says so."""

    return {
        "register_signal": signals.register,
        "signal_registered": signals.registered,
        "signal": signal_,
        "signal_wait": signals.wait,
        "signal_received": lambda: max(signals.received, 0),
        "add_timer": signals.add_timer,
        "add_rb_timer": signals.add_timer,
        "add_ms_timer": add_ms_timer,
        "add_cron": add_cron,
        "add_file_monitor": add_file_monitor,
        "register_rpc": register_rpc,
        "rpc_list": lambda: tuple(functions),
    }


def _locking(context: WorkerContext, workers_lock: WorkersLock) -> dict[str, Callable[..., Any]]:
    """As in uWSGI: the lock can be taken while the application is imported, and is refused to a spooler."""

    def only_while_loading(number: int) -> None:
        if not context.is_loading:
            raise ValueError("The spooler cannot lock/unlock resources")
        if number:
            raise ValueError(f"Invalid lock number: {number}; there is only 0")

    def lock(number: int = 0) -> None:
        only_while_loading(number)
        workers_lock.__enter__()

    def unlock(number: int = 0) -> None:
        only_while_loading(number)
        workers_lock.__exit__(None, None, None)

    def is_locked(number: int = 0) -> bool:
        only_while_loading(number)
        return workers_lock.is_held

    return {"lock": lock, "unlock": unlock, "is_locked": is_locked}


def _spool(context: WorkerContext, task: object) -> bytes:
    try:
        spool, address, task = _addressed(context, task)
        encoded = uwsgi_values.encode_for_uwsgi(task)
        terms = read_terms(encoded.block, local=True)
        if terms.due > time.time() and len(encoded.block) + len(_OWN_FILE) <= MAX_BLOCK:
            encoded = Encoded(encoded.block + _OWN_FILE, encoded.body)
        identity = client.send(address, message(encoded), send_timeout(None))
    except SpoolnodeError as error:
        raise ValueError(f"unable to spool job: {error}") from error
    return os.fsencode(os.path.join(spool, waiting_ref(identity, terms.rank)))


def _addressed(context: WorkerContext, task: object) -> tuple[str, Address, object]:
    """The spool that a task is for, the address of that spool's node, and the task with the spool's name as that node knows it.

    If `spooler` is the directory of another node on this machine, the task goes to that node: a uWSGI has many directories.
    """
    key = next((key for key in (b"spooler", "spooler") if isinstance(task, Mapping) and task.get(key)), None)
    if not isinstance(task, Mapping) or key is None or not isinstance(task[key], bytes | str):
        return context.spool, resolve(None), task
    spool = os.path.realpath(os.fsdecode(task[key]))
    socket_ = Layout(spool).socket
    if spool == context.spool or not os.path.exists(socket_):  # without a node there, ours refuses the task
        return context.spool, resolve(None), {**task, key: os.fsencode(spool)}
    return spool, resolve(socket_), {**task, key: os.fsencode(spool)}


def set_user_harakiri(seconds: int) -> None:
    """Ends this worker after so many seconds, which fails the task's attempt; 0 cancels that."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _log(line: bytes | str) -> bool:
    """Writes a line to standard error, which the node logs with the id of the task."""
    print(os.fsdecode(line), file=sys.stderr, flush=True)  # noqa: T201 - its purpose
    return True


def _async_sleep(seconds: float) -> bytes:
    """Sleeps. A spooler process of uWSGI has no other requests to turn to either."""
    time.sleep(max(seconds, 0))
    return b""


def _memory() -> tuple[int, int]:
    """Resident and virtual memory of this process, in bytes."""
    with open("/proc/self/statm", encoding="ascii") as file:
        size, resident = file.read().split()[:2]
    page = os.sysconf("SC_PAGE_SIZE")
    return int(resident) * page, int(size) * page


def _parse_file(path: str) -> uwsgi_values.Environment | None:
    """The variables in a file. If it does not hold a packet, prints the reason and returns None."""
    try:
        with open(path, "rb") as file:
            return _without_name(parse(file.read()).variables)
    except (OSError, BadPacket) as error:
        _log(f"uwsgi.parsefile: {path}: {error}")
        return None


def _without_name(variables: Variables) -> uwsgi_values.Environment:
    env = uwsgi_values.environment(variables, b"", "")
    del env["spooler_task_name"]
    return env
