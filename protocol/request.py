"""The terms of a spool request, from one pass over its variables. Nothing is believed before it is validated."""

from typing import Any, NamedTuple

from spoolnode.protocol import extension, names, pickles
from spoolnode.protocol.errors import BadPacket, Reason, Refused
from spoolnode.protocol.packet import decode_variables
from spoolnode.protocol.unique import unique_key
from spoolnode.protocol.values import check_typed, unpack


class Terms(NamedTuple):
    """The meaning of a request's variables for the spooler. The variables themselves stay as they were sent."""

    rank: int = names.LAST
    """Lower runs sooner; `names.LAST` without a priority."""
    due: float = 0.0
    """Seconds since 1970; 0.0 is at once."""
    destination: str = ""
    """Where it should run; empty is here."""
    body: int = 0
    """Length of the body that follows the packet, in bytes."""
    web: bool = False
    """It came through a web server: the answer is HTTP, unless the extended dialect was spoken."""
    spooler: bytes = b""
    """uWSGI's `spooler` variable: the directory it must be spooled to."""
    number: int = 0
    """The sequence number that the sender's link gave it; 0 if it did not come over a link."""
    hops: int = 0
    """How many times it was handed on."""
    pickled: bool = False
    """A library would unpickle a part of it, so no other node would take it."""
    own_file: bool = False
    """It gets a spool file of its own from the beginning."""
    function: bytes = b""
    """The name of the function that it is for; empty if it names none."""
    origin_id: bytes = b""
    """The id that it got when another node accepted it first; empty if it did not come over a link."""
    key: bytes = b""
    """The fingerprint of its function and its key; empty if it has no key."""


PLAIN_TERMS = Terms()
"""The terms of a request that asks for nothing special (most do)."""

_WEB = frozenset({b"REQUEST_METHOD", b"SERVER_PROTOCOL"})
_WEB_PREFIX = b"HTTP_"
_SPECIAL = _WEB | pickles.SPECIAL | {b"at", b"priority", b"spooler", b"CONTENT_LENGTH"}
_USUAL_ON_LINKS = frozenset({names.NODE, names.ID, names.NUMBER})
_SPECIAL_PREFIXES = (_WEB_PREFIX, names.OURS)


def read_terms(block: bytes, *, local: bool, peer: bool = False) -> Terms:
    """The terms of a request with this block of variables.

    Args:
        block: the variables, as they came.
        local: the request came through this machine's own unix socket, so it may carry pickled arguments.
        peer: it came over a link, so it may carry the variables of peers.

    Raises:
        Refused: the block is malformed or empty, a reserved variable is invalid or not allowed.
    """
    special: dict[bytes, bytes] | None = None
    position, end = 0, len(block)
    if not end:
        raise Refused(Reason.MALFORMED, "the request has no variables; a task needs at least one")
    # Written out rather than built on `decode_variables`: this runs for every request, and keeps only what is special.
    try:
        while position < end:
            key_start = position + 2
            key_end = key_start + (block[position] | block[position + 1] << 8)
            position = key_end + 2 + (block[key_end] | block[key_end + 1] << 8)
            key = block[key_start:key_end]
            if key in _SPECIAL or key.startswith(_SPECIAL_PREFIXES):
                if special is None:
                    special = {}
                elif key == names.VALUES and key in special:
                    raise Refused(Reason.MALFORMED, "`spool_values` comes twice; all typed values travel in one")
                special[key] = block[key_end + 2 : position]
            elif not key:
                raise Refused(Reason.MALFORMED, f"the variable at byte {key_start - 2} has an empty name")
    except IndexError:
        position = end + 1
    if position != end:
        raise Refused(Reason.MALFORMED, f"the variables run past the end of their block of {end} bytes")
    if special is None:
        return PLAIN_TERMS
    if peer and special.keys() <= _USUAL_ON_LINKS:
        return _linked_terms(special)
    return _terms(special, local, names.FROM_PEERS if peer else names.FROM_CLIENTS)


def length_of_body(block: bytes) -> int | None:
    """How many bytes follow a request with these variables, whatever else they say; None if that cannot be known."""
    try:
        return _body_length(dict(decode_variables(block)))
    except (BadPacket, Refused):
        return None


def looks_like_web(block: bytes) -> bool:
    """Whether a block, even a malformed one, seems to come from a web server. Then even its refusal is HTTP."""
    return any(mark in block for mark in (b"REQUEST_METHOD", b"SERVER_PROTOCOL", b"HTTP_"))


def _terms(special: dict[bytes, bytes], local: bool, may_say: frozenset[bytes]) -> Terms:
    web = False
    for key in special:
        if key.startswith(names.OURS):
            if key not in may_say:
                raise _reserved(key)
        elif key in _WEB or key.startswith(_WEB_PREFIX):
            web = True
    body = _body_length(special)
    pickled = _is_pickled(special, body)
    if pickled and (web or not local):
        raise _pickles_stay_here(web)
    if names.TIMEOUT in special:
        names.read_timeout(special[names.TIMEOUT])
    if names.RETRY in special:
        names.read_retry(special[names.RETRY])
    if names.KEEP in special:
        names.check_keep(special[names.KEEP])
    if names.ID in special or names.TO in special or names.DUE in special:
        names.check_from_peer(special)
    get = special.get
    destination = get(names.NODE)
    return Terms(
        names.read_priority(get(b"priority", b"")),
        names.read_at(get(b"at", b"")),
        names.read_destination(destination) if destination else "",
        body,
        web,
        get(b"spooler", b""),
        names.read_number(special[names.NUMBER]) if names.NUMBER in special else 0,
        names.read_hops(get(names.HOPS, b"")),
        pickled,
        names.FILE in special,
        names.function_named(special),
        get(names.ID, b""),
        unique_key(special) if names.KEY in special else b"",
    )


def _linked_terms(special: dict[bytes, bytes]) -> Terms:
    """The same for a task with only the variables that a link adds to each, as most tasks on links are."""
    names.check_from_peer(special)
    destination = special.get(names.NODE)
    number = special.get(names.NUMBER)
    return Terms(
        destination=names.read_destination(destination) if destination else "",
        number=names.read_number(number) if number is not None else 0,
        origin_id=special.get(names.ID, b""),
    )


def _reserved(key: bytes) -> Refused:
    shown = repr(key[:60].decode("utf-8", "backslashreplace"))[1:-1]  # without control characters: logs are read on terminals
    return Refused(Reason.FORBIDDEN, f"the variable `{shown}` is reserved: only nodes set it")


def _is_pickled(special: dict[bytes, bytes], body: int) -> bool:
    """Whether a library would unpickle a part of it, whatever its destination: a real uWSGI may share our directory.

    Raises `Refused` for typed values that no callable could get.
    """
    present = set(special)
    if names.VALUES in special:
        typed = _checked_values(special[names.VALUES])
        if names.FUNCTION not in special:  # those of our own @spool are arguments, not variables
            present |= pickles.typed_names(typed)
    return pickles.are_pickled(present, body=body > 0)


def _checked_values(packed: bytes) -> dict[str, Any]:
    try:
        typed = unpack(packed, read=extension.check)
        check_typed(typed)
    except BadPacket as error:
        raise Refused(Reason.MALFORMED, str(error)) from error
    return typed


def _pickles_stay_here(web: bool) -> Refused:
    text = (
        "pickled arguments (`args`, `kwargs`; beside `function_name` also `setup` and `body`) are taken only through this "
        "machine's own unix socket or directory"
    )
    if web:
        text += "; if these are not pickles, rename them: `uwsgi_param query $args;` in nginx"
    return Refused(Reason.FORBIDDEN, text)


def _body_length(special: dict[bytes, bytes]) -> int:
    for name in (names.BODY_LENGTH, b"CONTENT_LENGTH", b"HTTP_CONTENT_LENGTH"):
        if special.get(name):
            return names.read_length(name.decode(), special[name])
    if special.get(b"HTTP_TRANSFER_ENCODING", b"").lower() == b"chunked":
        raise Refused(
            Reason.LENGTH_REQUIRED,
            "a chunked body came without its length: add `uwsgi_param CONTENT_LENGTH $content_length;` to nginx",
        )
    return 0
