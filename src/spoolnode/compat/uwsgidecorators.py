"""Imported in workers as `uwsgidecorators`: the decorators of an unmodified uWSGI application.

`from uwsgidecorators import *` gives the same names as the real one, and the import has the same effect: `activate`.

Arguments of `pass_arguments=True` are pickled, as in uWSGI; a node takes such a task only through its own unix socket
or directory, and it is unpickled here only for a function that was decorated so. Unlike in uWSGI, a value that is not
UTF-8 stays bytes instead of failing for ever, two functions of one name cause a warning, and `@lock` locks.
"""

import pickle
import sys
import warnings
from collections.abc import Awaitable, Callable, Mapping
from functools import partial, update_wrapper, wraps
from threading import Thread
from typing import Any, NoReturn

from spoolnode.calls.registry import REGISTRY, full_name
from spoolnode.calls.results import again, conclude, outcome_of
from spoolnode.compat import uwsgi_values
from spoolnode.compat.absent import NEVER_CALLED, NOT_IN_DECORATORS
from spoolnode.compat.uwsgi_module import set_user_harakiri
from spoolnode.context import WorkerContext
from spoolnode.errors import BadDecoration, Unavailable
from spoolnode.node.outcome import DONE, Call, Outcome

__all__ = [  # exactly those of the real one
    "Thread", "cron", "erlang", "farm", "farm_loop", "filemon", "get_free_signal", "harakiri", "lock", "manage_spool_request",
    "mule", "mule_brain", "mule_brainloop", "mule_functions", "mule_msg_dispatcher", "mulefunc", "muleloop", "mulemsg",
    "mulemsg_loop", "partial", "pickle", "postfork", "postfork_chain", "postfork_chain_hook", "rbtimer", "rpc", "signal",
    "spool", "spool_decorate", "spooler_functions", "spoolforever", "spoolraw", "sys", "thread", "timer", "uwsgi",
]  # fmt: skip

Function = Callable[..., Any]
Decorator = Callable[[Function], Function]

uwsgi: Any = None
"""The module of that name, once the application has imported this one."""
previous_spooler: Function | None = None
"""The value of `uwsgi.spooler` before that."""
spooler_functions: dict[str, Function] = REGISTRY.legacy
"""The functions that tasks may name in `ud_spool_func`."""
mule_functions: dict[str, Function] = {}
postfork_chain: list[Callable[[], object]] = REGISTRY.post_fork
"""Functions that each worker calls after the application is loaded."""


def activate() -> None:
    """The effect of importing the real module: the hooks of the module `uwsgi` become those of this one.

    In uWSGI a `uwsgi.spooler` that was set before is lost, and the tasks meant for it fail for ever. Here it still gets the
    tasks that name none of our functions.
    """
    global uwsgi, previous_spooler  # noqa: PLW0603  # applications expect the one as a name of this module
    uwsgi = _uwsgi()
    previous_spooler = vars(uwsgi).get("spooler")
    uwsgi.spooler = manage_spool_request
    uwsgi.post_fork_hook = postfork_chain_hook
    uwsgi.mule_msg_hook = mule_msg_dispatcher


def _uwsgi() -> Any:
    if "uwsgi" not in sys.modules:
        raise BadDecoration("uwsgidecorators work only in an application that a worker of spoolnode has loaded")
    return sys.modules["uwsgi"]


# --- spooled functions ---

_SPECIAL = ("message_dict", "spooler", "priority", "at", "body")
"""Keywords that are for the spooler and not arguments of the function."""
_decorated: dict[str, "_Spooled"] = {}


class _Spooled:
    """A decorated function: calling it stores the call. The function itself is `.f`."""

    stored_result: str | None = "-2"
    """`ud_spool_ret`: the result of the task when the function has ended well; None leaves it to the function."""

    def __init__(self, f: Function, pass_arguments: bool = False) -> None:
        update_wrapper(self, f)
        self.f = self.function = f
        self.pass_arguments = pass_arguments
        self.base_dict = {"ud_spool_func": f.__name__}
        if self.stored_result is not None:
            self.base_dict["ud_spool_ret"] = self.stored_result
        known = spooler_functions.get(f.__name__)
        if known is not None and full_name(known) != full_name(f):
            warnings.warn(f"uwsgidecorators: {full_name(f)} replaces {full_name(known)}, both have the same name", stacklevel=3)
        spooler_functions[f.__name__] = f
        _decorated[f.__name__] = self
        f.spool = self.spool  # type: ignore[attr-defined]  # uWSGI's older way to call it

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Stores a call. Returns the path of its file. Raises ValueError if it could not be stored."""
        task = self._pickled(args, kwargs) if self.pass_arguments else self._plain(args, kwargs)
        return _uwsgi().spool({**task, **self.base_dict})

    spool = __call__

    def __repr__(self) -> str:
        return f"<{type(self).__name__.lstrip('_')} {full_name(self.f)}>"

    def _plain(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[Any, Any]:
        return {**(args[0] if args else {}), **kwargs}

    def _pickled(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[Any, Any]:
        task = {name: kwargs.pop(name) for name in _SPECIAL if name in kwargs}
        for name in ("at", "priority"):
            if isinstance(task.get(name), int | float):  # uWSGI takes only text
                task[name] = str(task[name])
        return {**task, "args": pickle.dumps(args), "kwargs": pickle.dumps(kwargs)}


class _SpooledForever(_Spooled):
    stored_result = "-1"


class _SpooledRaw(_Spooled):
    stored_result = None


def spool_decorate(f: Function | None = None, pass_arguments: bool = False, _class: type[_Spooled] = _SpooledRaw) -> Any:
    """A decorated function; without a function, a decorator."""
    return partial(_class, pass_arguments=pass_arguments) if f is None else _class(f, pass_arguments)


def spool(f: Function | None = None, pass_arguments: bool = False) -> Any:
    """Calling the function stores the call; it has failed if it raises."""
    return spool_decorate(f, pass_arguments, _Spooled)


def spoolforever(f: Function | None = None, pass_arguments: bool = False) -> Any:
    """As `spool`, and when a call has ended well it runs again, after the spooler's frequency."""
    return spool_decorate(f, pass_arguments, _SpooledForever)


def spoolraw(f: Function | None = None, pass_arguments: bool = False) -> Any:
    """As `spool`, but the return value decides."""
    return spool_decorate(f, pass_arguments, _SpooledRaw)


def run_decorated(name: str, call: Call, context: WorkerContext) -> Outcome | Awaitable[Outcome]:
    """Runs a stored call of one of `spooler_functions`, in a worker."""
    env = _decoded(uwsgi_values.environment(call.variables, call.body, call.file_name))
    stored = _stored_result(name, env)
    return conclude(_made(name, env, dict(call.variables)), lambda returned: _outcome(stored, returned, context))


def manage_spool_request(vars: Mapping[Any, Any]) -> Any:
    """The default of `uwsgi.spooler`: runs the function that the task names.

    Returns:
        The result of the task: its `ud_spool_ret`, else what the function returned; an awaitable of it for an async function.

    Raises:
        KeyError: the task names no function, or an unknown one.
    """
    env = _decoded(vars)
    name = env["ud_spool_func"]
    stored = _stored_result(name, env)
    result = _made(name, env, vars)
    if isinstance(result, Awaitable):
        return _result_later(stored, result)
    return result if stored is None else int(stored)


async def _result_later(stored: Any, result: Awaitable[Any]) -> Any:
    returned = await result
    return returned if stored is None else int(stored)


def _made(name: str, env: dict[str, Any], raw: Mapping[Any, Any]) -> Any:
    """Calls a function as its task says, and returns its result."""
    function = spooler_functions[name]
    if _takes_arguments(name) and ("args" in env or "kwargs" in env):
        return function(*_unpickled(raw, "args", ()), **_unpickled(raw, "kwargs", {}))
    return function(env)


def _takes_arguments(name: str) -> bool:
    known = _known(name)
    return known is None or known.pass_arguments  # one that was put into `spooler_functions` by hand gets what uWSGI gives


def _stored_result(name: str, env: dict[str, Any]) -> Any:
    known = _known(name)
    return env.get("ud_spool_ret", known.stored_result if known else None)


def _known(name: str) -> _Spooled | None:
    """How the function of this name was decorated; None if it was not."""
    known = _decorated.get(name)
    return known if known is not None and known.f is spooler_functions.get(name) else None


def _outcome(stored: Any, returned: object, context: WorkerContext) -> Outcome:
    if stored is None:
        return outcome_of(returned, context.frequency)
    result = int(stored)
    # A function that ended well and asks to run again has not failed: the attempt does not count.
    return again(context.frequency) if result == -1 else DONE if result == -2 else outcome_of(result)


def _decoded(env: Mapping[Any, Any]) -> dict[str, Any]:
    said = {
        key if isinstance(key, str) else key.decode("utf-8", "surrogateescape"): _text_if_it_is(value)
        for key, value in env.items()
    }
    if "body" in env and _is_pickle(env["body"]):
        said["body"] = env["body"]
    return said


def _text_if_it_is(value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value


def _is_pickle(body: Any) -> bool:
    """Whether a body is a pickle of any protocol: then it stays bytes even if it happens to be UTF-8. Nothing is run."""
    if not isinstance(body, bytes) or not body.endswith(pickle.STOP):
        return False
    import pickletools  # few bodies get this far

    try:
        return all(opcode is not None for opcode, _, _ in pickletools.genops(body))
    except (ValueError, IndexError, OverflowError):
        return False


def _unpickled(raw: Mapping[Any, Any], name: str, default: Any) -> Any:
    # The node has let it through only from this machine's own unix socket or directory.
    data = raw.get(name.encode(), raw.get(name))
    return default if data is None else pickle.loads(data)  # noqa: S301  # see above


# --- signals and timers: any one worker calls them, whatever their target, because all our workers are spoolers ---


def get_free_signal() -> int:
    """The lowest signal without a handler. Raises `BadDecoration` if all have one."""
    for number in range(256):
        if not _uwsgi().signal_registered(number):
            return number
    raise BadDecoration("No free uwsgi signal available: all of 0 to 255 have a handler")


def signal(num: int, target: str = "") -> Decorator:
    """Calls the function, with the number, when this signal is raised."""
    return _on_signal(num, target, lambda _: None)


def timer(secs: float, signum: int | None = None, target: str = "") -> Decorator:
    """Calls the function every `secs` seconds with the number of its signal."""
    return _on_signal(signum, target, lambda number: _uwsgi().add_timer(number, secs))


def rbtimer(secs: float, signum: int | None = None, target: str = "") -> Decorator:
    """As `timer`: the two differ only in how uWSGI counts the time."""
    return _on_signal(signum, target, lambda number: _uwsgi().add_rb_timer(number, secs))


def mstimer(msecs: float, signum: int | None = None, target: str = "") -> Decorator:
    """As `timer`, in milliseconds; exists only in uWSGI 2.1."""
    return _on_signal(signum, target, lambda number: _uwsgi().add_ms_timer(number, msecs))


def cron(minute: int, hour: int, day: int, month: int, dayweek: int, signum: int | None = None, target: str = "") -> Decorator:
    """Calls the function at these times with the number of its signal: -1 is any, -n every n."""
    return _on_signal(signum, target, lambda number: _uwsgi().add_cron(number, minute, hour, day, month, dayweek))


def filemon(path: str, signum: int | None = None, target: str = "") -> Decorator:
    """Registers the signal, but watches no file."""
    _never_called("filemon")
    return _on_signal(signum, target, lambda number: _uwsgi().add_file_monitor(number, path))


def _on_signal(number: int | None, target: str, then: Callable[[int], object]) -> Decorator:
    def decorate(f: Function) -> Function:
        chosen = get_free_signal() if number is None else number
        _uwsgi().register_signal(chosen, target, f)
        then(chosen)
        return f

    return decorate


# --- the rest ---


def postfork(f: Function | int) -> Any:
    """Calls the function once in each worker, after the application is loaded.

    `@postfork(n)` is for the n-th web worker of uWSGI, and a spooler is not a web worker; `@postfork(0)` is for all.
    """
    if not callable(f):
        return postfork if not f else _as_it_is
    postfork_chain.append(f)
    return f


def postfork_chain_hook() -> None:
    """The default of `uwsgi.post_fork_hook`."""
    for function in postfork_chain:
        function()


def lock(f: Function) -> Function:
    """Keeps other workers of this node, and other threads, from running a function with `@lock` meanwhile."""

    @wraps(f)
    def locked(*args: Any, **kwargs: Any) -> Any:
        with _uwsgi()._workers_lock:
            return f(*args, **kwargs)

    return locked


def thread(f: Function) -> Function:
    """Each call of the function runs in a thread of its own."""

    @wraps(f)
    def start(*args: Any, **kwargs: Any) -> Function:
        Thread(target=f, args=args, kwargs=kwargs, daemon=True).start()
        return f

    return start


def harakiri(seconds: int) -> Decorator:
    """Ends the worker if a call of the function takes longer; the attempt of its task has then failed."""

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


def rpc(name: str) -> Decorator:
    """Leaves the function as it is; other programs cannot call it."""

    def decorate(f: Function) -> Function:
        _uwsgi().register_rpc(name, f)
        return f

    return decorate


def mulefunc(f: Function | int | str) -> Any:
    """Makes a call of the function fail."""
    if not callable(f):
        return mulefunc
    mule_functions[f.__name__] = f

    @wraps(f)
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise Unavailable(f"{full_name(f)} is a @mulefunc: {NOT_IN_DECORATORS['mulefunc']}")

    return refuse


def mule_msg_dispatcher(message: bytes) -> NoReturn:
    """The default of `uwsgi.mule_msg_hook`, which is never called."""
    raise Unavailable(f"{len(message)} bytes for a mule: {NOT_IN_DECORATORS['mulefunc']}")


def _never_called(name: str) -> None:
    """Warns where the application decorates a function that is never called."""
    if _uwsgi()._context.is_first:
        warnings.warn(f"uwsgidecorators.{name}: {NEVER_CALLED[name]}", stacklevel=3)


def _as_it_is(f: Function) -> Function:
    return f


def _uncalled(name: str) -> Callable[..., Any]:
    """A decorator whose functions are never called."""

    def decorate(*_: Any, **__: Any) -> Decorator:
        _never_called(name)
        return _as_it_is

    decorate.__name__ = decorate.__qualname__ = name
    return decorate


mule = _uncalled("mule")
muleloop = _uncalled("muleloop")
mulemsg = _uncalled("mulemsg")
mulemsg_loop = _uncalled("mulemsg_loop")
mule_brain = _uncalled("mule_brain")
mule_brainloop = _uncalled("mule_brainloop")
farm = _uncalled("farm")
farm_loop = _uncalled("farm_loop")
erlang = _uncalled("erlang")
