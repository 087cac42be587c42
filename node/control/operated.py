"""Requests of `/api/v1` that operators of other nodes make here: from which nodes they are taken, and how they are answered.

The node at the other end has shown its certificate (mutual TLS) and has said hello, and `--trust-operators-of` names it. It says
which of its operators asks, and is believed: a thief of that node could do all of this anyway.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from traceback import format_exception
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web
from multidict import MultiDict, MultiMapping

from spoolnode.node.background import spawn
from spoolnode.node.config import Config
from spoolnode.node.control.problems import PROBLEMS, problem, problem_of
from spoolnode.node.control.routes import LONGEST_LOGGED, PREFIX, Route, found_by
from spoolnode.node.ingress.caller import Caller
from spoolnode.protocol.errors import Reason, Refused
from spoolnode.protocol.operate import ANSWER_SECONDS, MOST_ANSWER, Operation, OperationAnswer

MOST_UNDER_WAY = 16
"""Requests at once, of all nodes together."""


@dataclass(frozen=True)
class _Passed:
    """A request that was passed on, as its handler sees it."""

    match_info: Mapping[str, str]
    query: MultiMapping[str]


class OperatedByOthers:
    """The requests of `/api/v1` that operators of other nodes make of this one."""

    def __init__(self, config: Config, routes: Iterable[Route], report: Callable[..., None]) -> None:
        self._config = config
        self._routes = [(_pattern(route.path), route) for route in routes if route.travels]
        self._report = report
        self._under_way = 0

    def __repr__(self) -> str:
        return f"<OperatedByOthers, {self._under_way} requests under way>"

    async def answer(self, operation: Operation, caller: Caller) -> OperationAnswer:
        """Answers a request that came over a connection. Raises `Refused`."""
        self._check(caller)
        if self._under_way >= MOST_UNDER_WAY:
            raise Refused(Reason.BUSY, f"{self._under_way} requests of operators are under way here already; ask again")
        self._under_way += 1
        answer = spawn(self._answer(operation, f"{operation.by} on {caller.certified}"))
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await asyncio.shield(answer)  # to cut an action in two is worse than one that ends unseen
        except TimeoutError:
            text = f"it takes longer than {ANSWER_SECONDS:g} s here, and goes on; only this node knows how it ends"
            return _told(problem(504, text))
        finally:
            self._under_way -= 1

    def _check(self, caller: Caller) -> None:
        name = caller.certified
        if not name or caller.node != name:
            text = "what tasks contain, and actions, are open only to nodes with a certificate (mutual TLS) that said hello"
            raise Refused(Reason.FORBIDDEN, text)
        if not self._config.trusts_operators_of(name):
            text = f"operators of {name} may not see or change anything here: --trust-operators-of {name} would let them"
            raise Refused(Reason.FORBIDDEN, text)

    async def _answer(self, operation: Operation, by: str) -> OperationAnswer:
        try:
            route, ids = self._find(operation)
            asked = _Passed(ids, MultiDict(parse_qsl(operation.query, keep_blank_values=True)))
            url = f"{PREFIX}{operation.path}{operation.query and '?'}{operation.query}"
            return OperationAnswer(200, await _whole(await found_by(route, asked, url, by, self._report)))
        except PROBLEMS as error:
            return _told(problem_of(error))
        except Exception as error:  # noqa: BLE001  # the other node waits for an answer; it is reported in full
            what = f"{operation.method} {operation.path[:LONGEST_LOGGED]}, asked by {by}"
            self._report("mistake", reason=what, traceback="".join(format_exception(error)))
            return _told(problem(500, "this is a mistake of that node; its log has more"))

    def _find(self, operation: Operation) -> tuple[Route, dict[str, str]]:
        found = [(route, match.groupdict()) for pattern, route in self._routes if (match := pattern.fullmatch(operation.path))]
        for route, ids in found:
            if route.method == operation.method:
                return route, ids
        if found:
            raise web.HTTPMethodNotAllowed(operation.method, [route.method for route, _ in found])
        raise web.HTTPNotFound(text=f"operators of other nodes find no {operation.path[:80]!r} here")


def _told(answer: web.Response) -> OperationAnswer:
    return OperationAnswer(answer.status, answer.text.encode() if answer.text else b"")


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(path)))


async def _whole(found: dict[str, Any] | AsyncIterator[bytes]) -> bytes:
    if isinstance(found, dict):
        whole = json.dumps(found).encode()
    else:
        whole = b""
        async for piece in found:
            whole += piece
            if len(whole) > MOST_ANSWER:
                break
    if len(whole) > MOST_ANSWER:
        raise web.HTTPBadRequest(
            text=f"the answer has over {MOST_ANSWER} bytes, too many for another node; `limit` asks for less"
        )
    return whole
