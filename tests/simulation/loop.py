"""An event loop in virtual time: when nothing is ready it is at once the time of the next timer. No I/O, no sleeping.

Every callback belongs to the process that scheduled it (its context says which), and when that process has died the
callback never runs: so a simulated `kill -9` takes effect between any two callbacks, and no `finally` of the dead runs. While
a process is stopped (SIGSTOP) its callbacks gather, and run in their order when it goes on.
While the loop runs, `time.time()` and its like read the virtual clock, with the offset of the machine whose turn it is.
"""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from heapq import heappop, heappush
from random import Random
from typing import Any, Protocol

EPOCH = 1_700_000_000.0
"""The time of the clocks at the beginning, in seconds since 1970."""
MOST_STEPS = 3_000_000
"""Callbacks after which a run counts as one that never ends."""


class Gone(BaseException):
    """The process, or its machine, has died in the midst of this call. Not an Exception: no code may catch it and go on."""


class Violation(AssertionError):
    """A promise was broken."""


class Owner(Protocol):
    """The process to which callbacks belong."""

    dead: bool
    frozen: "list[SimHandle] | None"
    """The callbacks that wait while it is stopped; None: it runs."""
    name: str
    machine: Any
    """Its `clock` is how far the machine's wall clock is ahead, in seconds."""


OWNER: ContextVar[Owner | None] = ContextVar("owner", default=None)


class SimHandle:
    """A callback to come. asyncio's own are twice as slow to make, and most of a run is making them."""

    __slots__ = ("_args", "_callback", "_cancelled", "_context", "_when", "owner")

    def __init__(self, callback: Any, args: tuple[Any, ...], context: Context, when: float) -> None:
        self._callback = callback
        self._args = args
        self._context = context
        self._when = when
        self._cancelled = False
        self.owner: Owner | None = context.get(OWNER)

    def cancel(self) -> None:
        """It will not be called."""
        self._cancelled = True
        self._callback, self._args = None, ()  # as asyncio's: what it holds is free

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._cancelled

    def when(self) -> float:
        """When it is called."""
        return self._when


class SimLoop(asyncio.BaseEventLoop):
    """See the module. Callbacks run in the order of their times, and in the order of their making at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.owner: Owner | None = None
        """Whose callback runs now; None is the simulation itself."""
        self.steps = 0
        self.problem: BaseException | None = None
        """The first mistake; the loop ends with it."""
        self.connect: Callable[..., Any] | None = None
        """The implementation of `create_connection`; the network sets it."""
        self._todo: deque[SimHandle] = deque()
        self._timers: list[tuple[float, int, SimHandle]] = []
        self._context = Context()
        """The context of the present callback. Callbacks that it schedules run in the same one, not in a copy."""
        self.dead: set[str] = set()
        """The names of all processes that have died."""
        self._serial = 0
        self.set_exception_handler(self._mistake)

    get_debug = staticmethod(bool)
    """False: each future and each task asks it."""

    def next_serial(self) -> int:
        """A number that nothing else of this loop has."""
        self._serial += 1
        return self._serial

    def time(self) -> float:
        """The virtual time, in seconds."""
        return self.now

    def create_task(self, coro: Any, *, name: Any = None, context: Context | None = None) -> Any:
        """As asyncio's; a task is called like its process."""
        return asyncio.Task(coro, loop=self, name=self.owner.name if self.owner is not None else "", context=context)

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Any:  # type: ignore[override] # any callable, as loose as the simulation itself
        """As asyncio's."""
        handle = SimHandle(callback, args, self._context if context is None else context, self.now)
        self._todo.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment] # as above

    def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> Any:  # type: ignore[override] # as above
        """As asyncio's."""
        return self._at(self.now + delay, callback, args, context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> Any:  # type: ignore[override] # as above
        """As asyncio's."""
        return self._at(when, callback, args, context)

    def _at(self, when: float, callback: Any, args: tuple[Any, ...], context: Context | None) -> SimHandle:
        handle = SimHandle(callback, args, self._context if context is None else context, when)
        self._serial += 1
        heappush(self._timers, (when, self._serial, handle))
        return handle

    def _run_once(self) -> None:
        todo, timers = self._todo, self._timers
        while timers and timers[0][2]._cancelled:
            heappop(timers)
        if not todo:
            if not timers:
                raise Violation("nothing is ready and no timer is set: everybody waits for ever")
            self.now = max(self.now, timers[0][0])
        while timers and timers[0][0] <= self.now:
            todo.append(heappop(timers)[2])
        while todo and not self._stopping and self.problem is None:  # type: ignore[attr-defined] # inside asyncio
            handle = todo.popleft()
            owner = handle.owner
            if handle._cancelled or (owner is not None and self._must_wait(owner, handle)):
                continue
            self.steps += 1
            if self.steps > MOST_STEPS:
                raise Violation(f"{self.steps} steps and no end")
            self.owner, self._context = owner, handle._context
            try:
                handle._context.run(handle._callback, *handle._args)
            except Gone:
                pass
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001  # whatever it is, the run has failed
                self._fail(error)
        self.owner = None
        if self.problem is not None:
            raise self.problem

    @staticmethod
    def _must_wait(owner: Owner, handle: SimHandle) -> bool:
        """Whether a callback does not run now: its process is dead, or stopped."""
        if owner.frozen is None:
            return owner.dead
        owner.frozen.append(handle)
        return True

    def thaw(self, owner: Owner) -> None:
        """A process that was stopped goes on."""
        if owner.frozen is not None:
            self._todo.extend(owner.frozen)
            owner.frozen = None

    def run_as(self, owner: Any, callback: Callable[..., None], *args: Any) -> None:
        """Runs something in the context of another process, from a callback that belongs to none."""
        if owner.frozen is not None:
            owner.frozen.append(SimHandle(callback, args, owner.context, self.now))
            return
        before = self._context
        self.owner, self._context = owner, owner.context
        owner.context.run(callback, *args)
        self.owner, self._context = None, before

    def _fail(self, error: BaseException) -> None:
        if self.problem is None:
            self.problem = error

    def _mistake(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error, task = context.get("exception"), context.get("task")
        if error is None and task is not None and task.get_name() in self.dead:
            return  # what the dead leave behind
        if not isinstance(error, Gone):
            self._fail(error if error is not None else Violation(context["message"]))

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":  # type: ignore[override] # as above
        """As asyncio's, without threads: the simulation has executors of its own, and the loop's pool is its next step."""
        future: asyncio.Future[Any] = self.create_future()
        if executor is None:
            self.call_soon(lambda: future.set_result(func(*args)))
        else:
            executor.begin(lambda: func(*args), future)
        return future

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        """A connection over the simulated network, from the machine whose callback this is."""
        assert self.connect is not None
        return await self.connect(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", protocol_factory)

    def _process_events(self, event_list: Any) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Fails: the simulation must not sleep."""


@contextmanager
def virtual(loop: SimLoop, random: Random) -> Iterator[None]:
    """While this lasts, `time` and `secrets` are those of the simulation."""
    ticks = iter(range(1 << 62))

    def wall() -> float:
        owner = loop.owner
        return EPOCH + loop.now + (owner.machine.clock if owner is not None else 0.0)

    fakes: dict[Any, dict[str, Callable[..., Any]]] = {
        time: {
            "time": wall,
            "time_ns": lambda: int(wall() * 1e9),
            "monotonic": loop.time,
            "perf_counter": loop.time,
            # File names are made of it; no two are the same on a real machine.
            "monotonic_ns": lambda: int(loop.now * 1e9) * 1000 + next(ticks) % 1000,
        },
        secrets: {
            "randbits": random.getrandbits,
            "token_hex": lambda size=16: random.randbytes(size).hex(),
            "token_bytes": random.randbytes,
        },
    }  # fmt: skip
    real = {module: {name: getattr(module, name) for name in names} for module, names in fakes.items()}
    try:
        for module, names in fakes.items():
            for name, fake in names.items():
                setattr(module, name, fake)
        yield
    finally:
        for module, names in real.items():
            for name, value in names.items():
                setattr(module, name, value)


def in_virtual_time(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs a coroutine in a loop of its own, in which nothing waits for a real clock."""
    loop = SimLoop()
    try:
        with virtual(loop, Random(1)):
            loop.run_until_complete(main())
    finally:
        loop.close()
