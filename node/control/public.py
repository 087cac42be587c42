"""The server on `--http`: `/api/v1`, metrics and probes over TCP.

GET    /, /page/...                 the page in a browser: the same files for all clients
GET    /metrics                     for Prometheus
GET    /livez                       200: the event loop turns
GET    /readyz                      200: it takes tasks; 503 with the reason: it does not
GET    /healthz                     the same, and 503 when no worker runs them
GET    /login?code=CODE             opens the session of a one-time link
...    /api/v1/...                  numbers for anyone; contents and actions with a session or a token
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from aiohttp import web

from spoolnode.node.background import spawn
from spoolnode.node.badconfig import BadConfig
from spoolnode.node.config import DEFAULT_HTTP, Config, parse_address
from spoolnode.node.control import metrics
from spoolnode.node.control.access import Access
from spoolnode.node.control.browser_files import HOME, page_files
from spoolnode.node.control.https import HttpCertificate, Securing
from spoolnode.node.control.problems import errors_as_problems
from spoolnode.node.control.routes import NUMBERS, OWNER, Route, served
from spoolnode.node.control.sessions import SESSION_SECONDS
from spoolnode.node.control.status import NodeStatus
from spoolnode.node.ingress.listener import cannot_listen

MAX_HTTP = 64
"""Most connections on `--http`: each takes a descriptor, and any client that reaches it can open some."""
METRICS, LOGIN = "/metrics", "/login"
PROBES = ("/livez", "/readyz", "/healthz")
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of each answer that says nothing else: a browser keeps nothing, loads nothing from elsewhere, runs and styles only what is in
files of this node, and shows nothing within other pages."""


class PublicServer:
    """The HTTP server of one node that is reached over TCP."""

    def __init__(
        self, config: Config, routes: Iterable[Route], status: NodeStatus, access: Access, report: Callable[..., None],
        certificate: HttpCertificate | None = None,
    ) -> None:  # fmt: skip
        """`certificate`: without one it does not speak TLS."""
        self._config = config
        self._routes = [route for route in routes if route.needs != OWNER]
        self._status = status
        self._access = access
        self._report = report
        self._certificate = certificate
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None

    def __repr__(self) -> str:
        return f"<PublicServer on {self.address or 'nothing'}>"

    @property
    def address(self) -> str:
        """Where it listens, with the port that the system chose; empty if it does not."""
        return "{}:{}".format(*self._server.sockets[0].getsockname()[:2]) if self._server is not None else ""

    @property
    def page(self) -> str:
        """Its URL, for other nodes; empty if it does not listen."""
        return self._access.page

    async def start(self) -> None:
        """Listens. A default address that is taken is a warning only: it was not asked for. Raises `BadConfig`."""
        address = self._config.http
        if address == "none":
            return
        parsed = parse_address(address)
        if isinstance(parsed, str):
            raise BadConfig(f"--http is {parsed!r}; it must be host:port, or none")
        self._runner = runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        assert runner.server is not None  # noqa: S101  # for the type checker
        try:
            self._server = await asyncio.get_running_loop().create_server(_newest(runner.server, self._certificate), *parsed)
        except OSError as error:
            problem = cannot_listen(address, error, "--http")
            if address != DEFAULT_HTTP:
                raise problem from error
            self._report("http_not_served", reason=str(problem))
            return
        host, port = self._server.sockets[0].getsockname()[:2]
        self._access.listens_on(host, port)

    def reload(self) -> None:
        """Reads the certificate again, beside the loop."""
        if self._certificate is not None:
            spawn(asyncio.to_thread(self._certificate.reload, self._report))

    async def stop(self) -> None:
        """Stops listening."""
        if self._server is not None:
            self._server.close()
        if self._runner is not None:
            await self._runner.cleanup()

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[self._only_allowed, errors_as_problems, self._only_meant])
        application.on_response_prepare.append(_add_headers)
        application.add_routes(served(self._routes, self._who, self._report))
        application.add_routes([web.get(METRICS, self._get_metrics), web.get(LOGIN, self._login)])
        application.add_routes([web.get(path, file.answer) for path, file in page_files().items()])
        problems: dict[str, Callable[[], str]] = {
            "/livez": lambda: "",  # any answer says that the loop turns
            "/readyz": self._status.refuses,
            "/healthz": self._status.problem,
        }
        application.add_routes([web.get(path, partial(_get_probe, problems[path])) for path in PROBES])
        return application

    # -- who may what --

    @web.middleware
    async def _only_allowed(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Only clients in allowed networks are answered; the probes are for all (a load balancer)."""
        if request.path not in PROBES and request.remote is not None and not self._config.lets_look(request.remote):
            raise web.HTTPForbidden(text=f"requests from {request.remote} are not answered: see --http-allow\n")
        return await handler(request)

    @web.middleware
    async def _only_meant(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """A browser must mean this node. Prometheus and load balancers reach it under any name, and see no tasks."""
        objection = self._access.objection(request.headers.get("Host", ""), request.headers.get("Origin"))
        if objection and request.path not in (METRICS, *PROBES):
            raise web.HTTPForbidden(text=objection)
        return await handler(request)

    def _who(self, request: web.Request, route: Route) -> str:
        """The sender of a request. Raises HTTPUnauthorized, HTTPForbidden if the route needs more than it has."""
        cookie = request.cookies.get(self._access.cookie, "")
        visitor = self._access.visitor(request.headers.get("Authorization", ""), cookie)
        if route.needs == NUMBERS:
            return visitor
        if not visitor:
            text = "this needs a session (`spoolnode web` prints a link that opens one) or a token (--http-token-file)"
            raise web.HTTPUnauthorized(text=text, headers={"WWW-Authenticate": "Bearer"})
        if visitor != "token" and request.method != "GET" and "Origin" not in request.headers:
            raise web.HTTPForbidden(text="an action of a session must come from a page of this node: it has no Origin")
        return f"{visitor} from {request.remote}"

    async def _login(self, request: web.Request) -> web.Response:
        try:
            session = self._access.sessions.open(request.query.get("code", ""))
        except KeyError:
            raise web.HTTPForbidden(text="this link was used or has expired; `spoolnode web` prints a new one") from None
        self._report("session_opened", by=f"session {self._access.sessions.name_of(session)} from {request.remote}")
        response = web.Response(status=303, headers={"Location": HOME})
        response.set_cookie(
            self._access.cookie, session, max_age=int(SESSION_SECONDS), httponly=True, samesite="Strict",
            secure=self._access.is_secure,
        )  # fmt: skip
        return response

    # -- metrics and probes --

    async def _get_metrics(self, request: web.Request) -> web.Response:
        numbers, accept = await self._status.for_metrics(), request.headers.get("Accept", "")
        body, kind = await asyncio.get_running_loop().run_in_executor(None, metrics.render, numbers, accept)
        return web.Response(body=body, headers={"Content-Type": kind})


async def _get_probe(find_problem: Callable[[], str], request: web.Request) -> web.Response:
    del request
    problem = find_problem()
    return web.Response(text=f"{problem or 'ok'}\n", status=503 if problem else 200)


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    del request
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


def _newest(server: web.Server, certificate: HttpCertificate | None) -> Callable[[], asyncio.Protocol]:
    """Makes handlers for connections. Beyond `MAX_HTTP` the oldest ends: a client of metrics does not grow old.

    Handshakes come first: they grow old even less.
    """
    securing: list[Securing] = []
    loop = asyncio.get_running_loop()

    def make() -> asyncio.Protocol:
        loop.call_soon(end_oldest)  # not now: asyncio's own loop makes the handlers of many before any of them is connected
        if certificate is None:
            return server()
        securing.append(Securing(certificate, server))
        return securing[-1]

    def end_oldest() -> None:
        securing[:] = [one for one in securing if one.is_under_way or not one.has_begun]
        connected = [handler.transport for handler in server.connections if handler.transport is not None]
        talking = [transport for transport in connected if not transport.is_closing()]
        alive: list[Securing | asyncio.Transport] = [*(one for one in securing if one.is_under_way), *talking]
        if len(alive) > MAX_HTTP:
            alive[0].abort()

    return make
