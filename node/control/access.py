"""Decides what a request over TCP may: who sends it, and whether a browser sends it for a page of a stranger."""

import hmac
from collections.abc import Iterable

from spoolnode.node.badconfig import BadConfig
from spoolnode.node.control.hosts import OurHosts
from spoolnode.node.control.sessions import Sessions

SHORTEST_TOKEN = 16
"""Characters: a shorter token can be guessed."""


class Access:
    """Knows for the HTTP port of one node what each client may."""

    def __init__(self, node_id: str, names: Iterable[str], token: str, sessions: Sessions, *, is_secure: bool = False) -> None:
        """
        Args:
            names: further names under which browsers reach this node.
            token: opens everything; empty if there is none.
            is_secure: it speaks TLS.
        """
        self.cookie = f"spoolnode_{node_id}"
        """The name of the cookie with a session: cookies of nodes on one machine must not replace each other."""
        self.sessions = sessions
        self.is_secure = is_secure
        self.url = ""
        """Where browsers on this machine find it; empty as long as it does not listen."""
        self.page = ""
        """Where those on other machines do. The host may be one that means any address: theirs to fill in."""
        self._names = list(names)
        self._token = token
        self._hosts = OurHosts("localhost", names)

    def __repr__(self) -> str:
        return f"<Access to {self.url or 'nothing'}, {self.sessions!r}>"

    def listens_on(self, host: str, port: int) -> None:
        """This node listens on that address."""
        self._hosts = OurHosts(host, self._names, ("https",) if self.is_secure else ("http", "https"))
        name = self._names[0] if self.is_secure and self._names else ""  # the certificate is for a name
        self.url, self.page = self._url(name or self._hosts.reached_by, port), self._url(name or host, port)

    def _url(self, host: str, port: int) -> str:
        return f"{'https' if self.is_secure else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    def new_link(self) -> str:
        """A link that opens a session, once."""
        return f"{self.url}/login?code={self.sessions.new_link()}"

    def objection(self, host: str, origin: str | None) -> str:
        """Why a request with these headers is not answered; empty if it is."""
        if not self._hosts.has(host):
            return f"{host[:80]!r} is not a name of this node; --http-name adds one"
        if origin is not None and not self._hosts.is_same(origin, host):
            return f"requests from pages of {origin[:80]!r} are not answered"
        return ""

    def visitor(self, authorization: str, session: str) -> str:
        """A name for the sender of a request with a token or a session; empty if it has neither, or they are wrong."""
        kind, _, token = authorization.partition(" ")
        if kind.lower() == "bearer" and self._token and hmac.compare_digest(_bytes(token.strip()), _bytes(self._token)):
            return "token"
        name = self.sessions.name_of(session) if session else ""
        return f"session {name}" if name else ""


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def read_token(path: str) -> str:
    """The token in a file. Raises `BadConfig`."""
    if not path:
        return ""
    try:
        with open(path, encoding="utf-8") as file:
            token = file.read(4096).strip()
    except (OSError, ValueError) as error:
        raise BadConfig(f"--http-token-file {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(token) < SHORTEST_TOKEN or not token.isprintable() or " " in token:
        raise BadConfig(
            f"--http-token-file {path}: a token has at least {SHORTEST_TOKEN} visible characters, and nothing else is in the file"
        )
    return token
