"""The look-up of host names, where it can hold up nothing else: in threads of its own, so many at once, with a limit of time.

The system's resolver blocks, cannot be interrupted, and with silent name servers takes half a minute. In the event loop's own
threads a few such names would keep everything else waiting that is done there, and the process from ending. Here each
look-up has a daemon thread; who waits for it stops waiting after a while, and all who ask for one name share one thread. A
name server that has become slow, or silent, is made up for with what was found last. When all threads are taken a look-up fails
at once, but the last ones are kept for names that have been found before: names that nobody answers for do not keep out
those that somebody does.

An address needs no look-up (`is_literal`) and never comes here.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from ipaddress import ip_address

LIMIT = 2.5
"""Seconds to wait for a name, for whoever has a connection to make."""
PATIENCE = 30.0
"""The same for whoever has all the time in the world."""
MOST = 64
"""Look-ups under way, also those for which nobody waits any more..."""
KEPT = 16
"""...of which so many are kept for names that have been found before."""
MOST_FOUND = 1024
"""Names remembered as found."""

Resolve = Callable[[str], list[str]]
"""The IP addresses of a host; blocks, raises OSError."""


def is_literal(host: str) -> bool:
    """Whether this is an IP address already."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_numeric(address: str) -> bool:
    """Whether `host:port` or `[v6]:port` has an IP address for its host."""
    return is_literal(address.rpartition(":")[0].strip("[]"))


def is_loopback(address: str) -> bool:
    """Whether an address means another machine on each machine."""
    host = address.rpartition(":")[0].strip("[]")
    return host == "localhost" or (is_literal(host) and ip_address(host).is_loopback)


def resolve(host: str) -> list[str]:
    """The IP addresses of a host, by the system's resolver. Blocks.

    Raises:
        OSError: the look-up failed.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a label of more than 63 characters, for example
        raise OSError(f"it is no host name: a part of it is empty or too long ({error})") from error
    return list(dict.fromkeys(str(place[0]) for _, _, _, _, place in found))


class LookUps:
    """All look-ups of a process."""

    def __init__(self, resolve: Resolve = resolve, *, most: int = MOST, kept: int = KEPT) -> None:
        self._resolve = resolve
        self._most = most
        self._kept = kept
        self._lock = threading.Lock()
        self._waiting: dict[str, list[tuple[asyncio.AbstractEventLoop, asyncio.Future[list[str]]]]] = {}
        """Who waits for each name that is being looked up."""
        self._found: dict[str, list[str]] = {}
        """What was found last."""

    async def addresses(self, host: str, limit: float = LIMIT) -> list[str]:
        """The IP addresses of a host; what was found last when there is no answer within `limit` seconds.

        Raises:
            OSError: it has none, the name server did not answer in time, or too many look-ups are under way.
        """
        if is_literal(host):
            return [host]
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[str]] = loop.create_future()
        self._ask(host, loop, future)
        try:
            async with asyncio.timeout(limit):
                return await future
        except TimeoutError:
            if host in self._found:
                return list(self._found[host])
            raise OSError(f"no name server answered within {limit:g} s") from None

    def _ask(self, host: str, loop: asyncio.AbstractEventLoop, future: "asyncio.Future[list[str]]") -> None:
        with self._lock:
            if host in self._waiting:
                self._waiting[host].append((loop, future))
                return
            room = self._most - (0 if host in self._found else self._kept)
            if len(self._waiting) >= room:
                raise OSError(f"{len(self._waiting)} look-ups of names are under way already")
            self._waiting[host] = [(loop, future)]
        try:
            threading.Thread(target=self._work, args=(host,), name="look-up", daemon=True).start()
        except RuntimeError as error:  # no thread can be started
            with self._lock:
                del self._waiting[host]
            raise OSError(f"no thread for the look-up: {error}") from error

    def _work(self, host: str) -> None:
        """In a thread of its own."""
        found: list[str] = []
        problem: OSError | None = None
        try:
            found = self._resolve(host)
        except OSError as error:
            problem = error
        with self._lock:
            waiting = self._waiting.pop(host)
            self._found.pop(host, None)
            if problem is None:
                self._found[host] = found
                while len(self._found) > MOST_FOUND:
                    del self._found[next(iter(self._found))]
        for loop, future in waiting:
            with contextlib.suppress(RuntimeError):  # that loop has ended
                loop.call_soon_threadsafe(_tell, future, found, problem)


def _tell(future: "asyncio.Future[list[str]]", found: list[str], problem: OSError | None) -> None:
    if future.done():
        return  # it waits no more
    if problem is None:
        future.set_result(list(found))
    else:
        future.set_exception(problem)


_process = LookUps()


async def look_up(host: str, limit: float = LIMIT) -> list[str]:
    """The IP addresses of a host; see `LookUps.addresses`."""
    return await _process.addresses(host, limit)
