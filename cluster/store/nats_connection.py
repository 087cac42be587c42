"""The connection to NATS servers, and their errors as those of a store.

What was not answered in time is asked again. So it is for what only reads, and for what is safe to repeat.
"""

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from nats import errors as nats_errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import AuthorizationError
from nats.errors import Error as NatsError

from spoolnode.cluster.reasons import why
from spoolnode.cluster.store.interface import StoreAway, StoreUnfit
from spoolnode.cluster.store.nats_address import NatsAddress
from spoolnode.protocol.printable import printable

PATIENCE = 10.0
"""Seconds in which a request is answered, or the store is away. Choosing a new leader takes up to nine."""
ONE_TRY = 2.0
"""Seconds after which a request is repeated: the server that should have answered may be gone."""
RECONNECTING = 3.0
"""Seconds in which a lost connection comes back, or the store is away."""
CLOSING = 1.0
"""Seconds in which a connection is closed, or given up."""
PAUSE = 0.1
"""Seconds between two tries."""

_NOT_THERE = frozenset({10037, 10043, 10057, 10059})
"""Error codes: no such message (the third one: none to delete any more), no such stream."""
_PASSING = frozenset({10005, 10176})
"""Error codes that are told as our fault, and are not: a server is away; a batch is not whole, since its leader changed."""
_FINAL = frozenset({10074})
"""Error codes that are told as the server's fault, and stay: more replicas than servers."""


_SILENT = "it does not answer"
_IN_WORDS: dict[type[Exception], str] = {
    nats_errors.TimeoutError: _SILENT,
    nats_errors.NoRespondersError: "JetStream is not switched on there, or its servers have no leader now",
    nats_errors.NoServersError: "none of its servers can be reached",
    nats_errors.StaleConnectionError: "it ended the connection",
    nats_errors.ConnectionClosedError: "the connection is closed",
}
"""The errors of the client, for an operator."""
_NO_GREETING = "expecting INFO"
"""In the text of the client's error about a server that speaks another protocol. It has no type of its own."""


async def within(seconds: float, work: Coroutine[Any, Any, None]) -> None:
    """Awaits work that may miss that it is cancelled: Python's wait_for does, if it ends at that moment. Raises TimeoutError."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if not task.done():
            raise TimeoutError
        task.result()
    finally:
        while not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=PAUSE)
        if not task.cancelled():
            task.exception()  # it is known, or comes too late


class NotEncrypted(NatsError):
    """A server does not encrypt, and an encrypted connection was asked for."""

    def __str__(self) -> str:
        return "it does not encrypt its connections, and with tls_ca nothing is sent in the clear"


class EncryptedClient(Client):
    """A client that says nothing to a server without TLS. The one of the library goes on without."""

    def _connect_command(self) -> bytes:  # the first thing that it says, the password among it
        if not self._server_info.get("tls_required"):
            raise NotEncrypted
        return super()._connect_command()


class ServerConnection:
    """A connection to whichever of the servers is up."""

    def __init__(self, address: NatsAddress) -> None:
        self.address = address
        self._client = EncryptedClient() if address.tls_ca else Client()
        self._last_error: Exception | None = None
        self._is_opening = False

    @property
    def server_version(self) -> str:
        """The version of the server that we are connected to."""
        version = self._client.connected_server_version
        return f"{version.major}.{version.minor}.{version.patch}"

    @property
    def known_servers(self) -> list[str]:
        """The addresses of all servers, also of those that the others told of."""
        return [uri.geturl() for uri in self._client.servers]

    async def open(self) -> None:
        """Connects. Raises `StoreAway`, `StoreUnfit`."""
        told = self.address
        options: dict[str, Any] = {"reconnect_time_wait": PAUSE}
        if told.user:
            options |= {"user": told.user, "password": told.password}
        try:
            if told.tls_ca:
                options["tls"] = ssl.create_default_context(cafile=told.tls_ca)
            if told.creds:
                os.stat(told.creds)  # the client itself would say nothing of it
                options["user_credentials"] = told.creds
        except OSError as error:
            raise StoreUnfit(f"a file in the address of the store cannot be read: {error}") from error
        self._is_opening = True
        try:
            connecting = self._client.connect(
                told.servers, name="spoolnode", connect_timeout=2, max_reconnect_attempts=-1,
                pending_size=0, error_cb=self._heard_error, ping_interval=5, max_outstanding_pings=2, **options,
            )  # fmt: skip
            await within(PATIENCE, connecting)
            self._is_opening = False
        except BaseException as error:
            self._is_opening = False
            is_theirs = isinstance(error, TimeoutError | NatsError | OSError)
            ours = self._not_connected(error) if is_theirs else None  # before the end, which has errors of its own
            await self.close()
            if ours:
                raise ours from error
            raise

    async def close(self) -> None:
        """Closes it."""
        # A client that is just trying a server misses that it is closed (Python's wait_for swallows it), and would try for ever.
        self._client.options["max_reconnect_attempts"] = 1
        with suppress(NatsError, OSError, TimeoutError):  # without an end, it waits for that of a TLS that never was
            async with asyncio.timeout(CLOSING):
                await self._client.close()

    async def ask(self, name: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """An answer of JetStream's API; None: what was asked for is not there. It is for what is safe to ask twice."""
        payload = b"" if body is None else json.dumps(body).encode()
        answer = json.loads((await self.request(f"$JS.API.{name}", payload)).data)
        error = answer.get("error")
        if error is None:
            return dict(answer)
        if error.get("err_code") in _NOT_THERE:
            return None
        raise self.error(error)

    async def tell(self, subjects: Sequence[str]) -> None:
        """Tells all who listen. It is not stored, and may be lost."""
        with suppress(NatsError, OSError):
            for subject in subjects:
                await self._client.publish(subject, b"")

    @asynccontextmanager
    async def heard(self, subjects: Sequence[str]) -> AsyncIterator[asyncio.Event]:
        """Within, the event is set when one of the subjects is told."""
        event = asyncio.Event()

        async def hear(_: Msg) -> None:
            event.set()

        await self.client()
        try:
            subscriptions = [await self._client.subscribe(subject, cb=hear) for subject in subjects]
        except (NatsError, OSError) as error:
            raise self.away(text_of(error)) from error
        try:
            yield event
        finally:
            with suppress(NatsError, OSError):
                for subscription in subscriptions:
                    await subscription.unsubscribe()

    def away(self, why: str) -> StoreAway:
        """The error."""
        return StoreAway(f"the store {self.address.name} is away: {why}")

    def error(self, told: dict[str, Any]) -> StoreAway | StoreUnfit:
        """An error that a server told."""
        why = text_of(told.get("description", ""))
        code, number = int(told.get("code", 500)), told.get("err_code")
        if number in _PASSING or (code >= 429 and number not in _FINAL):
            return self.away(why)
        return StoreUnfit(f"the store {self.address.name} cannot be used: {why}")

    async def request(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> Msg:
        """An answer, asked for again and again for a while."""
        deadline = now() + PATIENCE
        while True:
            client = await self.client()
            try:
                return await client.request(subject, payload, timeout=ONE_TRY, headers=headers)
            except (NatsError, OSError) as error:
                if now() > deadline:
                    raise self.away(text_of(error)) from error
            await asyncio.sleep(PAUSE)

    async def client(self) -> Client:
        """The client, as soon as it is connected. Raises `StoreAway`."""
        deadline = now() + RECONNECTING
        while not self._client.is_connected:
            if now() > deadline or self._client.is_closed:
                raise self._not_connected(None)
            await asyncio.sleep(PAUSE)
        return self._client

    async def _heard_error(self, error: Exception) -> None:
        self._last_error = error
        if self._is_opening and _is_refusal(error):
            raise self._not_connected(error)  # instead of trying again and again

    def _not_connected(self, error: BaseException | None) -> StoreAway | StoreUnfit:
        why = self._last_error or error
        if isinstance(why, NotEncrypted | ssl.SSLError):
            return StoreUnfit(f"the store {self.address.name} is not trusted: {text_of(why)}")
        if why and _is_refusal(why):
            return StoreUnfit(f"the store {self.address.name} does not let us in: {text_of(str(why))}")
        return self.away(text_of(why) if why else "it is not connected")


def _is_refusal(error: BaseException) -> bool:
    return isinstance(error, AuthorizationError | NotEncrypted | ssl.SSLError) or "authorization" in str(error).lower()


def now() -> float:
    return asyncio.get_running_loop().time()


def text_of(error: object) -> str:
    """The text of an error, in one line."""
    if isinstance(error, OSError) and not isinstance(error, TimeoutError):
        return printable(why(error))
    for kind, words in _IN_WORDS.items():
        if isinstance(error, kind):
            return words
    text = " ".join(str(error).removeprefix("nats: ").split())
    return "a server of another kind answers there" if _NO_GREETING in text else printable(text) or _SILENT
