"""`@timer` and `@cron`: functions that are called at certain times.

Here is their syntax, and what a mistake in it is called; `node/schedule.py` says when each is due.
"""

from collections.abc import Callable
from typing import Any, TypeVar, overload

from spoolnode.calls.registry import REGISTRY, full_name
from spoolnode.errors import BadDecoration
from spoolnode.node.outcome import Timer

R = TypeVar("R")
Decorator = Callable[[Callable[[], R]], Callable[[], R]]

ANY_TIME = (-1, -1, -1, -1, -1)
"""The five numbers of a cron entry that is due each minute, and of a timer without such numbers."""
_RANGES = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
_YIELDS = 0x20 | 0x200
"""CO_GENERATOR and CO_ASYNC_GENERATOR of `inspect`, which takes long to import."""


def timer(seconds: float, *, cluster: bool = False, catch_up: bool = False) -> Decorator[R]:
    """Calls the function every `seconds` seconds, in any one worker of each node.

    Args:
        seconds: the period.
        cluster: as a task, on one node of the cluster; `docs/cluster.md` says how.
        catch_up: with `cluster`: what was due while no node was up is run once at the next start.

    Raises:
        BadDecoration: `seconds` is not a number greater than 0, or the function cannot be called without arguments.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < float("inf"):
        raise BadDecoration(f"@timer({seconds!r}): it needs a period in seconds, a number greater than 0, like @timer(30)")
    if cluster and seconds != int(seconds):
        raise BadDecoration(f"@timer({seconds!r}): with cluster=True it needs a whole number of seconds, like @timer(30)")
    return _decorator(Timer("", float(seconds), ANY_TIME, catch_up=catch_up), cluster)


@overload
def cron(expression: str, /, *, tz: str = ..., cluster: bool = ..., catch_up: bool = ...) -> Decorator[R]: ...


@overload
def cron(
    minute: int, hour: int, day: int, month: int, weekday: int, *, tz: str = ..., cluster: bool = ..., catch_up: bool = ...
) -> Decorator[R]: ...


def cron(*when: Any, tz: str = "", cluster: bool = False, catch_up: bool = False, **named: Any) -> Decorator[R]:
    """Calls the function at these times, in any one worker of each node.

    Args:
        when: an expression with the five fields of crontab(5), such as "0 3 * * mon-fri". Or five numbers, as in uWSGI: minute,
            hour, day, month, weekday; -1 is any, -n every n; weekday 0 and 7 are Sunday.
        tz: the name of their time zone; without it they are local times of the machine.
        cluster: as a task, on one node of the cluster; `docs/cluster.md` says how.
        catch_up: with `cluster`: what was due while no node was up is run once at the next start.
        named: the five numbers by their names.

    Raises:
        BadDecoration: the times or the zone do not exist, or the function cannot be called without arguments.
    """
    if not isinstance(tz, str) or (tz and not _is_zone(tz)):
        raise BadDecoration(
            f"@cron: tz is {tz!r}; it must be the name of a time zone that this machine has, like 'Europe/Rome' "
            "(Debian has them in tzdata, PyPI too)"
        )
    if len(when) == 1 and isinstance(when[0], str) and not named:
        return _decorator(Timer("", 0.0, ANY_TIME, expression=_checked(when[0]), zone=tz, catch_up=catch_up), cluster)
    if len(when) + len(named) != len(_RANGES) or named.keys() != {name for name, *_ in _RANGES[len(when) :]}:
        raise BadDecoration(
            '@cron takes an expression like "0 3 * * *", or five numbers: minute, hour, day, month, weekday; -1 is any'
        )
    minute, hour, day, month, weekday = (*when, *(named[name] for name, *_ in _RANGES[len(when) :]))
    check_cron((minute, hour, day, month, weekday))
    return _decorator(Timer("", 0.0, (minute, hour, day, month, weekday), zone=tz, catch_up=catch_up), cluster)


def _decorator(timer: Timer, cluster: bool) -> Decorator[R]:
    if timer.catch_up and not cluster:
        raise BadDecoration("catch_up=True needs cluster=True: only then it is kept on disk what was due")

    def decorate(function: Callable[[], R]) -> Callable[[], R]:
        _check_timed(getattr(function, "function", function))
        if cluster:
            _add_shared(timer, function)
        else:
            REGISTRY.add_timer(timer._replace(name=full_name(function)), function)
        return function

    return decorate


def _add_shared(timer: Timer, function: Callable[[], object]) -> None:
    """Registers a timer of the whole cluster. Its due times are tasks, so its function is one of `@spool`, with its options."""
    from spoolnode.calls.spooled_function import SpooledFunction
    from spoolnode.decorators import spool
    from spoolnode.node.roster import MOST_TIMERS

    spooled = function if isinstance(function, SpooledFunction) else spool(function)
    if sum(bool(known.task) for known in REGISTRY.timers) >= MOST_TIMERS:
        raise BadDecoration(f"{spooled.name}: an application has at most {MOST_TIMERS} timers with cluster=True")
    REGISTRY.add_timer(timer._replace(name=spooled.name, task=spooled.variables()), spooled)


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
    for value, (name, low, high) in zip(fields, _RANGES, strict=True):
        if not isinstance(value, int) or not (low <= value <= high or -high <= value < 0):
            raise BadDecoration(f"@cron: {name} is {value!r}; it must be {low} to {high}, -1 (any) or -n (every n)")


def _checked(expression: str) -> str:
    """The expression, with single spaces. Raises `BadDecoration` if it names no times."""
    import time

    from cronsim import CronSimError

    from spoolnode.node.cron import following

    tidy = " ".join(expression.split())
    right = 'it must be five fields as in crontab(5): minute, hour, day, month, weekday, like "0 3 * * mon-fri"'
    if tidy.count(" ") != len(_RANGES) - 1:
        raise BadDecoration(f"@cron({expression!r}): {right}")
    try:
        comes = following(Timer("", 0.0, ANY_TIME, expression=tidy), time.time()) < float("inf")
    except CronSimError as error:
        raise BadDecoration(f"@cron({expression!r}): {str(error).lower()}; {right}") from None
    if not comes:
        raise BadDecoration(f"@cron({expression!r}): no such day ever comes")
    return tidy


def _is_zone(name: str) -> bool:
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(name)
    except (ValueError, LookupError, OSError):  # a path, an unknown name, a directory of zones
        return False
    return True
