"""The table of `/api/v1`: each path, what a client must be allowed for it, and its handler. `openapi.json` describes the same.

A handler returns what the answer has as JSON, or that JSON in pieces, or an answer of its own.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from importlib import resources as package
from typing import Any, NamedTuple

from aiohttp import web

from spoolnode.node.control.access import Access
from spoolnode.node.control.actions import Actions
from spoolnode.node.control.events import Events
from spoolnode.node.control.operating import Operating
from spoolnode.node.control.parameters import Asked, asked_by
from spoolnode.node.control.sessions import LINK_SECONDS
from spoolnode.node.control.views import Views
from spoolnode.protocol.printable import printable

PREFIX = "/api/v1"
NUMBERS, CONTENTS, ACTIONS, OWNER = "numbers", "contents", "actions", "owner"
"""A route tells how the node is, shows what is in tasks, changes something, or lets others in (only on the control socket)."""

LONGEST_LOGGED = 200
"""Characters of a path in the log."""

ANY = ("*",)
"""In place of the parameters of a route: it takes any."""

Handler = Callable[[Any], Awaitable[Any]]
"""Takes an `Asked`; the handler of a route that does not travel takes a `web.Request`."""


class Route(NamedTuple):
    """One row of the table."""

    method: str
    path: str
    """Below `PREFIX`."""
    needs: str
    handler: Handler
    query: tuple[str, ...] = ()
    """The parameters that it takes."""
    travels: bool = True
    """Whether operators of other nodes may ask for it."""


Who = Callable[[web.Request, Route], str]
"""Names the sender of a request, or raises an error of HTTP if the route is not for it."""


def table(views: Views, events: Events, actions: Actions, operating: Operating, access: Access) -> list[Route]:
    """All routes."""
    chosen = ("function", "error", "reason", "since_at", "until_at")
    return [
        Route("GET", "/openapi.json", NUMBERS, partial(_told, description())),
        Route("GET", "/node", NUMBERS, views.node),
        Route("GET", "/nodes", NUMBERS, views.nodes),
        Route("GET", "/cluster", NUMBERS, views.cluster),
        Route("GET", "/history", NUMBERS, views.history),
        Route("GET", "/warnings", NUMBERS, views.warnings),
        Route("GET", "/links", NUMBERS, views.links),
        Route("GET", "/forget", NUMBERS, views.forgettable, ("node",)),
        Route("GET", "/timers", NUMBERS, views.timers),
        Route("GET", "/functions", NUMBERS, views.functions),
        Route("GET", "/pauses", NUMBERS, views.pauses),
        Route("GET", "/tasks", CONTENTS, views.tasks, ("state", *chosen, "limit", "cursor")),
        Route("GET", "/tasks/{id}", CONTENTS, views.task),
        Route("GET", "/ages", CONTENTS, views.ages, ("by",)),
        Route("GET", "/dead", CONTENTS, views.dead, ("by", *chosen)),
        Route("GET", "/events", CONTENTS, events.stream, ("task", "function"), travels=False),
        Route("DELETE", "/tasks/{id}", ACTIONS, actions.remove),
        Route("POST", "/tasks/{id}/retry", ACTIONS, actions.retry),
        Route("POST", "/tasks/{id}/cancel", ACTIONS, actions.cancel, ("by", "grace_seconds")),
        Route("DELETE", "/dead", ACTIONS, actions.remove_dead, (*chosen, "limit", "cursor")),
        Route("POST", "/dead/retry", ACTIONS, actions.retry_dead, (*chosen, "limit", "cursor")),
        Route("POST", "/pause", ACTIONS, actions.pause, ("function",)),
        Route("POST", "/resume", ACTIONS, actions.resume, ("function",)),
        Route("POST", "/flush", ACTIONS, actions.flush, ("to",)),
        Route("POST", "/accept", ACTIONS, actions.accept, ("name", "id")),
        Route("POST", "/forget", ACTIONS, actions.forget, ("node", "move_to", "in_doubt")),
        Route("POST", "/reload", ACTIONS, actions.reload, ("wait_seconds",)),
        Route("POST", "/settle", ACTIONS, actions.settle),
        Route("POST", "/drain", ACTIONS, actions.drain),
        Route("POST", "/stop", ACTIONS, actions.stop, ("files",)),
        Route("GET", "/nodes/{node}/{path}", CONTENTS, operating.pass_on, ANY, travels=False),
        Route("POST", "/nodes/{node}/{path}", ACTIONS, operating.pass_on, ANY, travels=False),
        Route("DELETE", "/nodes/{node}/{path}", ACTIONS, operating.pass_on, ANY, travels=False),
        Route("POST", "/web-links", OWNER, partial(_new_link, access), travels=False),
    ]


def served(routes: Iterable[Route], who: Who, report: Callable[..., None]) -> list[web.RouteDef]:
    """The same for aiohttp."""
    return [
        web.route(route.method, PREFIX + route.path.replace("{path}", "{path:.+}"), _answering(route, who, report))
        for route in routes
    ]


def _answering(
    route: Route, who: Who, report: Callable[..., None]
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:  # fmt: skip
    async def answer(request: web.Request) -> web.StreamResponse:
        found = await found_by(route, request, request.path_qs, who(request, route), report)
        if isinstance(found, web.StreamResponse):
            return found
        if isinstance(found, AsyncIterator):
            return await _streamed(request, found)
        return web.json_response(found)

    return answer


async def found_by(route: Route, request: Asked, url: str, by: str, report: Callable[..., None]) -> Any:
    """Has the handler of a route answer a request, which is logged if it changes something.

    Args:
        url: its path and query, for the log.
        by: its sender.
    """
    asked_by.set(by)
    if route.query != ANY and (unknown := sorted(set(request.query) - set(route.query))):
        takes = f"it takes {', '.join(route.query)}" if route.query else "it takes none"
        raise web.HTTPBadRequest(text=f"{route.path} has no parameter {unknown[0][:80]!r}; {takes}")
    if route.needs == ACTIONS:
        report("asked", what=f"{route.method} {printable(url)[:LONGEST_LOGGED]}", by=by)
    return await route.handler(request)


async def _streamed(request: web.Request, pieces: AsyncIterator[bytes]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json; charset=utf-8"})
    await response.prepare(request)
    async for piece in pieces:
        await response.write(piece)
    return response


async def _new_link(access: Access, request: web.Request) -> dict[str, Any]:
    del request
    if not access.url:
        raise web.HTTPConflict(text="this node does not listen for browsers: see --http, and http_not_served in its log")
    return {"url": access.new_link(), "expires_in_seconds": LINK_SECONDS}


async def _told(content: dict[str, Any], request: web.Request) -> dict[str, Any]:
    del request
    return content


def description() -> dict[str, Any]:
    """The OpenAPI document."""
    found: dict[str, Any] = json.loads(package.files(__package__).joinpath("openapi.json").read_bytes())
    return found
