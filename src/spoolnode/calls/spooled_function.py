"""A decorated function, which can be called or spooled: by itself, with options, and as a method of an object."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from functools import update_wrapper
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar

from spoolnode import client
from spoolnode.calls.arguments import arguments_of
from spoolnode.calls.call_options import Options, check_options, encode_call, takes_only
from spoolnode.calls.elsewhere import no_such
from spoolnode.calls.registry import INTERACTIVE
from spoolnode.calls.results import again, conclude, outcome_of, outcome_of_function
from spoolnode.context import WorkerContext
from spoolnode.node.outcome import Call, Outcome
from spoolnode.protocol import names
from spoolnode.protocol.errors import BadTask
from spoolnode.protocol.unfit import fault
from spoolnode.protocol.unique import key_of_arguments
from spoolnode.protocol.values import Encoded
from spoolnode.wire import Message, message, messages, resolve, send_timeout

TYPE_CHECKING = False  # as in the package itself
if TYPE_CHECKING:
    from inspect import Signature

    from spoolnode.client.in_transaction import AsyncDatabaseConnection, DatabaseConnection

Params = ParamSpec("Params")
R = TypeVar("R")
Exceptions = tuple[type[BaseException], ...]
Arguments = tuple[Any, ...] | Mapping[str, Any]
"""Those of one of many calls: positional ones or keywords."""


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
        request = self.request(args, kwargs)
        return client.send(resolve(self._options.via), request, send_timeout(self._options.send_timeout))

    def spool_on_commit(self, /, *args: Params.args, **kwargs: Params.kwargs) -> None:
        """Stores a call when Django's open transaction commits, or at once without one. After a rollback nothing is stored.

        Raises:
            BadTask: at once, when the function does not take these arguments, or they cannot travel.
            SpoolnodeError: at the commit, as `spool` does.
        """
        from django.db import transaction

        request = self.request(args, kwargs)
        to, patience = resolve(self._options.via), send_timeout(self._options.send_timeout)
        transaction.on_commit(lambda: client.send(to, request, patience))

    def spool_in(self, connection: "DatabaseConnection", /, *args: Params.args, **kwargs: Params.kwargs) -> str:
        """Puts a call into the transaction that is open on a connection to PostgreSQL. See `spoolnode.spool_in`."""
        from spoolnode.client.in_transaction import enqueue

        return enqueue(connection, self.request(args, kwargs))

    async def aspool_in(self, connection: "AsyncDatabaseConnection", /, *args: Params.args, **kwargs: Params.kwargs) -> str:
        """As `spool_in`, with an asynchronous connection of psycopg 3."""
        from spoolnode.client.in_transaction import aenqueue

        return await aenqueue(connection, self.request(args, kwargs))

    async def aspool(self, /, *args: Params.args, **kwargs: Params.kwargs) -> str:
        """As `spool`, without blocking the loop."""
        from spoolnode.client import aio

        request = self.request(args, kwargs)
        return await aio.asend(resolve(self._options.via), request, send_timeout(self._options.send_timeout))

    def spool_many(self, calls: Iterable[Arguments]) -> list[str]:
        """Stores many calls, much faster than one by one: they share a connection, and the node's fsyncs.

        Args:
            calls: the arguments of each: a tuple stands for `f(*arguments)`, a dict for `f(**arguments)`.

        Returns:
            The ids of the tasks, in order.

        Raises:
            BadTask: the function does not take some of the arguments, or they cannot travel; nothing was sent.
            Unreachable: the node got none of the calls; nothing was stored.
            NotAllStored: some were stored; it says which.
        """
        requests = list(self._requests(calls))
        return client.send_all(resolve(self._options.via), requests, send_timeout(self._options.send_timeout))

    async def aspool_many(self, calls: Iterable[Arguments]) -> list[str]:
        """As `spool_many`, without blocking the loop. Cancelled, some of the calls may have been stored."""
        from spoolnode.client import aio

        requests = self._requests(calls)
        return await aio.asend_all(resolve(self._options.via), requests, send_timeout(self._options.send_timeout))

    def _requests(self, calls: Iterable[Arguments]) -> Iterator[Message]:
        return messages(calls, lambda arguments: self.request(*_split(arguments)))

    def request(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Message:
        """The request that stores a call. Raises `BadTask` for arguments that it does not take, or that cannot travel."""
        return self._function.request(self._options, args, kwargs)

    if not TYPE_CHECKING:  # a checker shall still find unknown names

        def __getattr__(self, name: str) -> NoReturn:
            raise no_such(name, self)


def _split(arguments: Arguments) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and the keyword arguments of one of many calls."""
    if isinstance(arguments, tuple):
        return arguments, {}
    if isinstance(arguments, Mapping):
        return (), dict(arguments)
    raise BadTask(
        f"the arguments of a call are a tuple, like (1,), or a dict of keywords; this is a {type(arguments).__name__}; "
        "nothing was sent"
    )


class SpooledFunction(Generic[Params, R]):
    """A decorated function. Calling it calls the function; `spool` and `aspool` store the call instead."""

    def __init__(
        self, function: Callable[Params, R], name: str, options: Options, give_up_on: Exceptions, forever: bool, raw: bool
    ) -> None:
        update_wrapper(self, function)
        self.function = function
        self.name = name
        self.give_up_on = give_up_on
        self._options = options
        self._forever = forever
        self._raw = raw
        self._signature: Signature | None = None

    def __repr__(self) -> str:
        return f"<spooled function {self.name}>"

    if not TYPE_CHECKING:  # a checker shall still find unknown names

        def __getattr__(self, name: str) -> NoReturn:
            raise no_such(name, self)

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

    def spool_in(self, connection: "DatabaseConnection", /, *args: Params.args, **kwargs: Params.kwargs) -> str:
        """Puts a call into the transaction that is open on a connection to PostgreSQL. See `spoolnode.spool_in`."""
        return SpooledCall[Params](self, self._options).spool_in(connection, *args, **kwargs)

    async def aspool_in(self, connection: "AsyncDatabaseConnection", /, *args: Params.args, **kwargs: Params.kwargs) -> str:
        """As `spool_in`, with an asynchronous connection of psycopg 3."""
        return await SpooledCall[Params](self, self._options).aspool_in(connection, *args, **kwargs)

    async def aspool(self, /, *args: Params.args, **kwargs: Params.kwargs) -> str:
        """As `spool`, without blocking the loop."""
        return await SpooledCall[Params](self, self._options).aspool(*args, **kwargs)

    def spool_many(self, calls: Iterable[Arguments]) -> list[str]:
        """Stores many calls at once: `f.spool_many([(1, "a"), (2, "b")])` (see `SpooledCall.spool_many`)."""
        return SpooledCall[Params](self, self._options).spool_many(calls)

    async def aspool_many(self, calls: Iterable[Arguments]) -> list[str]:
        """As `spool_many`, without blocking the loop."""
        return await SpooledCall[Params](self, self._options).aspool_many(calls)

    @takes_only(BadTask, "options()")
    def options(  # noqa: PLR0913  # each is a keyword of the caller's
        self,
        *,
        at: float | datetime | None = None,
        priority: int | None = None,
        node: str | None = None,
        timeout: float | None = None,
        max_attempts: int | None = None,
        retry_base: float | None = None,
        retry_max: float | None = None,
        keep_result: bool | None = None,
        key: str | None = None,
        via: str | None = None,
        send_timeout: float | None = None,
    ) -> SpooledCall[Params]:
        """This function with other options (see `Options`). Options that are not given keep the values from the decorator.

        Raises:
            BadTask: an option is invalid or unknown.
        """
        given = {
            "at": at, "priority": priority, "node": node, "timeout": timeout, "max_attempts": max_attempts,
            "retry_base": retry_base, "retry_max": retry_max, "keep_result": keep_result, "key": key, "via": via,
            "send_timeout": send_timeout,
        }  # fmt: skip
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        options = replace(self._options, **changes)
        check_options(options)
        return SpooledCall(self, options)

    def request(self, options: Options, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Message:
        """The request that stores a call. Raises `BadTask` for arguments that it does not take, or that cannot travel."""
        return message(self._encoded(options, args, kwargs))

    def _encoded(self, options: Options, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Encoded:
        if self.name.startswith(INTERACTIVE):
            raise BadTask(
                f"{self.name.removeprefix(INTERACTIVE)} was typed into an interpreter, or read from a pipe, where no worker can "
                "find it: put it into a module; nothing was sent"
            )
        arguments = self._bound(args, kwargs)
        try:
            if options.unique and options.key is None:
                options = replace(options, key=key_of_arguments(arguments))
            return encode_call(self.name, options, args, kwargs)
        except BadTask as error:
            said = fault(arguments)
            if said:
                raise BadTask(f"{self.name} cannot be spooled like this: the argument {said}; nothing was sent") from error
            raise

    def variables(self) -> bytes:
        """The variables of a call without arguments, for a node that makes such calls by itself. Raises as `request` does."""
        return self._encoded(self._options, (), {}).block

    @property
    def signature(self) -> "Signature":
        """The parameters of the function."""
        import inspect  # only callers that spool need it, most workers do not

        if self._signature is None:
            try:
                # Of the function that is called, not of the one it wraps: a wrapper may add or remove arguments.
                self._signature = inspect.signature(self.function, follow_wrapped=False)
            except (TypeError, ValueError):  # some functions written in C have none
                self._signature = inspect.signature(lambda *_, **__: None)
        return self._signature

    def _takes(self, name: str) -> bool:
        parameters = self.signature.parameters
        return name in parameters or any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())

    def _bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments by their names. Raises `BadTask` if the function does not take them."""
        try:
            return dict(self.signature.bind(*args, **kwargs).arguments)
        except TypeError as error:
            raise BadTask(f"{self.name} does not take these arguments: {error}; nothing was sent") from None

    def run(self, call: Call, context: WorkerContext) -> Outcome | Awaitable[Outcome]:
        """Runs a spooled call, in a worker. Raises what the function raises, and `BadPacket` for bad arguments."""
        args, kwargs = arguments_of(call, self._takes)
        result = self.function(*args, **kwargs)
        if self._raw:
            return conclude(result, lambda returned: outcome_of(returned, context.frequency))
        if self._forever:
            return conclude(result, lambda _: again(context.frequency))
        keeps = names.KEEP in call.block and names.KEEP in dict(call.variables)
        return conclude(result, lambda returned: outcome_of_function(returned, context.frequency, keeps=keeps))


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

    spool = spool_in = spool_many = spool_on_commit = options = _refuse

    async def _arefuse(self, *_: object, **__: object) -> NoReturn:
        self._refuse()

    aspool = aspool_in = aspool_many = _arefuse
