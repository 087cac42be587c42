"""Names: the reserved variables, the form of names from outside, the ids of tasks.

Every name that comes from outside and may touch a path or a table is validated here and nowhere else.
"""

import re
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from spoolnode.protocol.errors import BadTask, Reason, Refused

SPOOL_PREFIX = "uwsgi_spoolfile_on_"
"""The beginning of the name of every spool file; uWSGI runs any regular file with such a name."""

LAST = 1 << 63
"""The rank of a task without a priority: after every priority."""

OURS = b"spool_"
"""Variables with this prefix belong to spoolnode."""
NODE = b"spool_node"
VALUES = b"spool_values"
FUNCTION = b"spool_func"
LEGACY_FUNCTION = b"ud_spool_func"
"""The same of `uwsgidecorators`."""
TIMEOUT = b"spool_timeout"
RETRY = b"spool_retry"
"""How often the task is tried, and how long the pauses are: `5,2,600` (see `read_retry`)."""
KEEP = b"spool_keep"
"""Asks the node that runs the task to keep its result."""
KEY = b"spool_key"
"""Of the tasks for one function with one key, one waits at a time (see `unique`)."""
BODY_LENGTH = b"spool_body"
FILE = b"spool_file"
"""Asks for a spool file of the task's own from the beginning, which its sender may unlink to cancel the task."""
ID = b"spool_id"
ERROR = b"spool_error"
REASON = b"spool_reason"
ATTEMPTS = b"spool_attempts"
ASKED = b"spool_asked"
"""When a common store was asked to take the task, and did not answer; seconds since 1970."""
COPIES = b"spool_copies"
NOTE = b"spool_note"
"""In an answer: a warning to the sender about a task that is stored nevertheless."""
ORIGIN = b"spool_origin"
"""The id of the node that a task came from. Never believed: the receiver sets it to the id from the handshake."""
SENDER = b"spool_sender"
"""The fingerprint of the key that the sending node has proved, which owns its sequence numbers. Set by the receiver."""
TO = b"spool_to"
"""The destination that was chosen for a task. In a task that arrived: the destination that its sender sent it to."""
NUMBER = b"spool_seq"
"""The sequence number that the sender's link gave a task."""
PICKLED = b"spool_pickled"
"""Set by the admission on a task with pickled arguments that came through this machine's own socket: they may be unpickled."""
HOPS = b"spool_hops"
"""How many times a task was handed on."""
DUE = b"spool_due"
"""When the timer was due whose task this is, in whole seconds since 1970. Set by the node that makes the task."""
FOR_SPOOLER = frozenset({"at", "priority", "spooler", "body", "spooler_task_name"})
"""Besides ours, the names that uWSGI's spooler keeps for itself."""
FROM_CLIENTS = frozenset({NODE, VALUES, FUNCTION, TIMEOUT, RETRY, KEEP, KEY, BODY_LENGTH, FILE})
"""The `spool_` variables that a client may send. The others are reserved: a node sets them, or they have no meaning yet; a
request that carries one is refused."""
FROM_PEERS = FROM_CLIENTS | {ID, TO, NUMBER, HOPS, DUE}
"""The `spool_` variables that may come over a link."""
OF_LINKS = frozenset({ORIGIN, SENDER, TO, NUMBER})
"""The variables that a link adds, and that go when a task is handed on."""
MAX_NUMBER = (1 << 64) - (1 << 32) - 1
"""The largest sequence number. The last run of 2**32 numbers is never used, so that what is computed from a number (the end
of an interval, the next run) still fits into 64 bits."""
MAX_HOPS = 8
"""A task that was handed on this many times stays where it is."""
MOST_HOPS = 999
"""Hops are counted up to this number."""

_PRIORITY = re.compile(rb"[0-9]{1,10}", re.ASCII)
_AT = re.compile(rb"[0-9]{1,10}(\.[0-9]{0,9})?", re.ASCII)
_TIMEOUT = re.compile(rb"[0-9]{1,8}(\.[0-9]{1,6})?", re.ASCII)
_ATTEMPTS = re.compile(rb"[0-9]{1,3}", re.ASCII)
_DUE = re.compile(rb"[0-9]{1,11}", re.ASCII)
_LENGTH = re.compile(rb"[0-9]{1,15}", re.ASCII)
_NODE_NAME = re.compile(r"[A-Za-z0-9._-]{1,63}", re.ASCII)
_IPV4 = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+", re.ASCII)
_TAG = re.compile(r"tag:[A-Za-z0-9._-]{1,63}", re.ASCII)
# 249 characters and `:65535` are the 255 bytes that a file name may have.
_ADDRESS = re.compile(r"([A-Za-z0-9._-]{1,249}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}", re.ASCII)
_CHOICES = frozenset({"any", "all"})
_NODE_ID = re.compile(r"[0-9a-f]{12}", re.ASCII)
_NUMBER = re.compile(rb"[1-9][0-9]{0,19}", re.ASCII)
_HOPS = re.compile(rb"[0-9]{1,3}", re.ASCII)
LONGEST_ID = 236
"""Most characters of a task's id: with `SPOOL_PREFIX` it makes a file name of 255 bytes."""
_TASK_ID = re.compile(rf"[A-Za-z0-9._:@%-]{{1,{LONGEST_ID}}}", re.ASCII)
_PLAIN = "._:@%-"


RIGHT_PRIORITY = "a whole number from 0 to 9999999999"
RIGHT_AT = "seconds since 1970, below 10000000000"
"""The values that `priority` and `at` must have, for every error about them."""


def read_priority(value: bytes) -> int:
    """The rank of a priority: lower runs sooner. An empty value means none (as in uWSGI)."""
    if not value:
        return LAST
    if not _PRIORITY.fullmatch(value):
        raise _malformed("priority", value, RIGHT_PRIORITY)
    return int(value)


def read_at(value: bytes) -> float:
    """The time before which a task does not run, in seconds since 1970; 0.0 for an empty value (at once)."""
    if not value:
        return 0.0
    if not _AT.fullmatch(value):
        raise _malformed("at", value, RIGHT_AT)
    return float(value)


def read_timeout(value: bytes) -> float:
    """A limit on the run of one task, in seconds, greater than zero."""
    if not _TIMEOUT.fullmatch(value) or float(value) <= 0:
        raise _malformed("spool_timeout", value, "seconds greater than 0")
    return float(value)


class RetryTerms(NamedTuple):
    """The wishes of a task about its attempts; None: as its node does."""

    max_attempts: int | None = None
    """Attempts after which it is given up; 0: never."""
    base: float | None = None
    """The longest pause after the first failed attempt, in seconds."""
    longest: float | None = None
    """The longest pause of all, in seconds."""


RIGHT_MAX_ATTEMPTS = "a whole number from 0 (no limit) to 255"
RIGHT_SECONDS = "seconds greater than 0, below 100000000"
"""The values that the parts of `spool_retry` must have, for every error about them."""


def read_retry(value: bytes) -> RetryTerms:
    """Reads `spool_retry`: most attempts, the first pause and the longest one, with commas. A part may be empty."""
    parts = value.split(b",")
    attempts, *pauses = parts
    if (
        len(parts) != 3
        or (attempts and not (_ATTEMPTS.fullmatch(attempts) and int(attempts) < 256))  # a byte counts them
        or not all(not pause or (_TIMEOUT.fullmatch(pause) and float(pause) > 0) for pause in pauses)
    ):
        right = f"three parts with commas, which may be empty: attempts ({RIGHT_MAX_ATTEMPTS}) and two pauses ({RIGHT_SECONDS})"
        raise _malformed("spool_retry", value, right)
    return RetryTerms(int(attempts) if attempts else None, *(float(pause) if pause else None for pause in pauses))


def check_keep(value: bytes) -> None:
    """Raises `Refused` if `spool_keep` is not 1: its task's result is kept."""
    if value != b"1":
        raise _malformed("spool_keep", value, "1")


KEYED = "_key"
"""The end of the ids that our client gives to tasks with a key when it writes their files itself."""
LONGEST_KEY = 255
"""Bytes of a key."""
RIGHT_KEY = f"text in UTF-8 of at most {LONGEST_KEY} bytes"
"""The value that `spool_key` must have, for every error about it."""


def read_key(value: bytes) -> bytes:
    """The value of `spool_key`. An empty one means none: nginx sends it in place of a variable that is not set."""
    try:
        value.decode()
    except UnicodeDecodeError:
        raise _malformed("spool_key", value, RIGHT_KEY) from None
    if len(value) > LONGEST_KEY:
        raise _malformed("spool_key", value, f"{RIGHT_KEY}, and has {len(value)}")
    return value


def read_length(name: str, value: bytes) -> int:
    """A length in bytes; an empty value is 0 (nginx sends an empty CONTENT_LENGTH for a request without a body)."""
    if not value:
        return 0
    if not _LENGTH.fullmatch(value):
        raise _malformed(name, value, "a number of bytes")
    return int(value)


@lru_cache(maxsize=1024)
def read_destination(value: bytes) -> str:
    """A destination: a node's name, `host:port`, `[v6]:port`, `tag:X`, `any` or `all`. Safe as a file name."""
    text = value.decode("ascii", "replace")
    if not is_destination(text):
        raise _malformed("spool_node", value, right_destination(text))
    return text


def is_destination(text: str) -> bool:
    """Whether this names a destination."""
    if _ADDRESS.fullmatch(text):
        return 0 < int(text.rpartition(":")[2]) < 65536 and not text.startswith(".")
    return text in _CHOICES or bool(_TAG.fullmatch(text)) or is_node_name(text)


def right_destination(text: str) -> str:
    """The forms of a destination, for the error about a text that is not one."""
    right = "a node's name, host:port, [v6]:port, tag:X, any or all"
    return f"{right}: write {text}:3031" if _IPV4.fullmatch(text) else right


def is_node_name(text: str) -> bool:
    """Whether a node may have this name: 1 to 63 letters, digits, `.`, `_` or `-`, not beginning with a dot.

    `any` and `all` are not names: as a destination they mean every node. Neither is an IPv4 address: its port was forgotten.
    """
    return bool(_NODE_NAME.fullmatch(text)) and not text.startswith(".") and text not in _CHOICES and not _IPV4.fullmatch(text)


RIGHT_NODE_NAME = "1 to 63 letters, digits, '.', '_' or '-', not beginning with '.', and not 'any', 'all' or an IPv4 address"
"""The rule of `is_node_name`, for errors."""


def is_node_id(text: str) -> bool:
    """Whether this is the id of a node: 12 hexadecimal digits."""
    return bool(_NODE_ID.fullmatch(text))


def is_address(text: str) -> bool:
    """Whether this is `host:port` or `[v6]:port`."""
    return bool(_ADDRESS.fullmatch(text)) and is_destination(text)


def read_number(value: bytes) -> int:
    """A sequence number, from 1 to `MAX_NUMBER`."""
    if not _NUMBER.fullmatch(value) or int(value) > MAX_NUMBER:
        raise _malformed("spool_seq", value, f"a number from 1 to {MAX_NUMBER}")
    return int(value)


def read_asked(value: bytes) -> float:
    """The time in `spool_asked`; 0.0 if there is none."""
    return float(value) if _AT.fullmatch(value) else 0.0


def read_hops(value: bytes) -> int:
    """How many times a task was handed on; 0 for an empty value."""
    if not value:
        return 0
    if not _HOPS.fullmatch(value):
        raise _malformed("spool_hops", value, "1 to 3 digits")
    return int(value)


def is_task_id(text: str) -> bool:
    """Whether this can be the id of a task (and so the end of a file name)."""
    return bool(_TASK_ID.fullmatch(text))


def check_from_peer(variables: Mapping[bytes, bytes]) -> None:
    """Raises `Refused` if the id, the destination or the due time in a peer's task is invalid."""
    identity, to, due = variables.get(ID, b"-"), variables.get(TO, b""), variables.get(DUE, b"0")
    if not is_task_id(identity.decode("ascii", "replace")):
        raise _malformed("spool_id", identity, "the id of a task")
    if to and not is_destination(to.decode("ascii", "replace")):
        raise _malformed("spool_to", to, "a node's name or id, host:port or tag:X")
    if not _DUE.fullmatch(due):
        raise _malformed("spool_due", due, "seconds since 1970")


def function_named(variables: Mapping[bytes, bytes]) -> bytes:
    """The name of the function that a task is for, ours or one of uWSGI's decorators; empty if it names none."""
    return variables.get(FUNCTION) or variables.get(LEGACY_FUNCTION) or b""


def check_variable_name(name: str) -> None:
    """Raises `BadTask` if a caller may not use this name in a task."""
    if not name:
        raise BadTask("a task has a variable with an empty name; a name needs at least one character")
    if name.startswith("spool_") and name != "spool_key":
        raise BadTask(f"the variable name {name!r} is reserved: names that begin with `spool_` belong to spoolnode")


def is_for_spooler(name: str) -> bool:
    """Whether a name means something to the spooler, so that no typed value may have it (and shadow the variable)."""
    return name in FOR_SPOOLER or name.startswith("spool_")


def id_of_record(node_id: str, number: int, offset: int) -> str:
    """The id of a task that this node accepted: unique in the cluster, in order of acceptance on that node."""
    return f"{node_id}_{number}_{offset}"


def before_offset(node_id: str, number: int) -> str:
    """The beginning of such ids."""
    return f"{node_id}_{number}_"


def accepted_in(identity: str) -> float | None:
    """When its node accepted the task with this id, in seconds since 1970: the number of its first batch is that time.

    None if no node made this id.
    """
    _, _, rest = identity.partition("_")
    number, _, offset = rest.partition("_")
    is_ours = number.isdecimal() and offset.isdecimal() and len(number) < 18
    return int(number) / 1e6 if is_ours else None


def file_name(identity: str) -> str:
    """The name of a task's spool file."""
    return SPOOL_PREFIX + identity


def id_of_file(name: str) -> str:
    """The id of the task in the spool file of this name (without the directory).

    A file may have any name: a character that an id may not have becomes `%` and two digits, and an id that is too long is
    cut.
    """
    text = name.removeprefix(SPOOL_PREFIX)
    if is_task_id(text):
        return text
    from urllib.parse import quote  # noqa: PLC0415  # few names need it, and it would make each start of a worker longer

    return shortened(quote(text.encode("utf-8", "surrogateescape"), safe=_PLAIN) or "%")


def shortened(identity: str, most: int = LONGEST_ID) -> str:
    """An id of at most `most` characters: a longer one becomes its beginning and a checksum."""
    if len(identity) <= most:
        return identity
    return f"{identity[: most - 9]}%{zlib.crc32(identity.encode()):08x}"


def _malformed(name: str, value: bytes, right: str) -> Refused:
    shown = value[:60].decode("utf-8", "backslashreplace")
    return Refused(Reason.MALFORMED, f"`{name}` is {shown!r}; it must be {right}")
