"""The control interface: JSON over HTTP on `control.sock` in the spool, and, if asked for, metrics over TCP.

    GET    /status                      the state of the node, in numbers
    GET    /peers                       the other nodes, as this one sees them
    GET    /tasks?state=S&limit=N       tasks: waiting (also later and running), dead, outbox
    GET    /tasks/ID                    one task, with its contents; also by its id on another node
    DELETE /tasks/ID                    removes one that waits (also for another node) or is dead
    POST   /tasks/ID/retry              makes one ready now, whether it waits for its time, for another node, or is dead
    POST   /dead/retry                  makes all dead ones ready again
    POST   /flush?to=DEST&to=...        tries these destinations now, or all
    POST   /accept?name=N&id=ID         gives a name that several nodes claim to one of them
    POST   /drain                       hands the waiting tasks to others and stops
    POST   /reload?wait=SECONDS         as SIGHUP; waits for the outcome (reloaded, failed, loading, ...)
    POST   /settle                      gives each waiting task a spool file of its own
    POST   /stop?files=1                as SIGTERM; with `files`, settles before the end

Only its owner can use the socket (mode 0600). Errors are {"error": sentence} with 404, 409 or 400.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Any

from aiohttp import web

from spoolnode.node.config import BadConfig, Config, parse_address
from spoolnode.node.control import metrics
from spoolnode.node.control.admin import STATES, NoSuchTask, NotAllowedNow, TaskAdmin
from spoolnode.node.control.status import NodeStatus
from spoolnode.node.control.stop import Stop
from spoolnode.node.disk.disk import is_full
from spoolnode.node.ingress.listener import cannot_listen
from spoolnode.node.neighbours import Neighbours
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.reload import LoadAnswer
from spoolnode.node.spool import inspect
from spoolnode.protocol.errors import BadPacket
from spoolnode.protocol.names import is_node_id, is_node_name, is_task_id

LONGEST_WAIT = 86400.0
"""The longest wait that a request may ask for, in seconds."""
MAX_HTTP = 64
"""Most connections on `--http`: each takes a descriptor, and any client that reaches it can open some."""
ROWS_AT_ONCE = 1000
"""Tasks of a list that are sent together: the whole list may have a million."""


class Control:
    """The control interface of one node."""

    def __init__(
        self, config: Config, storage: Storage, neighbours: Neighbours, status: NodeStatus, admin: TaskAdmin, stop: Stop,
        reload: Callable[[], LoadAnswer | None], report: Callable[..., None],
    ) -> None:  # fmt: skip
        """`reload`: asks for a reload; None when the node has no application, or is stopping."""
        self._config = config
        self._path = storage.journal.layout.control
        self._storage = storage
        self._neighbours = neighbours
        self._status = status
        self._admin = admin
        self._stop = stop
        self._ask_to_reload = reload
        self._report = report
        self._runners: list[web.AppRunner] = []
        self._public: asyncio.Server | None = None
        """The server on `--http`."""

    def __repr__(self) -> str:
        return f"<Control on {self._path}{' and ' * bool(self.http_address)}{self.http_address}>"

    async def start(self) -> None:
        """Listens on the control socket, and on `--http`.

        Raises:
            BadConfig: it cannot listen there.
        """
        path = self._path
        try:
            if os.path.lexists(path):  # noqa: ASYNC240  # before anything is served
                os.unlink(path)  # the lock says that no other node is here
            await self._serve(self._application(), lambda runner: web.UnixSite(runner, path))
            os.chmod(path, 0o600)
        except OSError as error:
            if not is_full(error):
                await self.stop()
                raise BadConfig(f"cannot listen on {path} (the control socket): {_reason(error)}") from error
            self._report("move_failed", file=path, reason=_reason(error), kept="made as soon as there is room")
        try:
            await self._serve_metrics(self._config.http)
        except BadConfig:
            await self.stop()
            raise

    async def listen_again(self, gone: Collection[str]) -> list[str]:
        """Makes the control socket again if its path is among these. Returns its path then. Raises OSError."""
        path = self._path
        if path not in gone:
            return []
        runner = self._runners[0]
        for site in list(runner.sites):
            await site.stop()
        await web.UnixSite(runner, path).start()
        os.chmod(path, 0o600)
        return [path]

    async def stop(self) -> None:
        """Stops listening."""
        if self._public is not None:
            self._public.close()
        for runner in self._runners:
            await runner.cleanup()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    @property
    def http_address(self) -> str:
        """The address of the metrics, with the port that the system chose; empty without --http."""
        return "{}:{}".format(*self._public.sockets[0].getsockname()[:2]) if self._public is not None else ""

    async def _serve_metrics(self, address: str) -> None:
        if not address:
            return
        parsed = parse_address(address)
        if isinstance(parsed, str):
            raise BadConfig(f"--http is {parsed!r}; it must be host:port")
        host, port = parsed
        try:
            server = await self._server(self._public_application())
            self._public = await asyncio.get_running_loop().create_server(_newest(server), host, port)
        except OSError as error:
            raise cannot_listen(address, error, "--http") from error

    async def _serve(self, application: web.Application, site_of: Callable[[web.AppRunner], web.BaseSite]) -> None:
        await self._server(application)
        await site_of(self._runners[-1]).start()

    async def _server(self, application: web.Application) -> web.Server:
        """The server, which makes a handler for each connection."""
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        self._runners.append(runner)
        assert runner.server is not None  # noqa: S101  # for the type checker
        return runner.server

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[_errors_as_json])
        application.add_routes(
            [
                web.get("/status", self._get_status),
                web.get("/peers", self._get_peers),
                web.get("/tasks", self._get_tasks),
                web.get("/tasks/{id}", self._get_task),
                web.delete("/tasks/{id}", self._delete_task),
                web.post("/tasks/{id}/retry", self._post_retry),
                web.post("/dead/retry", self._post_retry_dead),
                web.post("/flush", self._post_flush),
                web.post("/accept", self._post_accept),
                web.post("/drain", self._post_drain),
                web.post("/reload", self._post_reload),
                web.post("/settle", self._post_settle),
                web.post("/stop", self._post_stop),
            ]
        )
        return application

    def _public_application(self) -> web.Application:
        application = web.Application(middlewares=[self._only_allowed])
        application.add_routes([web.get("/metrics", self._get_metrics), web.get("/healthz", self._get_health)])
        return application

    @web.middleware
    async def _only_allowed(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Metrics are for clients that may enqueue; `/healthz` is for all (a load balancer)."""
        if request.path == "/metrics" and request.remote is not None and not self._config.lets_in(request.remote):
            raise web.HTTPForbidden(text=f"requests from {request.remote} are not answered: see --allow\n")
        response: web.StreamResponse = await handler(request)
        return response

    # -- looking --

    async def _get_status(self, request: web.Request) -> web.Response:
        del request
        return _json(await self._status.in_full())

    async def _get_peers(self, request: web.Request) -> web.Response:
        del request
        return _json(self._neighbours.peers())

    async def _get_tasks(self, request: web.Request) -> web.StreamResponse:
        state = request.query.get("state", "waiting")
        limit = request.query.get("limit", "100")
        if not limit.isdecimal():
            raise web.HTTPBadRequest(text=f"limit is {limit!r}; it must be a number, 0 for all")
        if state not in STATES:
            raise web.HTTPBadRequest(text=f"state is {state!r}; it must be one of {', '.join(STATES)}")
        found = await self._admin.listed(state, int(limit))
        running = self._admin.running()
        if len(found) <= ROWS_AT_ONCE:
            return _json([_row(info, running) for info in found])
        return await self._stream(request, found, running)

    async def _stream(
        self, request: web.Request, found: list[inspect.Info], running: dict[str, dict[str, Any]]
    ) -> web.StreamResponse:
        """Sends a long list piece by piece: encoding it at once would block the interpreter for seconds, in any thread."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for start in range(0, len(found), ROWS_AT_ONCE):
            rows = [_row(info, running) for info in found[start : start + ROWS_AT_ONCE]]
            piece = await _in_a_thread(partial(_encoded, rows))
            await response.write((b", " if start else b"[") + piece)
        await response.write(b"]")
        return response

    async def _get_task(self, request: web.Request) -> web.Response:
        return _json(await self._admin.show(_identity(request)))

    # -- changing --

    async def _delete_task(self, request: web.Request) -> web.Response:
        identity = _identity(request)
        await self._admin.remove(identity)
        return _json({"id": identity, "removed": True})

    async def _post_retry(self, request: web.Request) -> web.Response:
        identity = _identity(request)
        to = await self._admin.retry(identity)
        return _json({"id": identity, "ready": True, **({"destination": to} if to else {})})

    async def _post_retry_dead(self, request: web.Request) -> web.Response:
        del request
        return _json({"ready": await self._admin.retry_dead()})

    async def _post_flush(self, request: web.Request) -> web.Response:
        return _json(await self._admin.flush(request.query.getall("to", [])))

    async def _post_accept(self, request: web.Request) -> web.Response:
        name, identity = request.query.get("name", ""), request.query.get("id", "")
        if not is_node_name(name):
            right = "1 to 63 letters, digits, '.', '_' or '-'"
            raise web.HTTPBadRequest(text=f"{name!r} cannot be a node's name; it must be {right}")
        if not is_node_id(identity):
            right = "the 12 hexadecimal digits that `spoolnode peers` shows"
            raise web.HTTPBadRequest(text=f"{identity!r} is not a node's id; it must be {right}")
        self._neighbours.accept(name, identity)
        return _json({"name": name, "id": identity})

    async def _post_drain(self, request: web.Request) -> web.Response:
        del request
        if self._stop.is_asked:
            raise web.HTTPConflict(text=f"this node is {self._stop.state} already")
        before = {"waiting": self._storage.spool.total, "outbox": self._storage.outbox.total}
        self._stop.ask_to_drain(waiting=before["waiting"])
        return _json({"draining": True, **before})

    async def _post_reload(self, request: web.Request) -> web.Response:
        """Asks for a reload, and waits for its outcome for so many seconds."""
        try:
            seconds = float(request.query.get("wait", "0"))
        except ValueError:
            raise web.HTTPBadRequest(text=f"wait={request.query['wait'][:80]!r}: it must be a number of seconds") from None
        answer = self._ask_to_reload()
        if answer is None:
            why = "this node is stopping" if self._config.app else "this node has no application, so there is nothing to reload"
            raise web.HTTPConflict(text=why)
        if not seconds > 0:
            return _json({"outcome": "asked", "reason": ""})
        await asyncio.wait({answer}, timeout=min(seconds, LONGEST_WAIT))
        if not answer.done() or answer.cancelled():
            return _json({"outcome": "stopping" if answer.done() else "loading", "reason": ""})
        return _json({"outcome": "failed" if answer.result() else "reloaded", "reason": answer.result()})

    async def _post_settle(self, request: web.Request) -> web.Response:
        del request
        journal = self._storage.journal
        before = journal.in_batches
        await self._storage.settle_all()
        return _json({"settled": before - journal.in_batches, "left": journal.in_batches})

    async def _post_stop(self, request: web.Request) -> web.Response:
        self._stop.ask(files=request.query.get("files") == "1")
        return _json({"stopping": True})

    # -- metrics --

    async def _get_metrics(self, request: web.Request) -> web.Response:
        del request
        status = await self._status.in_full()
        body = await _in_a_thread(lambda: metrics.render(status))
        return web.Response(body=body, headers={"Content-Type": metrics.CONTENT_TYPE})

    async def _get_health(self, request: web.Request) -> web.Response:
        del request
        problem = self._status.problem()
        return web.Response(text=f"{problem or 'ok'}\n", status=503 if problem else 200)


def _newest(server: web.Server) -> Callable[[], asyncio.Protocol]:
    """Makes handlers for connections. Beyond `MAX_HTTP` the oldest ends: a client of metrics does not grow old."""

    def make() -> asyncio.Protocol:
        connected = [handler.transport for handler in server.connections if handler.transport is not None]
        alive = [transport for transport in connected if not transport.is_closing()]
        if len(alive) >= MAX_HTTP:
            alive[0].abort()
        return server()

    return make


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPError as error:
        return _json({"error": error.text}, status=error.status)
    except NoSuchTask as error:
        return _json({"error": str(error)}, status=404)
    except NotAllowedNow as error:
        return _json({"error": str(error)}, status=409)
    except OSError as error:  # it has gone meanwhile, or the disk fails
        return _json({"error": f"nothing was changed: {_reason(error)}"}, status=409)
    except BadPacket as error:
        return _json({"error": f"nothing was changed: {error}"}, status=409)


def _reason(error: OSError) -> str:
    """Only the system's words: asyncio puts the address before them, Python the number and the path around them."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror or error)


def _row(info: inspect.Info, running: dict[str, dict[str, Any]]) -> dict[str, Any]:
    row = info._asdict()
    return {**row, "state": "running", **running[info.id]} if info.id in running else row


async def _in_a_thread(job: Callable[[], bytes]) -> bytes:
    """Encoding takes long, and no task shall wait for it."""
    return await asyncio.get_running_loop().run_in_executor(None, job)


def _encoded(rows: list[dict[str, Any]]) -> bytes:
    return ", ".join(json.dumps(row) for row in rows).encode()


def _identity(request: web.Request) -> str:
    identity = request.match_info["id"].removeprefix("uwsgi_spoolfile_on_")
    if not is_task_id(identity):
        raise web.HTTPBadRequest(text=f"{identity[:80]!r} is not a task id")
    return identity


def _json(content: Any, status: int = 200) -> web.Response:
    return web.Response(text=json.dumps(content), status=status, content_type="application/json")
