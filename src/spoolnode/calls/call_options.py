"""The options of one call of a spooled function, and the call as the task that travels.

On the wire the variable `spool_func` names the function, `module:qualname`, and `spool_values` holds
`{"args": [...], "kwargs": {...}}` as msgpack. Arguments that are too large for a variable travel as the task's body.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeVar

from spoolnode.protocol import names
from spoolnode.protocol.errors import BadTask, Refused
from spoolnode.protocol.values import Encoded, encode_task, pack
from spoolnode.wire import destination

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
    max_attempts: int | None = None
    """Failed attempts after which it goes to dead/; 0: never. None: the --max-attempts of the node that runs it."""
    retry_base: float | None = None
    """The longest pause after the first failed attempt, in seconds. None: that node's --retry-base."""
    retry_max: float | None = None
    """The longest pause of all, in seconds. None: that node's --retry-max."""
    keep_result: bool | None = None
    """Whether what the function returns is kept for `result`. None: it is not."""
    key: str | None = None
    """While a call of the function with this key waits on the node that runs it, another one is not run. None: all calls run."""
    unique: Literal["waiting"] | None = None
    """Has a key made of the arguments when none is given."""
    via: str | None = None
    """The node to send it to. None: the environment's SPOOLNODE_VIA, else port 3031 of this machine."""
    send_timeout: float | None = None
    """Seconds that sending may take. None: the environment's SPOOLNODE_SEND_TIMEOUT, else 5."""


def encode_call(name: str, options: Options, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Encoded:
    """The task that calls the function with that name. Raises `BadTask` if something in it cannot travel."""
    values = pack({"args": list(args), "kwargs": kwargs})
    task: dict[str, Any] = {
        key: value for key, value in (("at", options.at), ("priority", options.priority)) if value is not None
    }
    extra = [(names.FUNCTION, name.encode()), *_variables(options)]
    if len(values) > MAX_VALUES:
        task["body"] = values
    else:
        extra.append((names.VALUES, values))
    return encode_task(task, extra)


def _variables(options: Options) -> list[tuple[bytes, bytes]]:
    """The variables that carry these options, which are checked already."""
    variables = destination(options.node)
    if options.timeout is not None:
        variables.append((names.TIMEOUT, _seconds(options.timeout)))
    if (retry := _retry(options)) != _NOTHING_SAID:
        variables.append((names.RETRY, retry))
    if options.keep_result:
        variables.append((names.KEEP, b"1"))
    if options.key is not None:
        variables.append((names.KEY, options.key.encode()))
    return variables


_NOTHING_SAID = b",,"


def _retry(options: Options) -> bytes:
    """The value of `spool_retry` for these options."""
    attempts = b"" if options.max_attempts is None else str(options.max_attempts).encode()
    pauses = [b"" if pause is None else _seconds(pause) for pause in (options.retry_base, options.retry_max)]
    return b",".join([attempts, *pauses])


def _seconds(timeout: float) -> bytes:
    return f"{timeout:.6f}".encode()


def check_options(options: Options) -> None:
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
    for name in ("timeout", "retry_base", "retry_max"):
        _check_number(name, getattr(options, name), names.RIGHT_SECONDS, lambda seconds: names.read_timeout(_seconds(seconds)))
    if options.keep_result not in (None, True, False):
        raise BadTask(f"`keep_result` is {options.keep_result!r}; it must be True or False")
    if options.unique not in (None, "waiting"):
        raise BadTask(f"`unique` is {options.unique!r}; it must be 'waiting'")
    _check_key(options.key)
    most = options.max_attempts
    _check_number("max_attempts", most, names.RIGHT_MAX_ATTEMPTS, lambda number: names.read_retry(f"{number},,".encode()))


def _check_key(key: object) -> None:
    """Raises `BadTask` if a key is given and cannot travel."""
    try:
        if key is not None and not (isinstance(key, str) and names.read_key(key.encode())):
            raise BadTask(f"`key` is {key!r}; it must be {names.RIGHT_KEY}, and not empty")
    except Refused as refusal:
        raise BadTask(refusal.text.replace("`spool_key`", "`key`")) from None
    except UnicodeEncodeError as error:
        raise BadTask(f"`key` must be {names.RIGHT_KEY}: {error.reason}") from None


def _check_number(name: str, value: object, right: str, read: Callable[[Any], object]) -> None:
    """Raises `BadTask` if an option is given and not a number that travels."""
    if value is None:
        return
    try:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError
        read(value)
    except (Refused, ValueError, OverflowError):
        raise BadTask(f"`{name}` is {value!r}; it must be {right}") from None


def takes_only(error: type[Exception], what: str) -> Callable[[Callable[Params, R]], Callable[Params, R]]:
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
