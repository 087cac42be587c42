"""What the small fakes of the APIs of Consul and Kubernetes have in common: an HTTP server that can be away for a while."""

import asyncio
import ssl
from typing import Self

from aiohttp import web


class FakeApi:
    """A server on loopback. It keeps its port while it is away."""

    def __init__(self, path: str, tls: ssl.SSLContext | None = None) -> None:
        self._path = path
        self._tls = tls
        self._port = 0
        self._runner: web.AppRunner | None = None
        self._changed = asyncio.Event()
        self._is_ending = False
        self.asked: list[dict[str, str]] = []
        """The query of each request."""
        self.instead: web.Response | None = None
        """The answer to the next requests, in place of what it knows."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Comes, or comes back."""
        self._is_ending = False
        application = web.Application()
        application.router.add_get(self._path, self._asked)
        self._runner = web.AppRunner(application, shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self._tls)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Goes away; what it had begun to answer is cut off."""
        self._is_ending = True
        self.wake()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    def wake(self) -> None:
        """Has all that wait look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def until_changed(self) -> bool:
        """Waits for the next change; False: the server ends."""
        await self._changed.wait()
        return not self._is_ending

    async def _asked(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(dict(request.query))
        if self.instead is not None:
            return web.Response(status=self.instead.status, body=self.instead.body, headers=self.instead.headers)
        return await self.answer(request)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The answer to a request."""
        raise NotImplementedError
