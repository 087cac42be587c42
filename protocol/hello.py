"""How a node introduces itself: the block of the extended ping that begins every connection between nodes.

    hello = ping (modifier1 100, modifier2 1) with variables:
            spool_hello = protocol version, spool_origin = node id, spool_name = node name, spool_cluster = cluster name,
            spool_instance = a random word for this process, spool_addresses = where it listens, separated by commas,
            spool_to = the destination that the link serves (empty: only a ping), spool_floor = a sequence number,
            spool_public, spool_nonce, spool_proof = the proof of who speaks (see `keys`); left out where empty

The answer is a pong with the status (see `answer.status_pong`), or a refusal. To a hello without a proof, the status
says what the next one must prove: `public`, `nonce` and `proof`. On an open link a node may send a hello at any time, to tell a
new low watermark. A ping with an empty block may come from any client, and makes no link.
"""

from typing import NamedTuple

from spoolnode.protocol import keys, names
from spoolnode.protocol.errors import BadPacket, Reason, Refused
from spoolnode.protocol.packet import EXTENDED, PING, decode_variables, encode_variables, packet

PROTOCOL = 1
"""The version of the protocol between nodes. Raised when an older node would misunderstand."""

_VERSION, _CLUSTER, _FLOOR = b"spool_hello", b"spool_cluster", b"spool_floor"
_NAME, _INSTANCE, _ADDRESSES = b"spool_name", b"spool_instance", b"spool_addresses"
_KEYS = _PUBLIC, _NONCE, _PROOF = b"spool_public", b"spool_nonce", b"spool_proof"
MOST_ADDRESSES = 8


class Hello(NamedTuple):
    """The node that speaks, and the link that it speaks about."""

    id: str
    name: str
    cluster: str
    to: str = ""
    """The destination that this link serves, as its sender calls it; empty for a ping."""
    instance: str = ""
    """Tells this process from another one with the same id. By it a node also recognises itself."""
    addresses: tuple[str, ...] = ()
    """Where it listens; 0.0.0.0 or [::] stands for the host that the connection comes from."""
    low_watermark: int = 0
    """The link will never send a task below this number (again)."""
    protocol: int = PROTOCOL
    public: str = ""
    """The public half of its key; empty if it has no key."""
    nonce: str = ""
    proof: str = ""
    """The proof that it has the key; empty in the first hello of a connection, which asks what to prove."""


def encode(hello: Hello) -> bytes:
    """The whole packet."""
    variables = [
        (_VERSION, str(hello.protocol).encode()),
        (names.ORIGIN, hello.id.encode()),
        (_NAME, hello.name.encode()),
        (_CLUSTER, hello.cluster.encode()),
        (names.TO, hello.to.encode()),
        (_INSTANCE, hello.instance.encode()),
        (_ADDRESSES, ",".join(hello.addresses).encode()),
        (_FLOOR, str(hello.low_watermark).encode()),
        *((key, value.encode()) for key, value in zip(_KEYS, (hello.public, hello.nonce, hello.proof), strict=True) if value),
    ]
    return packet(PING, encode_variables(variables), modifier2=EXTENDED)


def read_hello(block: bytes) -> Hello:
    """The hello in the block of an extended ping.

    Raises:
        Refused: this is not a hello, or one of its parts is invalid.
    """
    try:
        said = {key: value.decode("ascii", "replace") for key, value in decode_variables(block)}
    except BadPacket as error:
        raise Refused(Reason.MALFORMED, str(error)) from error
    protocol, low_watermark = said.get(_VERSION, ""), said.get(_FLOOR, "0")
    if not protocol.isdecimal() or len(protocol) > 5:
        raise _malformed("spool_hello", protocol, "the version of the protocol")
    if int(protocol) != PROTOCOL:
        raise Refused(Reason.CONFLICT, f"you speak version {protocol} of the protocol between nodes, this node speaks {PROTOCOL}")
    if not low_watermark.isdecimal() or len(low_watermark) > 20 or int(low_watermark) > names.MAX_NUMBER:
        raise _malformed("spool_floor", low_watermark, "a sequence number")
    addresses = tuple(text for text in said.get(_ADDRESSES, "").split(",")[:MOST_ADDRESSES] if names.is_address(text))
    hello = Hello(
        said.get(names.ORIGIN, ""), said.get(_NAME, ""), said.get(_CLUSTER, ""), said.get(names.TO, ""),
        said.get(_INSTANCE, "")[:40], addresses, int(low_watermark), int(protocol),
        said.get(_PUBLIC, ""), said.get(_NONCE, ""), said.get(_PROOF, ""),
    )  # fmt: skip
    if not names.is_node_id(hello.id):
        raise _malformed("spool_origin", hello.id, "12 hexadecimal digits")
    for what, name in (("spool_name", hello.name), ("spool_cluster", hello.cluster)):
        if not names.is_node_name(name):
            raise _malformed(what, name, "1 to 63 letters, digits, '.', '_' or '-'")
    if hello.to and not names.is_destination(hello.to):
        raise _malformed("spool_to", hello.to, "a node's name or id, host:port or tag:X")
    if hello.public or hello.nonce or hello.proof:
        _check_key(hello)
    return hello


def _check_key(hello: Hello) -> None:
    if not keys.is_public_key(hello.public):
        raise _malformed("spool_public", hello.public, "64 hexadecimal digits")
    if not keys.is_nonce(hello.nonce):
        raise _malformed("spool_nonce", hello.nonce, "32 hexadecimal digits")


def _malformed(what: str, value: str, right: str) -> Refused:
    return Refused(Reason.MALFORMED, f"`{what}` is {value[:60]!r}; it must be {right}")
