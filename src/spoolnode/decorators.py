"""Our decorators: a function whose calls can be spooled, with arguments of any type that msgpack has.

    @spool
    def mail(n, to): ...

    mail(1, to=["a@b.c"])                              # calls it, here and now
    mail.spool(1, to=["a@b.c"])                        # stores the call in the spool; a worker runs it
    await mail.aspool(1, to=["a@b.c"])                 # the same without blocking the loop
    mail.options(at=1764000000, node="alpha").spool(1, to=[])   # the same, later and elsewhere

On the wire the variable `spool_func` names the function, `module:qualname`, and `spool_values` holds
`{"args": [...], "kwargs": {...}}` as msgpack. Arguments that are too large for a variable travel as the task's body.
Arguments arrive as they were sent, tuples as tuples; `protocol/extension.py` has the types. Any other type is refused
when the call is spooled, not when it should run.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import update_wrapper, wraps
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar, overload

from spoolnode import client
from spoolnode.calls.registry import INTERACTIVE, REGISTRY, full_name
from spoolnode.calls.results import again, conclude, outcome_of, outcome_of_function
from spoolnode.context import WorkerContext
from spoolnode.errors import BadDecoration
from spoolnode.node.outcome import Call, Outcome, Timer
from spoolnode.protocol import names
from spoolnode.protocol.errors import BadPacket, BadTask, Refused
from spoolnode.protocol.unfit import fault
from spoolnode.protocol.values import encode_task, pack, unpack
from spoolnode.wire import Message, destination, message, resolve, send_timeout

Params = ParamSpec("Params")
R = TypeVar("R")

MAX_VALUES = 60_000
"""Arguments up to this size in bytes travel as a variable, larger ones as the body; the rest of 65535 is for names."""


@dataclass(frozen=True, slots=True)
class Options:
    """How one call is spooled."""

    at: float | datetime | None = None
    """Earliest start: seconds since 1970 or a datetime. None: at once."""
    priority: int | None = None
    """Lower runs sooner. None: after all with a priority."""
    node: str | None = None
    """Where it runs: a node's name, host:port, tag:X, any or all. None: on the node that is asked."""
    timeout: float | None = None
    """Seconds it may run; then its worker is killed and it counts as a failed attempt. None: the node's --timeout."""
    via: str | None = None
    """The node to send it to. None: the environment's SPOOLNODE_VIA, else port 3031 of this machine."""
    send_timeout: float | None = None
    """Seconds that sending may take. None: the environment's SPOOLNODE_SEND_TIMEOUT, else 5."""


class SpooledCall(Generic[Params]):
    """A function together with options, from `options()`."""

    def __init__(self, function: "SpooledFunction[Params, Any]", options: Options) -> None:
        self._function = function
        self._options = options

    def __repr__(self) -> str:
        return f"<call of {self._function.name}: {self._options}>"

    def spool(self, /, *args: Params.args, **kwargs: Params.kwargs) -> str:
        """Stores a call and returns its id. Raises what `send_to_spooler` raises, and `BadTask` for arguments that the
        function does not take."""
        request = self._function.request(self._options, args, kwargs)
        return client.send(resolve(self._options.via), request, send_timeout(self._options.send_timeout))

    def spool_on_commit(self, /, *args: Params.args, **kwargs: Params.kwargs) -> None:
        """Stores a call when Django's open transaction commits, or at once without one. After a rollback nothing is stored.

        Raises:
            BadTask: at once, when the function does not take these arguments, or they cannot travel.
            SpoolnodeError: at the commit, as `spool` does.
        """
        from django.db import transaction

        request = self._function.request(self._options, args, kwargs)
        to, patience = resolve(self._options.via), send_timeout(self._options.send_timeout)
        transaction.on_commit(lambda: client.send(to, request, patience))

    async def aspool(self, /, *args: Params.args, **kwargs: Params.kwargs) -> str:
        """As `spool`, without blocking the loop."""
        from spoolnode.client import aio

        request = self._function.request(self._options, args, kwargs)
        return await aio.asend(resolve(self._options.via), request, send_timeout(self._options.send_timeout))


def _takes_only(error: type[Exception], what: str) -> Callable[[Callable[Params, R]], Callable[Params, R]]:
    """Makes the error for an unknown option a sentence with all known ones."""

    def decorate(function: Callable[Params, R]) -> Callable[Params, R]:
        known = list(getattr(function, "__kwdefaults__", ()))

        @wraps(function)
        def checked(*args: Params.args, **kwargs: Params.kwargs) -> R:
            for name in kwargs:
                if name not in known:
                    raise error(f"{what} takes no option {name!r}; it takes {', '.join(known[:-1])} and {known[-1]}")
            return function(*args, **kwargs)

        return checked

    return decorate


class SpooledFunction(Generic[Params, R]):
    """A decorated function. Calling it calls the function; `spool` and `aspool` store the call instead."""

    def __init__(self, function: Callable[Params, R], name: str, options: Options, forever: bool, raw: bool) -> None:
        update_wrapper(self, function)
        self.function = function
        self.name = name
        self._options = options
        self._forever = forever
        self._raw = raw
        self._signature: Any = None

    def __repr__(self) -> str:
        return f"<spooled function {self.name}>"

    def __call__(self, /, *args: Params.args, **kwargs: Params.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """As a function in a class: through an object it is a method, which can be called but not spooled."""
        if instance is None or isinstance(self.function, staticmethod):
            return self
        return SpooledMethod(self, instance)

    def spool(self, /, *args: Params.args, **kwargs: Params.kwargs) -> str:
        """Stores a call with these arguments and returns its id.

        Raises:
            BadTask: the function does not take these arguments, or they cannot travel.
            SpoolnodeError: everything else that `send_to_spooler` raises.
        """
        return SpooledCall[Params](self, self._options).spool(*args, **kwargs)

    def spool_on_commit(self, /, *args: Params.args, **kwargs: Params.kwargs) -> None:
        """Stores a call when Django's transaction commits (see `SpooledCall.spool_on_commit`)."""
        SpooledCall[Params](self, self._options).spool_on_commit(*args, **kwargs)

    async def aspool(self, /, *args: Params.args, **kwargs: Params.kwargs) -> str:
        """As `spool`, without blocking the loop."""
        return await SpooledCall[Params](self, self._options).aspool(*args, **kwargs)

    @_takes_only(BadTask, "options()")
    def options(
        self,
        *,
        at: float | datetime | None = None,
        priority: int | None = None,
        node: str | None = None,
        timeout: float | None = None,
        via: str | None = None,
        send_timeout: float | None = None,
    ) -> SpooledCall[Params]:
        """This function with other options (see `Options`). Options that are not given keep the values from the decorator.

        Raises:
            BadTask: an option is invalid or unknown.
        """
        given = {"at": at, "priority": priority, "node": node, "timeout": timeout, "via": via, "send_timeout": send_timeout}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        options = replace(self._options, **changes)
        _check(options)
        return SpooledCall(self, options)

    def request(self, options: Options, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Message:
        """The request that stores a call. Raises `BadTask` for arguments that it does not take, or that cannot travel."""
        if self.name.startswith(INTERACTIVE):
            raise BadTask(
                f"{self.name.removeprefix(INTERACTIVE)} was typed into an interpreter, or read from a pipe, where no worker can "
                "find it: put it into a module; nothing was sent"
            )
        arguments = self._bound(args, kwargs)
        try:
            return _message(self.name, options, args, kwargs)
        except BadTask as error:
            said = fault(arguments)
            if said:
                raise BadTask(f"{self.name} cannot be spooled like this: the argument {said}; nothing was sent") from error
            raise

    def _bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments by their names. Raises `BadTask` if the function does not take them."""
        import inspect  # only callers that spool need it, workers do not

        if self._signature is None:
            try:
                # Of the function that is called, not of the one it wraps: a wrapper may add or remove arguments.
                self._signature = inspect.signature(self.function, follow_wrapped=False)
            except (TypeError, ValueError):  # some functions written in C have none
                self._signature = inspect.signature(lambda *_, **__: None)
        try:
            return dict(self._signature.bind(*args, **kwargs).arguments)
        except TypeError as error:
            raise BadTask(f"{self.name} does not take these arguments: {error}; nothing was sent") from None

    def run(self, call: Call, context: WorkerContext) -> Outcome | Awaitable[Outcome]:
        """Runs a spooled call, in a worker. Raises what the function raises, and `BadPacket` for bad arguments."""
        args, kwargs = _arguments(call)
        result = self.function(*args, **kwargs)
        if self._raw:
            return conclude(result, lambda returned: outcome_of(returned, context.frequency))
        if self._forever:
            return conclude(result, lambda _: again(context.frequency))
        return conclude(result, lambda returned: outcome_of_function(returned, context.frequency))


class SpooledMethod:
    """A spooled function as a method of an object. It can be called, but not spooled, because the object cannot travel."""

    def __init__(self, function: SpooledFunction[..., Any], instance: object) -> None:
        update_wrapper(self, function.function)
        self._function = function
        self._instance = instance

    def __repr__(self) -> str:
        return f"<spooled function {self._function.name} as a method>"

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._function(self._instance, *args, **kwargs)

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise BadTask(
            f"{self._function.name} is a method, and the object that it belongs to cannot travel: spool a function, or a static "
            "method (@staticmethod above @spool), that gets what it needs as arguments; nothing was sent"
        )

    spool = spool_on_commit = options = _refuse

    async def aspool(self, *_: object, **__: object) -> NoReturn:
        """Raises `BadTask`, as `spool` does."""
        self._refuse()


class _Decorator:
    """`@spool` and its kin: bare, or with options for all calls."""

    def __init__(self, *, forever: bool = False, raw: bool = False) -> None:
        self._forever = forever
        self._raw = raw

    @overload
    def __call__(self, function: Callable[Params, R], /) -> SpooledFunction[Params, R]: ...

    @overload
    def __call__(
        self,
        /,
        *,
        node: str | None = None,
        priority: int | None = None,
        timeout: float | None = None,
        name: str | None = None,
    ) -> Callable[[Callable[Params, R]], SpooledFunction[Params, R]]: ...

    @_takes_only(BadDecoration, "@spool")
    def __call__(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        node: str | None = None,
        priority: int | None = None,
        timeout: float | None = None,
        name: str | None = None,
    ) -> Any:
        """Makes a function spoolable.

        Args:
            function: the function, if the decorator stands bare.
            node: where its calls run; None: on the node that is asked.
            priority: lower runs sooner.
            timeout: seconds a call may run.
            name: its name on the wire, if `module:qualname` will not do.

        Raises:
            BadDecoration: this is not a function, another one has this name, or an option is unknown.
            BadTask: `node`, `priority` or `timeout` is invalid.
        """
        options = Options(node=node, priority=priority, timeout=timeout)
        _check(options)

        def decorate(function: Callable[..., Any]) -> SpooledFunction[..., Any]:
            _check_function(function, name)
            spooled = SpooledFunction(function, name or full_name(function), options, self._forever, self._raw)
            REGISTRY.add(spooled.name, spooled)
            return spooled

        return decorate if function is None else decorate(function)


def _check_function(function: Callable[..., Any], name: str | None) -> None:
    """Raises `BadDecoration` for a function that no worker could ever run, or find."""
    if not callable(function) or not hasattr(function, "__qualname__"):
        hint = f"; a name is given as @spool(name={function!r})" if isinstance(function, str) else ""
        raise BadDecoration(f"{function!r} cannot be spooled: it is not a function{hint}")
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    if code is not None and code.co_flags & _YIELDS:
        raise BadDecoration(
            f"{full_name(function)} cannot be spooled: it contains a `yield`, so a call runs none of it; "
            "spool a function that does the work, or that loops over this one"
        )
    if name is None and "<" in function.__qualname__:
        raise BadDecoration(
            f"{full_name(function)} cannot be spooled: a worker finds a function by its name, and one that is made in another "
            "function, or by a lambda, has no name of its own. Define it in its module, use functools.wraps in what wraps it, "
            "or give it one with name="
        )


_YIELDS = 0x20 | 0x200
"""CO_GENERATOR and CO_ASYNC_GENERATOR of `inspect`, which takes long to import."""


spool = _Decorator()
"""Makes a function whose calls can be spooled. A call has failed if it raises. It is run again if it returns SPOOL_RETRY or
SPOOL_IGNORE; other return values do not matter."""

spoolforever = _Decorator(forever=True)
"""As `spool`, and when a call has ended well it runs again, after the spooler's frequency (30 s)."""

spoolraw = _Decorator(raw=True)
"""As `spool`, but every int that it returns counts, as in uWSGI: -2 is done, -1 again, 0 not its own."""


def timer(seconds: float) -> Callable[[Callable[[], R]], Callable[[], R]]:
    """Calls the function every `seconds` seconds, in any one worker of each node.

    Raises:
        BadDecoration: `seconds` is not a number greater than 0, or the function cannot be called without arguments.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < float("inf"):
        raise BadDecoration(f"@timer({seconds!r}): it needs a period in seconds, a number greater than 0, like @timer(30)")

    def decorate(function: Callable[[], R]) -> Callable[[], R]:
        _check_timed(function)
        REGISTRY.add_timer(Timer(full_name(function), float(seconds), (-1, -1, -1, -1, -1)), function)
        return function

    return decorate


_CRON_RANGES = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))


def _takes_five(function: Callable[Params, R]) -> Callable[Params, R]:
    """Makes the error for a call of `cron` without its five arguments a sentence."""

    @wraps(function)
    def checked(*args: Params.args, **kwargs: Params.kwargs) -> R:
        if len(args) + len(kwargs) != len(_CRON_RANGES) or kwargs.keys() != {name for name, *_ in _CRON_RANGES[len(args) :]}:
            raise BadDecoration("@cron takes five numbers: minute, hour, day, month, weekday; -1 is any")
        return function(*args, **kwargs)

    return checked


@_takes_five
def cron(minute: int, hour: int, day: int, month: int, weekday: int) -> Callable[[Callable[[], R]], Callable[[], R]]:
    """Calls the function at these local times, in any one worker of each node: -1 is any, -n every n; weekday 0 and 7 are
    Sunday.

    Raises:
        BadDecoration: these are not five numbers, a field is out of its range, or the function cannot be called without
        arguments.
    """
    fields = (minute, hour, day, month, weekday)
    check_cron(fields)

    def decorate(function: Callable[[], R]) -> Callable[[], R]:
        _check_timed(function)
        REGISTRY.add_timer(Timer(full_name(function), 0.0, fields), function)
        return function

    return decorate


def _check_timed(function: Callable[..., Any]) -> None:
    """Raises `BadDecoration` for a function that cannot be called by a timer."""
    if not callable(function) or not hasattr(function, "__qualname__"):
        raise BadDecoration(f"{function!r} cannot be called by a timer: it is not a function")
    code = getattr(function, "__code__", None)
    if code is None:
        return
    if code.co_flags & _YIELDS:
        raise BadDecoration(
            f"{full_name(function)} cannot be called by a timer: it contains a `yield`, so a call runs none of it"
        )
    needed = code.co_argcount - len(getattr(function, "__defaults__", None) or ())
    if needed > 0:
        raise BadDecoration(
            f"{full_name(function)} cannot be called by a timer: it is called without arguments, and needs "
            f"{', '.join(code.co_varnames[:needed])}"
        )


def check_cron(fields: tuple[int, ...]) -> None:
    """Raises `BadDecoration` unless these are minute, hour, day, month and weekday."""
    for value, (name, low, high) in zip(fields, _CRON_RANGES, strict=True):
        if not isinstance(value, int) or not (low <= value <= high or -high <= value < 0):
            raise BadDecoration(f"@cron: {name} is {value!r}; it must be {low} to {high}, -1 (any) or -n (every n)")


def _message(name: str, options: Options, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Message:
    values = pack({"args": list(args), "kwargs": kwargs})
    task: dict[str, Any] = {
        key: value for key, value in (("at", options.at), ("priority", options.priority)) if value is not None
    }
    extra = [(names.FUNCTION, name.encode()), *_variables(options)]
    if len(values) > MAX_VALUES:
        task["body"] = values
    else:
        extra.append((names.VALUES, values))
    return message(encode_task(task, extra))


def _variables(options: Options) -> list[tuple[bytes, bytes]]:
    """The variables that carry these options, which are checked already."""
    variables = destination(options.node)
    if options.timeout is not None:
        variables.append((names.TIMEOUT, _seconds(options.timeout)))
    return variables


def _seconds(timeout: float) -> bytes:
    return f"{timeout:.6f}".encode()


def _check(options: Options) -> None:
    """Raises `BadTask` for invalid options, and shows them as they were written."""
    destination(options.node)
    for name, value, right in (
        ("at", options.at, f"a datetime or {names.RIGHT_AT}"),
        ("priority", options.priority, names.RIGHT_PRIORITY),
    ):
        try:
            if value is not None:
                encode_task({name: value})
        except BadTask:
            raise BadTask(f"`{name}` is {value!r}; it must be {right}") from None
    timeout: object = options.timeout
    if timeout is not None:
        try:
            if isinstance(timeout, bool) or not isinstance(timeout, int | float):
                raise ValueError
            names.read_timeout(_seconds(timeout))
        except (Refused, ValueError, OverflowError):
            raise BadTask(f"`timeout` is {timeout!r}; it must be seconds greater than 0, below 100000000") from None


def _arguments(call: Call) -> tuple[list[Any], dict[str, Any]]:
    packed = dict(call.variables).get(names.VALUES, call.body)
    if not packed:
        return [], {}
    values = unpack(packed)
    args, kwargs = values.get("args", []), values.get("kwargs", {})
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise BadPacket('the arguments of a spooled call must be {"args": [...], "kwargs": {...}}')
    return args, kwargs


__all__ = ["Options", "SpooledCall", "SpooledFunction", "cron", "spool", "spoolforever", "spoolraw", "timer"]
