"""Errors as RFC 9457 has them: `application/problem+json` with type, title, status and a sentence in detail."""

import http
import json
import os
from collections.abc import Awaitable, Callable

from aiohttp import web

from spoolnode.node.commons import CommonsAway
from spoolnode.node.control.operator_errors import NoSuchTask, NotAllowedNow
from spoolnode.node.neighbours import CannotForget
from spoolnode.protocol.errors import BadPacket

PROBLEMS = (web.HTTPError, NoSuchTask, NotAllowedNow, CannotForget, CommonsAway, OSError, BadPacket)
"""The exceptions of handlers that are answers."""


def problem(status: int, detail: str, **more: str | None) -> web.Response:
    """The answer to a request that cannot be met. `more`: further members."""
    title = http.HTTPStatus(status).phrase
    content = {"type": "about:blank", "title": title, "status": status, "detail": detail, **more}
    return web.Response(text=json.dumps(content), status=status, content_type="application/problem+json")


@web.middleware
async def errors_as_problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answers with a problem what a handler raises."""
    try:
        return await handler(request)
    except PROBLEMS as error:
        return problem_of(error)


def problem_of(error: Exception) -> web.Response:
    """The answer in place of one of `PROBLEMS`."""
    if isinstance(error, web.HTTPError):
        answer = problem(error.status, error.text or error.reason)
        answer.headers.update({name: error.headers[name] for name in ("Allow", "WWW-Authenticate") if name in error.headers})
        return answer
    if isinstance(error, NoSuchTask):
        return problem(404, str(error))
    if isinstance(error, CommonsAway):
        return problem(503, str(error))
    if isinstance(error, NotAllowedNow | CannotForget):
        return problem(409, str(error))
    # It has gone meanwhile, or the disk fails.
    return problem(409, f"nothing was changed: {words_of(error) if isinstance(error, OSError) else error}")


def words_of(error: OSError) -> str:
    """Only the system's words: asyncio puts the address before them, Python the number and the path around them."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror or error)
