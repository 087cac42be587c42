"""One-time links, and the sessions that they open. Pure: clock and randomness are passed in. A restart ends all of them.

Only digests are kept and compared: how long a look takes tells nothing about a secret.
"""

from collections.abc import Callable
from hashlib import sha256

LINK_SECONDS = 300.0
"""How long a link may be used."""
SESSION_SECONDS = 12 * 3600.0
"""How long a session lasts."""
MOST_LINKS = 20
"""Links that may wait to be used; then the oldest ends."""
MOST_SESSIONS = 100
"""Sessions at once; then the oldest ends."""


class Sessions:
    """The links and the sessions of one node."""

    def __init__(self, clock: Callable[[], float], secret: Callable[[], str]) -> None:
        """
        Args:
            clock: monotonic seconds.
            secret: returns a new secret, fit for a URL and a cookie.
        """
        self._clock = clock
        self._secret = secret
        self._links: dict[bytes, float] = {}
        """When each ends, the oldest first."""
        self._sessions: dict[bytes, float] = {}

    def __repr__(self) -> str:
        return f"<Sessions: {len(self._sessions)}, and {len(self._links)} links>"

    def new_link(self) -> str:
        """The code of a link that opens one session."""
        return self._new(self._links, LINK_SECONDS, MOST_LINKS)

    def open(self, code: str) -> str:
        """Uses a link up, and returns the secret of its session. Raises KeyError if the link is unknown, used or too old."""
        ends_at = self._links.pop(_digest(code))
        if ends_at <= self._clock():
            raise KeyError(code)
        return self._new(self._sessions, SESSION_SECONDS, MOST_SESSIONS)

    def name_of(self, secret: str) -> str:
        """A name for an open session, which tells it from others in the log; empty if it is not open."""
        digest = _digest(secret)
        return digest.hex()[:8] if self._sessions.get(digest, 0.0) > self._clock() else ""

    def _new(self, held: dict[bytes, float], seconds: float, most: int) -> str:
        now = self._clock()
        for digest in [digest for digest, ends_at in held.items() if ends_at <= now]:
            del held[digest]
        while len(held) >= most:
            del held[next(iter(held))]
        secret = self._secret()
        held[_digest(secret)] = now + seconds
        return secret


def _digest(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "surrogateescape")).digest()
