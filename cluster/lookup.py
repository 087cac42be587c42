"""The look-up of host names where it holds up nothing else: in its own threads, limited in number and time.

The system's resolver blocks, cannot be interrupted, and takes half a minute if the name servers are silent. In the event
loop's own threads a few such names would block all other work there, and the end of the process. Here each look-up has a daemon
thread; its callers stop waiting after a while, and all callers for one name share one thread. If a name server has become slow
or silent, the last result is used. If all threads are taken a look-up fails at once, but the last few are kept for names that
have been found before: names without an answer do not keep out those with one.

An address needs no look-up (`is_literal`) and never comes here.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_address

LIMIT = 2.5
"""Seconds to wait for a name if a connection waits for it."""
PATIENCE = 30.0
"""The same for callers that have time."""
MOST = 64
"""Look-ups under way at most, also those whose callers have gone..."""
KEPT = 16
"""...and this many of them are kept for names that have been found before."""
MOST_FOUND = 1024
"""Names remembered as found."""

Resolve = Callable[[str], list[str]]
"""Finds the IP addresses of a host. Blocks, raises OSError."""


@lru_cache(1024)  # asked at each ping
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
    """Whether an address means this machine, on whichever machine it is used."""
    host = address.rpartition(":")[0].strip("[]")
    return host == "localhost" or (is_literal(host) and ip_address(host).is_loopback)


def resolve_host(host: str) -> list[str]:
    """The IP addresses of a host, by the system's resolver. Blocks.

    Raises:
        OSError: the look-up failed.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a label of more than 63 characters, for example
        raise OSError(f"it is not a host name: a part of it is empty or too long ({error})") from error
    return list(dict.fromkeys(str(place[0]) for _, _, _, _, place in found))


class LookUps:
    """All look-ups of a process."""

    def __init__(self, resolve: Resolve = resolve_host, *, most: int = MOST, kept: int = KEPT) -> None:
        self._resolve = resolve
        self._most = most
        self._kept = kept
        self._lock = threading.Lock()
        self._waiting: dict[str, list[tuple[asyncio.AbstractEventLoop, asyncio.Future[list[str]]]]] = {}
        """The callers that wait for each name that is being looked up."""
        self._found: dict[str, list[str]] = {}
        """The last results."""

    async def addresses(self, host: str, limit: float = LIMIT) -> list[str]:
        """The IP addresses of a host; the last result if no answer comes within `limit` seconds.

        Raises:
            OSError: it has no address, the name server did not answer in time, or too many look-ups are under way.
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
        except RuntimeError as error:  # no thread could be started
            with self._lock:
                del self._waiting[host]
            raise OSError(f"no thread for the look-up: {error}") from error

    def _work(self, host: str) -> None:
        """Looks up a name, in a thread of its own."""
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
        return  # its caller has stopped waiting
    if problem is None:
        future.set_result(list(found))
    else:
        future.set_exception(problem)


_process = LookUps()


async def look_up(host: str, limit: float = LIMIT) -> list[str]:
    """The IP addresses of a host; see `LookUps.addresses`."""
    return await _process.addresses(host, limit)
