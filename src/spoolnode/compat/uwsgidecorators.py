"""Installed in workers as `uwsgidecorators`: the decorators of an unmodified uWSGI application.

Arguments of `pass_arguments=True` are pickled, as in uWSGI; a node takes such a task only through its own unix socket
or directory, and it is unpickled here only for a function that was decorated so. Unlike there, a value that is not
UTF-8 stays bytes instead of failing for ever, and a name that two functions share is warned of.
"""

import pickle
import sys
import threading
import warnings
from collections.abc import Awaitable, Callable
from functools import partial, update_wrapper, wraps
from typing import Any, NoReturn

from spoolnode.compat import values
from spoolnode.compat.context import WorkerContext
from spoolnode.compat.uwsgi_module import set_user_harakiri
from spoolnode.errors import BadDecoration
from spoolnode.node.outcome import DONE, Call, Outcome, Timer
from spoolnode.registry import REGISTRY, full_name
from spoolnode.results import again, conclude, outcome_of

Function = Callable[..., Any]

_SPECIAL = ("message_dict", "spooler", "priority", "at", "body")
"""Keywords that mean something to the spooler and are no arguments of the function."""


class _Spooled:
    """A decorated function: calling it stores the call. The function itself is `.f`."""

    stored_result: bytes | None = b"-2"
    """`ud_spool_ret`: what the task counts as when the function has ended well; None leaves it to the function."""

    def __init__(self, f: Function, pass_arguments: bool = False) -> None:
        update_wrapper(self, f)
        self.f = self.function = f
        self.pass_arguments = pass_arguments
        known = REGISTRY.legacy.get(f.__name__)
        if known is not None and full_name(known.function) != full_name(f):
            warnings.warn(
                f"uwsgidecorators: {full_name(f)} replaces {full_name(known.function)}, both have the same name",
                stacklevel=3,
            )
        REGISTRY.legacy[f.__name__] = self
        f.spool = self.spool  # type: ignore[attr-defined]  # uWSGI's older way to call it

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Stores a call; the path of its file. Raises ValueError when it could not be stored."""
        task = self._pickled(args, kwargs) if self.pass_arguments else self._plain(args, kwargs)
        task["ud_spool_func"] = self.f.__name__
        if self.stored_result is not None:
            task["ud_spool_ret"] = self.stored_result
        return _uwsgi().spool(task)

    spool = __call__

    def run(self, call: Call, context: WorkerContext) -> Outcome | Awaitable[Outcome]:
        """Makes a stored call, in a worker."""
        env = _decoded(values.environment(call.variables, call.body, call.file_name))
        stored = env.get("ud_spool_ret", self.stored_result)
        if self.pass_arguments and ("args" in env or "kwargs" in env):
            raw = dict(call.variables)
            result = self.f(*_unpickled(raw, b"args", ()), **_unpickled(raw, b"kwargs", {}))
        else:
            result = self.f(env)
        return conclude(result, lambda returned: _outcome(stored, returned, context))

    def _plain(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[Any, Any]:
        return {**(args[0] if args else {}), **kwargs}

    def _pickled(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[Any, Any]:
        task = {name: kwargs.pop(name) for name in _SPECIAL if name in kwargs}
        for name in ("at", "priority"):
            if isinstance(task.get(name), int | float):  # uWSGI takes only text
                task[name] = str(task[name])
        return {**task, "args": pickle.dumps(args), "kwargs": pickle.dumps(kwargs)}


class _SpooledForever(_Spooled):
    stored_result = b"-1"


class _SpooledRaw(_Spooled):
    stored_result = None


def _decorator(kind: type[_Spooled]) -> Callable[..., Any]:
    def decorate(f: Function | None = None, pass_arguments: bool = False) -> Any:
        if f is None:
            return lambda function: kind(function, pass_arguments)
        return kind(f, pass_arguments)

    return decorate


spool = _decorator(_Spooled)
spoolforever = _decorator(_SpooledForever)
spoolraw = _decorator(_SpooledRaw)


def _outcome(stored: Any, returned: object, context: WorkerContext) -> Outcome:
    if stored is None:
        return outcome_of(returned, context.frequency)
    result = int(stored)
    # A function that asks to be run again after it ended well is not a failure: no attempt is counted against it.
    return again(context.frequency) if result == -1 else DONE if result == -2 else outcome_of(result)


def _decoded(env: values.Environment) -> dict[str, str | bytes]:
    said = {
        key if isinstance(key, str) else key.decode("utf-8", "surrogateescape"): _text_if_it_is(value)
        for key, value in env.items()
    }
    if "body" in env and _is_pickle(env["body"]):
        said["body"] = env["body"]
    return said


def _text_if_it_is(value: bytes) -> str | bytes:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value


def _is_pickle(body: bytes) -> bool:
    """Whether a body is a pickle of any protocol: such a one stays bytes also when it happens to be UTF-8. Nothing is run."""
    if not body.endswith(pickle.STOP):
        return False
    import pickletools  # few bodies come so far

    try:
        return all(opcode is not None for opcode, _, _ in pickletools.genops(body))
    except (ValueError, IndexError, OverflowError):
        return False


def _unpickled(raw: dict[bytes, bytes], name: bytes, default: Any) -> Any:
    # The node has let it through only from this machine's own unix socket or directory.
    return pickle.loads(raw[name]) if name in raw else default  # noqa: S301  # see above


def _uwsgi() -> Any:
    if "uwsgi" not in sys.modules:
        raise BadDecoration("uwsgidecorators work only in an application that a worker of spoolnode has loaded")
    return sys.modules["uwsgi"]


# --- timers: any one worker calls them, whatever `target` says, for all our workers are spoolers ---


def timer(secs: float, signum: int = 0, target: str = "") -> Callable[[Function], Function]:
    """Calls the function every `secs` seconds with the number of its signal."""
    if not secs > 0:
        raise BadDecoration(f"@timer({secs!r}): the period is in seconds and must be greater than 0")
    return _timed(float(secs), (-1, -1, -1, -1, -1), signum, target)


def rbtimer(secs: float, signum: int = 0, target: str = "") -> Callable[[Function], Function]:
    """As `timer`: the two differ only in how uWSGI counts the time."""
    return timer(secs, signum, target)


def mstimer(milliseconds: float, signum: int = 0, target: str = "") -> Callable[[Function], Function]:
    """As `timer`, in milliseconds."""
    return timer(milliseconds / 1000, signum, target)


def cron(
    minute: int, hour: int, day: int, month: int, dayweek: int, signum: int = 0, target: str = ""
) -> Callable[[Function], Function]:
    """Calls the function at these times with the number of its signal: -1 is any, -n every n."""
    from spoolnode.decorators import check_cron

    fields = (minute, hour, day, month, dayweek)
    check_cron(fields)
    return _timed(0.0, fields, signum, target)


def _timed(seconds: float, fields: tuple[int, int, int, int, int], signum: int, _target: str) -> Callable[[Function], Function]:
    def decorate(f: Function) -> Function:
        REGISTRY.add_timer(Timer(full_name(f), seconds, fields), partial(f, signum))
        return f

    return decorate


# --- the rest ---


def postfork(f: Function) -> Function:
    """Calls the function once in each worker, after the application is loaded."""
    REGISTRY.post_fork.append(f)
    return f


def lock(f: Function) -> Function:
    """Nothing: in a spooler process uWSGI does not lock either."""
    return f


def thread(f: Function) -> Function:
    """Each call of the function runs in a thread of its own."""

    @wraps(f)
    def start(*args: Any, **kwargs: Any) -> Function:
        threading.Thread(target=f, args=args, kwargs=kwargs, daemon=True).start()
        return f

    return start


def harakiri(seconds: int) -> Callable[[Function], Function]:
    """The worker ends when a call of the function takes longer; that is a failed attempt of its task."""

    def decorate(f: Function) -> Function:
        @wraps(f)
        def limited(*args: Any, **kwargs: Any) -> Any:
            set_user_harakiri(seconds)
            try:
                return f(*args, **kwargs)
            finally:
                set_user_harakiri(0)

        return limited

    return decorate


def _absent(name: str, instead: str) -> Callable[..., NoReturn]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise BadDecoration(f"uwsgidecorators.{name} is not available in a worker of spoolnode: {instead}")

    return refuse


_NO_MULES = "there are no mules; use @spool"
_NO_SIGNALS = "there are no uWSGI signals; use @spool, @timer or @cron"
mulefunc = _absent("mulefunc", _NO_MULES)
mule = _absent("mule", _NO_MULES)
muleloop = _absent("muleloop", _NO_MULES)
mulemsg = _absent("mulemsg", _NO_MULES)
mulemsg_loop = _absent("mulemsg_loop", _NO_MULES)
mule_brain = _absent("mule_brain", _NO_MULES)
mule_brainloop = _absent("mule_brainloop", _NO_MULES)
farm = _absent("farm", _NO_MULES)
farm_loop = _absent("farm_loop", _NO_MULES)
signal = _absent("signal", _NO_SIGNALS)
get_free_signal = _absent("get_free_signal", _NO_SIGNALS)
filemon = _absent("filemon", "use a library such as watchfiles")
rpc = _absent("rpc", "there is no RPC; use @spool")
erlang = _absent("erlang", "there is no Erlang")
