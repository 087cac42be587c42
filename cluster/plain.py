"""Tasks as a real uWSGI server takes them: one on each connection, without what only nodes understand. Pure."""

from spoolnode.protocol import names
from spoolnode.protocol.answer import STORED, Answer
from spoolnode.protocol.errors import Reason, Refused
from spoolnode.protocol.packet import HEADER, PLAIN, SPOOL_REQUEST, decode_variables, encode_variables, packet

UWSGI = "uwsgi"
"""In place of a node's id: a real uWSGI server, which has none and remembers no numbers."""
NOT_NOW = Refused(Reason.BUSY, "the uWSGI server refused it without a reason: is its spooler on, is the task too large for it?")

_KEPT = names.FROM_CLIENTS - {names.NODE, names.BODY_LENGTH, names.VALUES}


def plain_packet(block: bytes, *, has_body: bool) -> bytes:
    """The request with these variables, without those for nodes only. Raises `Refused` if the task would lose a part."""
    if has_body:
        raise Refused(Reason.FORBIDDEN, "it has a body, which a uWSGI server would drop")
    variables = decode_variables(block)
    if any(key == names.VALUES for key, _ in variables):
        raise Refused(Reason.FORBIDDEN, "it has values that are not text, which a uWSGI server cannot read")
    kept = [(key, value) for key, value in variables if not key.startswith(names.OURS) or key in _KEPT]
    return packet(SPOOL_REQUEST, encode_variables(kept), PLAIN)


def is_taken(answer: Answer) -> bool:
    """Whether a uWSGI server has taken a task, by its answer."""
    return HEADER.pack(answer[0], len(answer[2]), answer[1]) == STORED
