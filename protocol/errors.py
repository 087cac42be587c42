"""Errors, in two families: you erred (`BadTask`), the other side erred or declined (`BadPacket`, `Refused`).

Each carries one sentence: what was wrong, the value or size, and what would be right.
"""

from enum import Enum


class SpoolnodeError(Exception):
    """The root of every error that spoolnode raises on purpose."""


class BadTask(SpoolnodeError, ValueError):
    """You erred: this task cannot be sent as it stands. Nothing was sent and nothing was stored."""


class BadPacket(SpoolnodeError):
    """The other side erred: these bytes do not follow the format. Trust none of them."""


class Reason(Enum):
    """Why a node refuses a request, with the HTTP status that says the same to a web server (RFC 9110, RFC 4918)."""

    MALFORMED = 400
    FORBIDDEN = 403
    CONFLICT = 409
    LENGTH_REQUIRED = 411
    TOO_LARGE = 413
    BUSY = 503
    FULL = 507


class Refused(SpoolnodeError):
    """A node declined a request; nothing was stored. `reason` is for programs, the text for people."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(reason, text)  # both: a copy or a pickle (concurrent.futures) is made from `args`
        self.reason = reason
        self.text = text

    def __str__(self) -> str:
        return self.text
