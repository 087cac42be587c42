"""The control socket: `/api/v1` (see `routes`) on `control.sock` in the spool. Only its owner can use it (mode 0600)."""

import contextlib
import os
import socket
import struct
from collections.abc import Callable, Collection, Iterable

from aiohttp import web

from spoolnode.node.badconfig import BadConfig
from spoolnode.node.control.problems import errors_as_problems, words_of
from spoolnode.node.control.public import PublicServer
from spoolnode.node.control.routes import Route, served
from spoolnode.node.disk.disk import is_full

_PEER = struct.Struct("3i")
"""struct ucred: pid, uid, gid."""


class Control:
    """The control interface of one node: the control socket, and the server on `--http`."""

    def __init__(self, path: str, routes: Iterable[Route], public: PublicServer, report: Callable[..., None]) -> None:
        """`path`: of the control socket."""
        self._path = path
        self._routes = list(routes)
        self._public = public
        self._report = report
        self._runner: web.AppRunner | None = None

    def __repr__(self) -> str:
        return f"<Control on {self._path}, {self._public!r}>"

    async def start(self) -> None:
        """Listens on the control socket, and on `--http`.

        Raises:
            BadConfig: it cannot listen there.
        """
        path = self._path
        try:
            if os.path.lexists(path):  # noqa: ASYNC240  # before anything is served
                os.unlink(path)  # the lock says that no other node is here
            await self._listen()
        except OSError as error:
            if not is_full(error):
                await self.stop()
                raise BadConfig(f"cannot listen on {path} (the control socket): {words_of(error)}") from error
            self._report("move_failed", file=path, reason=words_of(error), kept="made as soon as there is room")
        try:
            await self._public.start()
        except BadConfig:
            await self.stop()
            raise

    async def listen_again(self, gone: Collection[str]) -> list[str]:
        """Makes the control socket again if its path is among these. Returns its path then. Raises OSError."""
        if self._path not in gone:
            return []
        await self._listen()
        return [self._path]

    def reload(self) -> None:
        """Called when certificates may have changed."""
        self._public.reload()

    async def stop(self) -> None:
        """Stops listening."""
        await self._public.stop()
        if self._runner is not None:
            await self._runner.cleanup()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    @property
    def http_address(self) -> str:
        """The address of the server on `--http`; empty without one."""
        return self._public.address

    @property
    def page(self) -> str:
        """The URL of that server, for other nodes; empty without one."""
        return self._public.page

    async def _listen(self) -> None:
        if self._runner is None:
            application = web.Application(middlewares=[errors_as_problems])
            application.add_routes(served(self._routes, _who, self._report))
            self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
            await self._runner.setup()
        for site in list(self._runner.sites):
            await site.stop()
        await web.UnixSite(self._runner, self._path).start()
        os.chmod(self._path, 0o600)


def _who(request: web.Request, route: Route) -> str:
    """The process at the other end of the socket, as the kernel knows it."""
    del route
    sock = request.transport.get_extra_info("socket") if request.transport is not None else None
    if sock is None:
        return "a process that has gone"
    pid, uid, _ = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return f"uid {uid}, pid {pid}"
