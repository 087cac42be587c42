"""Passes requests of `/api/v1` on to other nodes, for the operators of this one, and their answers back."""

from aiohttp import web

from spoolnode.node.control.parameters import asked_by
from spoolnode.node.control.problems import problem
from spoolnode.node.neighbours import Neighbours, NoMutualTLS, OutcomeUnknown
from spoolnode.protocol.errors import Reason, Refused, SpoolnodeError
from spoolnode.protocol.operate import Operation


class Operating:
    """The other nodes, in the hands of the operators of this one."""

    def __init__(self, neighbours: Neighbours) -> None:
        self._neighbours = neighbours

    def __repr__(self) -> str:
        return "<Operating>"

    async def pass_on(self, request: web.Request) -> web.Response:
        """Has another node answer. A problem has the URL of that node's own page, where there is one."""
        asked = request.match_info["node"]
        named = [row for row in self._neighbours.peers() if asked in (row["name"], row["id"])]
        if not named:
            raise web.HTTPNotFound(text=f"no other node {asked[:80]!r} is known here; `/nodes` has all")
        row = named[0]
        name, page = row["name"] or asked, row["page"] or None
        operation = Operation(request.method, f"/{request.match_info['path']}", request.rel_url.raw_query_string, asked_by.get())
        try:
            answer = await self._neighbours.operate(row["id"], operation)
        except NoMutualTLS as error:
            return problem(403, f"contents and actions of {name} are open only on its own page: {error}", page=page)
        except OutcomeUnknown as error:
            return problem(504, f"{name} did not answer, so an action may be done or not: {error}", page=page)
        except Refused as refusal:
            status = refusal.reason.value if refusal.reason in (Reason.FORBIDDEN, Reason.BUSY) else 502
            return problem(status, f"{name} refuses: {refusal.text}", page=page)
        except (SpoolnodeError, OSError) as error:
            return problem(502, f"{name} cannot be asked, and nothing was done: {error}", page=page)
        kind = "application/json" if answer.status < 400 else "application/problem+json"
        return web.Response(body=answer.body, status=answer.status, content_type=kind, charset="utf-8")
