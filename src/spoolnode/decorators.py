"""Our decorators: a function whose calls can be spooled, with arguments of any type that msgpack has.

    @spool
    def mail(n, to): ...

    mail(1, to=["a@b.c"])                              # calls it, here and now
    mail.spool(1, to=["a@b.c"])                        # stores the call in the spool; a worker runs it
    await mail.aspool(1, to=["a@b.c"])                 # the same without blocking the loop
    mail.options(at=1764000000, node="alpha").spool(1, to=[])   # the same, later and elsewhere

Arguments arrive as they were sent, tuples as tuples; `protocol/extension.py` has the types. Any other type is refused
when the call is spooled, not when it should run.
"""

import re
from collections.abc import Callable
from typing import Any, Literal, ParamSpec, TypeVar, overload

from spoolnode.calls.call_options import Options, check_options, takes_only
from spoolnode.calls.registry import REGISTRY, full_name
from spoolnode.calls.spooled_function import Exceptions, SpooledFunction
from spoolnode.errors import BadDecoration
from spoolnode.node.outcome import Limit

Params = ParamSpec("Params")
R = TypeVar("R")


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
        max_attempts: int | None = None,
        retry_base: float | None = None,
        retry_max: float | None = None,
        keep_result: bool | None = None,
        unique: Literal["waiting"] | None = None,
        give_up_on: type[BaseException] | Exceptions = (),
        limit: int | None = None,
        rate: str | None = None,
        name: str | None = None,
    ) -> Callable[[Callable[Params, R]], SpooledFunction[Params, R]]: ...

    @takes_only(BadDecoration, "@spool")
    def __call__(  # noqa: PLR0913  # see `options`
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        node: str | None = None,
        priority: int | None = None,
        timeout: float | None = None,
        max_attempts: int | None = None,
        retry_base: float | None = None,
        retry_max: float | None = None,
        keep_result: bool | None = None,
        unique: Literal["waiting"] | None = None,
        give_up_on: type[BaseException] | Exceptions = (),
        limit: int | None = None,
        rate: str | None = None,
        name: str | None = None,
    ) -> Any:
        """Makes a function spoolable.

        Args:
            function: the function, if the decorator stands bare.
            node: where its calls run; None: on the node that is asked.
            priority: lower runs sooner.
            timeout: seconds a call may run.
            max_attempts: failed attempts after which a call goes to dead/; 0: never.
            retry_base: the longest pause after the first failed attempt, in seconds; it doubles each time.
            retry_max: the longest pause of all, in seconds.
            keep_result: whether what a call returns is kept for `result`.
            unique: "waiting": while a call waits on the node that runs it, another one with the same arguments is not run.
            give_up_on: exceptions, with their subclasses, after which a call goes to dead/ at once.
            limit: at most so many of its calls run at once on each node; those of other functions overtake them.
            rate: at most so many start within a time on each node: "10/m" is ten a minute (s, m, h, d).
            name: its name on the wire, if `module:qualname` will not do.

        Raises:
            BadDecoration: this is not a function, another one has this name, `limit` or `rate` is invalid, or an option is
                unknown.
            BadTask: one of the options that travel with a call is invalid.
        """
        options = Options(
            node=node,
            priority=priority,
            timeout=timeout,
            max_attempts=max_attempts,
            retry_base=retry_base,
            retry_max=retry_max,
            keep_result=keep_result,
            unique=unique,
        )
        check_options(options)
        exceptions = exceptions_of(give_up_on)
        limits = limit_of(limit, rate)

        def decorate(function: Callable[..., Any]) -> SpooledFunction[..., Any]:
            _check_function(function, name)
            spooled = SpooledFunction(function, name or full_name(function), options, exceptions, self._forever, self._raw)
            REGISTRY.add(spooled.name, spooled, limits)
            return spooled

        return decorate if function is None else decorate(function)


_RATE = re.compile(r"([1-9][0-9]{0,4})/([smhd])", re.ASCII)
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def limit_of(limit: int | None, rate: str | None) -> Limit:
    """The limit that these options make. Raises `BadDecoration`."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise BadDecoration(f"`limit` is {limit!r}; it must be a whole number greater than 0")
    if rate is None:
        return Limit(limit or 0)
    found = _RATE.fullmatch(rate) if isinstance(rate, str) else None
    if found is None:
        right = 'like "10/m": 1 to 99999 in a second, minute, hour or day (s, m, h, d)'
        raise BadDecoration(f"`rate` is {rate!r}; it must be {right}")
    return Limit(limit or 0, int(found[1]), _SECONDS[found[2]])


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


def exceptions_of(given: object) -> Exceptions:
    """The exceptions of `give_up_on`. Raises `BadDecoration` for anything else."""
    exceptions = given if isinstance(given, tuple) else (given,)
    for item in exceptions:
        if not isinstance(item, type) or not issubclass(item, BaseException):
            raise BadDecoration(f"`give_up_on` has {item!r}; it must be exceptions, as in give_up_on=(ValueError, KeyError)")
    return exceptions


_YIELDS = 0x20 | 0x200
"""CO_GENERATOR and CO_ASYNC_GENERATOR of `inspect`, which takes long to import."""


spool = _Decorator()
"""Makes a function whose calls can be spooled. A call has failed if it raises. It is run again if it returns SPOOL_RETRY or
SPOOL_IGNORE; other return values do not matter."""

spoolforever = _Decorator(forever=True)
"""As `spool`, and when a call has ended well it runs again, after the spooler's frequency (30 s)."""

spoolraw = _Decorator(raw=True)
"""As `spool`, but every int that it returns counts, as in uWSGI: -2 is done, -1 again, 0 not its own."""
