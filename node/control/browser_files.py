"""The files of the page at `/`. They are the same for all clients: the page asks `/api/v1` for all that it shows."""

from hashlib import sha256
from importlib import resources as package
from importlib.resources.abc import Traversable
from typing import NamedTuple

from aiohttp import web

HOME = "/"
BELOW = "/page/"
_KINDS = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}
"""By the ends of names. No other file is served: not the licences, not the list of packages."""


class PageFile(NamedTuple):
    """One file, as it is served."""

    body: bytes
    kind: str
    tag: str
    """Changes with the contents: a browser asks with it, and gets the file only if it has another."""

    async def answer(self, request: web.Request) -> web.Response:
        """The file, or 304 to a browser that has it."""
        headers = {"ETag": f'"{self.tag}"', "Cache-Control": "no-cache"}  # kept by browsers, which ask each time
        if any(etag.value in (self.tag, "*") for etag in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return web.Response(body=self.body, content_type=self.kind, charset="utf-8", headers=headers)


def page_files() -> dict[str, PageFile]:
    """All of them by their paths on the server."""
    return dict(_below(package.files(__package__).joinpath("page"), BELOW))


def _below(folder: Traversable, path: str) -> list[tuple[str, PageFile]]:
    found: list[tuple[str, PageFile]] = []
    for entry in folder.iterdir():
        kind = _KINDS.get("." + entry.name.rpartition(".")[2])
        if entry.is_dir():
            found += _below(entry, f"{path}{entry.name}/")
        elif kind is not None:
            body = entry.read_bytes()
            name = HOME if entry.name == "index.html" else path + entry.name
            found.append((name, PageFile(body, kind, sha256(body).hexdigest()[:32])))
    return found
