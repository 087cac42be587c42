"""The control interface: JSON over HTTP on `control.sock` in the spool, and, if asked for, metrics over TCP.

    GET    /status                      the node in numbers
    GET    /peers                       the other nodes, as this one sees them
    GET    /tasks?state=S&limit=N       tasks: waiting (also later and running), dead, outbox
    GET    /tasks/ID                    one task, with its contents; also by the id that another node gave it
    DELETE /tasks/ID                    removes one that waits (also for another node) or is dead
    POST   /tasks/ID/retry              makes one ready now, whether it waits for its time, for another node, or is dead
    POST   /dead/retry                  makes all dead ones ready again
    POST   /flush?to=DEST&to=...        tries these destinations now, or all
    POST   /accept?name=N&id=ID         says which node has a name that several claim
    POST   /drain                       hands the waiting tasks to others and stops
    POST   /reload?wait=SECONDS         as SIGHUP; waits for what becomes of it (outcome: reloaded, failed, loading, ...)
    POST   /settle                      gives each waiting task a spool file of its own
    POST   /stop?files=1                as SIGTERM; with `files`, settles before the end

The socket can be used by its owner only (mode 0600). Errors are {"error": sentence} with 404, 409 or 400.
"""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from aiohttp import web

from spoolnode.node.config import BadConfig, parse_address
from spoolnode.node.control import metrics
from spoolnode.node.disk.disk import is_full
from spoolnode.node.disk.layout import number_of, outbox_ref, ref_id
from spoolnode.node.ingress.listener import cannot_listen
from spoolnode.node.outbox.revival import destination_again
from spoolnode.node.spool import inspect
from spoolnode.node.spool.reader import Reader
from spoolnode.protocol.errors import BadPacket
from spoolnode.protocol.names import is_node_id, is_node_name, is_task_id
from spoolnode.protocol.request import Terms

if TYPE_CHECKING:
    from spoolnode.node.node import Node
    from spoolnode.node.spool.tasks import Source

LONGEST_WAIT = 86400.0
"""The longest that an answer may be asked to wait, in seconds."""
COUNT_SECONDS = 1.0
"""How old the numbers of dead and corrupt files may be; older when counting takes long."""
MAX_HTTP = 64
"""Connections on `--http`: each takes a descriptor, and anybody who reaches it can open some."""
LINKS_AT_ONCE = 500
"""Destinations that are looked at in one turn of the loop: about three milliseconds."""
ROWS_AT_ONCE = 1000
"""Tasks of a list that are sent together: the whole list may be of a million."""
COUNT_REST = 20
"""At least so many times as long as a count took is the pause after it."""


class SetAside(NamedTuple):
    """How many files lie in the directories from which nothing runs."""

    dead: int = 0
    corrupt: int = 0


class Control:
    """The control interface of one node."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._runners: list[web.AppRunner] = []
        self._public: asyncio.Server | None = None
        """What listens on `--http`."""
        self._counting = asyncio.Lock()
        self._recount_at = float("-inf")
        self.aside = SetAside()
        """As of the last `recount`."""

    async def start(self) -> None:
        """Listens on the control socket, and on `--http`.

        Raises:
            BadConfig: it cannot listen there.
        """
        path = self._node.layout.control
        try:
            if os.path.lexists(path):  # noqa: ASYNC240  # before anything is served
                os.unlink(path)  # the lock says that no other node is here
            await self._serve(self._application(), lambda runner: web.UnixSite(runner, path))
            os.chmod(path, 0o600)
        except OSError as error:
            if not is_full(error):
                await self.stop()
                raise BadConfig(f"cannot listen on {path} (the control socket): {_reason(error)}") from error
            self._node.report("move_failed", file=path, reason=_reason(error), kept="made as soon as there is room")
        try:
            await self._serve_metrics(self._node.config.http)
        except BadConfig:
            await self.stop()
            raise

    async def listen_again(self, gone: Collection[str]) -> list[str]:
        """Makes the control socket anew when its path is among these; its path then. Raises OSError."""
        path = self._node.layout.control
        if path not in gone:
            return []
        runner = self._runners[0]
        for site in list(runner.sites):
            await site.stop()
        await web.UnixSite(runner, path).start()
        os.chmod(path, 0o600)
        return [path]

    async def stop(self) -> None:
        """Listens no more."""
        if self._public is not None:
            self._public.close()
        for runner in self._runners:
            await runner.cleanup()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._node.layout.control)

    @property
    def http_address(self) -> str:
        """Where metrics are, with the port that the system chose; empty without --http."""
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
        """What makes a handler for each connection."""
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        self._runners.append(runner)
        assert runner.server is not None  # noqa: S101  # for the type checker
        return runner.server

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[_errors_as_json])
        application.add_routes(
            [
                web.get("/status", self._status),
                web.get("/peers", self._peers),
                web.get("/tasks", self._tasks),
                web.get("/tasks/{id}", self._task),
                web.delete("/tasks/{id}", self._remove),
                web.post("/tasks/{id}/retry", self._retry),
                web.post("/dead/retry", self._retry_dead),
                web.post("/flush", self._flush),
                web.post("/accept", self._accept),
                web.post("/drain", self._drain),
                web.post("/reload", self._reload),
                web.post("/settle", self._settle),
                web.post("/stop", self._stop),
            ]
        )
        return application

    def _public_application(self) -> web.Application:
        application = web.Application(middlewares=[self._only_allowed])
        application.add_routes([web.get("/metrics", self._metrics), web.get("/healthz", self._health)])
        return application

    @web.middleware
    async def _only_allowed(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Metrics are for whoever may enqueue; whether the node is well may be asked by anybody (a load balancer)."""
        if request.path == "/metrics" and request.remote is not None and not self._node.config.lets_in(request.remote):
            raise web.HTTPForbidden(text=f"requests from {request.remote} are not answered: see --allow\n")
        response: web.StreamResponse = await handler(request)
        return response

    # -- looking --

    async def _status(self, request: web.Request) -> web.Response:
        del request
        await self.recount()
        return _json(await self._full_status())

    async def _full_status(self) -> dict[str, Any]:
        """Also what is of no interest to who pings."""
        links = {}
        for index, (to, size) in enumerate(self._node.outbox.sizes().items(), 1):
            if (link := self._node.neighbours.link(to)) is not None:
                links[to] = {"waiting": size, **link}
            if index % LINKS_AT_ONCE == 0:
                await asyncio.sleep(0)
        return {**self._node.status(), "links": links}

    async def _peers(self, request: web.Request) -> web.Response:
        del request
        return _json(self._node.neighbours.peers())

    async def _tasks(self, request: web.Request) -> web.StreamResponse:
        state = request.query.get("state", "waiting")
        limit = request.query.get("limit", "100")
        if not limit.isdecimal():
            raise web.HTTPBadRequest(text=f"limit is {limit!r}; it must be a number, 0 for all")
        listings: dict[str, Callable[[Reader, float], Iterator[inspect.Info]]] = {
            "waiting": inspect.waiting_tasks,
            "dead": partial(inspect.dead_tasks, first=int(limit)),
            "outbox": inspect.outbox_tasks,
        }
        if state not in listings:
            raise web.HTTPBadRequest(text=f"state is {state!r}; it must be one of {', '.join(listings)}")
        reader = self._node.journal.reader
        found = await self._aside(lambda: inspect.soonest(reader, listings[state](reader, time.time()), int(limit)))
        running = {row["id"]: row for row in self._node.pool.running()}
        if len(found) <= ROWS_AT_ONCE:
            return _json([_row(info, running) for info in found])
        return await self._stream(request, found, running)

    async def _stream(
        self, request: web.Request, found: list[inspect.Info], running: dict[str, dict[str, Any]]
    ) -> web.StreamResponse:
        """A long list, piece by piece: encoding it in one go would keep the interpreter for seconds, in whatever thread."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for start in range(0, len(found), ROWS_AT_ONCE):
            rows = [_row(info, running) for info in found[start : start + ROWS_AT_ONCE]]
            piece = await self._aside(partial(_encoded, rows))
            await response.write((b", " if start else b"[") + piece)
        await response.write(b"]")
        return response

    async def _task(self, request: web.Request) -> web.Response:
        reader = self._node.journal.reader

        def read(identity: str) -> dict[str, Any] | None:
            now = time.time()
            found = inspect.find_place(reader, identity, now) or inspect.find_arrived(reader, identity, now)
            return None if found is None else {**found[0]._asdict(), **inspect.contents(reader, found[1])}

        identity = _identity(request)
        try:
            shown = await self._aside(lambda: read(identity))
        except (BadPacket, FileNotFoundError) as error:
            raise web.HTTPNotFound(text=f"the task {identity} cannot be read: {error}") from error
        if shown is None:
            raise _not_found(identity)
        running = {row["id"]: row for row in self._node.pool.running()}
        identity = shown["id"]
        if identity in running:
            shown |= {"state": "running", **running[identity]}
        if shown["state"] != "dead" and (reason := self._node.spool.retrying.reason(identity)):
            shown["last_error"] = reason
        return _json(shown)

    async def _aside(self, job: Callable[[], Any]) -> Any:
        """Long reads have a thread of their own, so that no task waits for them."""
        return await asyncio.get_running_loop().run_in_executor(None, job)

    # -- changing --

    async def _remove(self, request: web.Request) -> web.Response:
        identity = _identity(request)
        node = self._node
        while (found := await self._find(identity)) is not None and found[0].frozen:  # noqa: ASYNC110  # rare, and soon over
            await asyncio.sleep(0.01)  # it is being moved to a file of its own
        if found is not None and found[1] in found[0].in_flight:
            raise web.HTTPConflict(text=f"the task {identity} is {self._holder(*found)}; only waiting tasks can be removed")
        if found is None or not await node.storage.remove(*found):
            path = await self._dead_or_outbox(identity)
            await node.journal.moves.run(lambda: node.journal.store.remove(path))
            self._recount_at = float("-inf")
        self._node.report("removed", id=identity)
        return _json({"id": identity, "removed": True})

    async def _find(self, identity: str) -> "tuple[Source, Any] | None":
        """Where a task is that waits, or is with a worker or a link."""
        node = self._node
        found = node.spool.find(identity)
        if found is None and node.outbox.files.known:
            place = await self._aside(lambda: inspect.find_place(node.journal.reader, identity))
            found = node.storage.at(place[0].where) if place is not None else None
        return found

    def _holder(self, source: "Source", ref: Any) -> str:
        """Where a task is that is in flight."""
        return "being sent to another node right now" if source.sequence_number(ref) else "with a worker"

    async def _retry(self, request: web.Request) -> web.Response:
        identity = _identity(request)
        node = self._node
        found = await self._find(identity)
        to = node.outbox.where_to(*found) if found is not None else None
        if to is not None:
            if reason := self._try_now(to):
                raise web.HTTPConflict(text=f"the task {identity} waits for {to}: {reason}")
        elif found is None or not node.spool.hurry(*found):
            place = await self._aside(lambda: inspect.find_place(node.journal.reader, identity))
            if place is not None and place[0].state != inspect.DEAD:
                raise web.HTTPConflict(text=f"the task {identity} is ready, running or being sent already")
            to = await self._revive(await self._dead_or_outbox(identity, outbox=False))
        self._node.report("retry_asked", id=identity)
        return _json({"id": identity, "ready": True, **({"destination": to} if to else {})})

    async def _retry_dead(self, request: web.Request) -> web.Response:
        del request
        reader = self._node.journal.reader
        dead = await self._aside(lambda: list(inspect.dead_tasks(reader, time.time())))
        for info in dead:
            await self._revive(info.where)
            self._node.report("retry_asked", id=info.id)
        return _json({"ready": len(dead)})

    async def _revive(self, where: str) -> str:
        """Puts a dead task back among the waiting ones; for which node: empty is this one."""
        node = self._node
        with node.journal.placing():
            asked = await node.journal.moves.run(lambda: destination_again(node.journal.reader.block_of(where)))
            to = node.neighbours.route(Terms(destination=asked))[0] if asked else ""
            target = outbox_ref(to, ref_id(where), node.outbox.number(to)) if to else ""
            try:
                ref = await node.journal.moves.run(lambda: node.journal.store.revive(where, target))
            except BaseException:
                if target:
                    node.outbox.refused(to, number_of(target))
                raise
            if to:
                node.outbox.accept_file(ref, time.time())
            else:
                node.spool.notice(ref, 0.0, time.time(), sure=True)
        self._recount_at = float("-inf")
        return to

    async def _flush(self, request: web.Request) -> web.Response:
        sizes = self._node.outbox.sizes()
        rows, aliases = [], self._aliases()
        for index, asked in enumerate(request.query.getall("to", []) or sizes, 1):
            waiting = [name for name in {asked, *aliases.get(asked, ())} if name in sizes]
            reasons = [self._try_now(name) for name in waiting]
            tried, count = "" in reasons, sum(sizes[name] for name in waiting)
            reason = "" if tried else "".join(reasons[:1])
            rows.append({"destination": asked, "waiting": count, "tried": tried, "reason": reason})
            if index % LINKS_AT_ONCE == 0:
                await asyncio.sleep(0)
        return _json(rows)

    def _aliases(self) -> dict[str, set[str]]:
        """For each name of a node, and each tag: all names under which tasks may wait for it, or for those that have it."""
        found: dict[str, set[str]] = {}
        for row in self._node.neighbours.peers():
            called = {row["id"], row["name"], row["address"], *row["former_names"]} - {""}
            for name in (*called, *(f"tag:{tag}" for tag in row["tags"])):
                found.setdefault(name, set()).update(called)
        return found

    def _try_now(self, to: str) -> str:
        """Tries a destination for which something waits; why that cannot be, empty when it can."""
        link = self._node.neighbours.link(to)
        if link is None or not link["known"]:
            return str(link["reason"]) if link is not None else "this node is in no cluster"
        self._node.neighbours.flush(to)
        return ""

    async def _accept(self, request: web.Request) -> web.Response:
        name, identity = request.query.get("name", ""), request.query.get("id", "")
        if not is_node_name(name):
            right = "1 to 63 of letters, digits, '.', '_' and '-'"
            raise web.HTTPBadRequest(text=f"{name!r} cannot be a node's name; it must be {right}")
        if not is_node_id(identity):
            right = "the 12 hexadecimal digits that `spoolnode peers` shows"
            raise web.HTTPBadRequest(text=f"{identity!r} is no node's id; it must be {right}")
        self._node.neighbours.accept(name, identity)
        return _json({"name": name, "id": identity})

    async def _drain(self, request: web.Request) -> web.Response:
        del request
        node = self._node
        if node.problem() == "stopping":
            raise web.HTTPConflict(text=f"{node.admission.closed or 'this node is stopping'} already")
        before = {"waiting": node.spool.total, "outbox": node.outbox.total}
        node.ask_to_drain()
        return _json({"draining": True, **before})

    async def _dead_or_outbox(self, identity: str, *, outbox: bool = True) -> str:
        reader = self._node.journal.reader
        found = await self._aside(lambda: inspect.find_place(reader, identity))
        allowed = (inspect.DEAD, inspect.OUTBOX) if outbox else (inspect.DEAD,)
        if found is None or found[0].state not in allowed:
            raise _not_found(identity)
        return str(found[0].where)

    async def _reload(self, request: web.Request) -> web.Response:
        """Asks for it, and waits for so many seconds for what becomes of it."""
        try:
            seconds = float(request.query.get("wait", "0"))
        except ValueError:
            raise web.HTTPBadRequest(text=f"wait={request.query['wait'][:80]!r}: it must be a number of seconds") from None
        answer = self._node.ask_to_reload()
        if answer is None:
            why = (
                "this node is stopping"
                if self._node.config.app
                else "this node has no application, so there is nothing to reload"
            )
            raise web.HTTPConflict(text=why)
        if not seconds > 0:
            return _json({"outcome": "asked", "reason": ""})
        await asyncio.wait({answer}, timeout=min(seconds, LONGEST_WAIT))
        if not answer.done() or answer.cancelled():
            return _json({"outcome": "stopping" if answer.done() else "loading", "reason": ""})
        return _json({"outcome": "failed" if answer.result() else "reloaded", "reason": answer.result()})

    async def _settle(self, request: web.Request) -> web.Response:
        del request
        before = self._node.journal.in_batches
        await self._node.spool.settle_all()
        return _json({"settled": before - self._node.journal.in_batches, "left": self._node.journal.in_batches})

    async def _stop(self, request: web.Request) -> web.Response:
        self._node.leaves_files |= request.query.get("files") == "1"
        self._node.ask_to_stop()
        return _json({"stopping": True})

    # -- metrics --

    async def _metrics(self, request: web.Request) -> web.Response:
        del request
        await self.recount()
        status = await self._full_status()
        body = await self._aside(lambda: metrics.render(status))
        return web.Response(body=body, headers={"Content-Type": metrics.CONTENT_TYPE})

    async def _health(self, request: web.Request) -> web.Response:
        del request
        problem = self._node.problem()
        return web.Response(text=f"{problem or 'ok'}\n", status=503 if problem else 200)

    # -- counting what lies aside --

    async def recount(self) -> None:
        """Brings `aside` up to date, in a thread: a directory of a hundred thousand dead tasks takes a while."""
        async with self._counting:
            if time.monotonic() < self._recount_at:
                return
            began = time.monotonic()
            self.aside = await self._aside(self._count)
            now = time.monotonic()
            self._recount_at = now + max(COUNT_SECONDS, COUNT_REST * (now - began))

    def _count(self) -> SetAside:
        reader = self._node.journal.reader
        try:
            corrupt = len(reader.disk.entries(reader.layout.corrupt))
        except PermissionError:  # the start says so; nothing that runs needs it
            corrupt = 0
        return SetAside(dead=inspect.count_files(reader, "dead"), corrupt=corrupt)


def _newest(server: web.Server) -> Callable[[], asyncio.Protocol]:
    """Makes handlers for connections; of more than `MAX_HTTP` the oldest ends: whoever asks for metrics does not grow old."""

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
    except OSError as error:  # it went away meanwhile, or its disk fails us
        return _json({"error": f"nothing was changed: {_reason(error)}"}, status=409)
    except BadPacket as error:
        return _json({"error": f"nothing was changed: {error}"}, status=409)


def _reason(error: OSError) -> str:
    """The system's words alone: asyncio puts the address before them, Python the number and the path around them."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror or error)


def _row(info: inspect.Info, running: dict[str, dict[str, Any]]) -> dict[str, Any]:
    row = info._asdict()
    return {**row, "state": "running", **running[info.id]} if info.id in running else row


def _encoded(rows: list[dict[str, Any]]) -> bytes:
    return ", ".join(json.dumps(row) for row in rows).encode()


def _identity(request: web.Request) -> str:
    identity = request.match_info["id"].removeprefix("uwsgi_spoolfile_on_")
    if not is_task_id(identity):
        raise web.HTTPBadRequest(text=f"{identity[:80]!r} is no task id")
    return identity


def _not_found(identity: str) -> web.HTTPNotFound:
    return web.HTTPNotFound(text=f"there is no task {identity} here: it has ended, was removed, or never was")


def _json(content: Any, status: int = 200) -> web.Response:
    return web.Response(text=json.dumps(content), status=status, content_type="application/json")
