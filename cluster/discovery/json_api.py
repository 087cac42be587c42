"""Questions to a server that answers in JSON over HTTP. All that goes wrong is an OSError with a text for the operator."""

import json
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple, TypeVar

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, TCPConnector

from spoolnode.protocol.printable import printable

T = TypeVar("T")

MAX_BYTES = 8 << 20
"""Bytes of the longest answer that is read, or of the longest line of one."""
CONNECT_SECONDS = 5.0
SHOWN = 200
"""Characters of an error that a server tells."""


class Query(NamedTuple):
    """A GET request."""

    url: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    patience: float
    """Seconds of silence after which the server counts as gone."""


@asynccontextmanager
async def connections(trust: ssl.SSLContext | None = None) -> AsyncIterator[ClientSession]:
    """Connections to a server; `trust`: with TLS, to one that it trusts."""
    connector = TCPConnector(ssl=trust or True)
    async with ClientSession(connector=connector, read_bufsize=MAX_BYTES // 2) as session:  # lines may have twice that
        yield session


async def answer_of(session: ClientSession, question: Query) -> tuple[Any, Mapping[str, str]]:
    """The answer, read as JSON, and its headers."""
    with _as_oserror():
        async with _asked(session, question) as response:
            body = bytearray()
            async for piece in response.content.iter_any():
                body += piece
                if len(body) > MAX_BYTES:
                    raise OSError(f"its answer has more than {MAX_BYTES} bytes")
            return _read_json(bytes(body)), response.headers


@asynccontextmanager
async def lines_of(session: ClientSession, question: Query) -> AsyncIterator[AsyncIterator[Any]]:
    """An answer that goes on: one JSON document in each line, as it comes. Within, the server has begun to answer."""
    with _as_oserror():
        async with _asked(session, question) as response:
            yield (_read_json(line) async for line in response.content)


def read_as(read: Callable[[Any], T], answer: Any) -> T:
    """An answer as `read` understands it. Raises OSError if it does not."""
    try:
        return read(answer)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise OSError(f"its answer is not as it should be: {type(error).__name__}: {_shown(str(error))}") from error


class HttpError(OSError):
    """The server answered with an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"it answers {status}: {text}" if text else f"it answers {status}")
        self.status = status


@asynccontextmanager
async def _asked(session: ClientSession, question: Query) -> AsyncIterator[ClientResponse]:
    limits = ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=question.patience)
    url, query, headers = question.url, question.query, question.headers
    async with session.get(url, params=query, headers=headers, timeout=limits, allow_redirects=False) as response:
        if response.status != 200:
            raise HttpError(response.status, _told(await response.content.read(4096)) or response.reason or "")
        yield response


@contextmanager
def _as_oserror() -> Iterator[None]:
    try:
        yield
    except (ClientError, ValueError) as error:  # ValueError: a line that is too long
        if isinstance(error, OSError) and not isinstance(error, TimeoutError):
            raise
        raise OSError(_shown(str(error)) or "it does not answer") from error


def _read_json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise OSError("its answer is not JSON") from error


def _told(body: bytes) -> str:
    """The text of an error; Kubernetes has it in a `Status`."""
    text = body.decode(errors="replace")
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        told = None
    message = told.get("message") if isinstance(told, dict) else None
    return _shown(message if isinstance(message, str) else text)


def _shown(text: str) -> str:
    return printable(" ".join(text.split()))[:SHOWN]
