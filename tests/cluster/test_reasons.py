"""Why something failed, in words for an operator: the errors of real connections."""

import asyncio
import socket

import pytest
from aiohttp import ClientConnectorError, ClientSession
from programs import free_port

from spoolnode.cluster.reasons import why


def refused(hosts: list[str]) -> Exception:
    """The error of asyncio, of a connection to nothing at such addresses."""

    class Loop(asyncio.SelectorEventLoop):
        async def getaddrinfo(self, _: object, port: object, **__: object) -> list[tuple[object, ...]]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in hosts]

    with asyncio.Runner(loop_factory=Loop) as runner, pytest.raises(OSError, match="Connect call failed") as caught:
        runner.run(asyncio.open_connection("here", free_port()))
    return caught.value


@pytest.mark.parametrize("hosts", [["127.0.0.1"], ["127.0.0.1", "127.0.0.2"]])
def test_a_refused_connection_is_told_once_whatever_addresses_a_host_has(hosts: list[str]) -> None:
    assert why(refused(hosts)) == "Connection refused"


def test_a_refused_request_over_http_is_told_as_the_system_has_it() -> None:
    async def asked() -> None:
        async with ClientSession() as session:
            await session.get(f"http://127.0.0.1:{free_port()}/")

    with pytest.raises(ClientConnectorError) as caught:
        asyncio.run(asked())
    assert why(caught.value) == "Connection refused"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
        (OSError("its answer is not JSON"), "its answer is not JSON"),
        (PermissionError(13, "Permission denied", "peers.txt"), "Permission denied"),
        (ValueError(), "ValueError"),
    ],
)
def test_other_errors_keep_their_words(error: Exception, told: str) -> None:
    assert why(error) == told
