"""A client, a peer, and a reader of spool directories, written from docs/wire-format.md and docs/disk-format.md alone.

It shares no code with spoolnode: what it cannot do with the pages at hand, the pages do not say.
"""

import hashlib
import hmac
import os
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgpack
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

PATIENCE = 60.0
TASK, PING, ANSWER = 17, 100, 255
PLAIN, EXTENDED = 0, 1
STORED, REFUSED, FOUND, CANCELLED = 1, 0, 3, 4

Variables = dict[str, str | bytes]


# --- packets ---


class Packet(NamedTuple):
    modifier1: int
    modifier2: int
    block: bytes

    @property
    def variables(self) -> dict[str, bytes]:
        return dict(variables_in(self.block))


def encoded(modifier1: int, variables: Variables, modifier2: int = EXTENDED, body: bytes = b"") -> bytes:
    block = b"".join(_sized(name) + _sized(value) for name, value in variables.items())
    return struct.pack("<BHB", modifier1, len(block), modifier2) + block + body


def _sized(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<H", len(data)) + data


def variables_in(block: bytes) -> Iterator[tuple[str, bytes]]:
    at = 0
    while at < len(block):
        name, at = _next(block, at)
        value, at = _next(block, at)
        assert name, "a name has at least one byte"
        yield name.decode("utf-8", "surrogateescape"), value


def _next(block: bytes, at: int) -> tuple[bytes, int]:
    (size,) = struct.unpack_from("<H", block, at)
    assert at + 2 + size <= len(block)
    return block[at + 2 : at + 2 + size], at + 2 + size


# --- a client ---


class Client:
    """One connection in the extended dialect."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(PATIENCE)
        self._file = sock.makefile("rb")

    @classmethod
    def to(cls, address: str) -> Self:
        host, _, port = address.rpartition(":")
        return cls(socket.create_connection((host, int(port)), timeout=PATIENCE))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        self.sock.close()

    def say(self, modifier1: int, variables: Variables, body: bytes = b"") -> None:
        self.sock.sendall(encoded(modifier1, variables, body=body))

    def hear(self) -> Packet:
        modifier1, size, modifier2 = struct.unpack("<BHB", self._exactly(4))
        return Packet(modifier1, modifier2, self._exactly(size))

    def ask(self, modifier1: int, variables: Variables, body: bytes = b"") -> Packet:
        self.say(modifier1, variables, body)
        return self.hear()

    def fetch(self, about: str, identity: str, wait: float = 20.0) -> bytes:
        """The whole answer to a question."""
        found = b""
        while True:
            said: Variables = {about: identity, "spool_wait": f"{wait:.3f}", "spool_from": str(len(found))}
            answer = self.ask(TASK, said)
            assert (answer.modifier1, answer.modifier2) == (ANSWER, FOUND), answer
            assert not answer.variables["spool_missing"], answer.variables
            found += answer.variables["spool_piece"]
            if (size := int(answer.variables["spool_size"])) and len(found) >= size:
                return found

    def read(self, size: int) -> bytes:
        """The body of a packet, or what a packet announces."""
        return self._exactly(size)

    @property
    def is_over(self) -> bool:
        """Whether the other side ends the connection."""
        return not self._file.read(1)

    def _exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        assert len(data) == size, "the connection ended"
        return data


def ask_plainly(address: str, modifier1: int, variables: Variables, body: bytes = b"") -> bytes:
    """All that the node answers in the plain dialect, until it ends the connection."""
    with Client.to(address) as client:
        client.sock.sendall(encoded(modifier1, variables, PLAIN, body))
        return b"".join(iter(lambda: client.sock.recv(4096), b""))


# --- a peer ---


def number_of(run: int, count: int) -> int:
    """A task's number."""
    return run << 32 | count


class Key:
    """The key of a node."""

    def __init__(self, secret: bytes) -> None:
        self._secret = X25519PrivateKey.from_private_bytes(secret)
        self.public = self._secret.public_key().public_bytes_raw().hex()
        self.fingerprint = hashlib.sha256(bytes.fromhex(self.public)).hexdigest()[:32]

    def proof(self, role: str, other: str, caller: tuple[str, str, str], called: tuple[str, str, str]) -> str:
        """`other`: the other side's public half; `caller` and `called`: id, public half and nonce."""
        shared = self._secret.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(other)))
        return hmac.digest(shared, "\n".join(["spoolnode", role, *caller, *called]).encode(), "sha256").hex()


@dataclass
class Peer:
    """A node that only hands tasks over, and takes them."""

    id: str
    name: str
    cluster: str
    key: Key | None = None

    def link(self, address: str, to: str, floor: int = 0) -> Client:
        """A link to the node at an address, for a destination."""
        client = Client.to(address)
        nonce = os.urandom(16).hex()
        hello = self.hello(to, floor)
        if self.key is None:
            assert client.ask(PING, hello).modifier1 == PING
            return client
        hello |= {"spool_public": self.key.public, "spool_nonce": nonce}
        status = status_in(client.ask(PING, hello))
        theirs = (status["id"], status["public"], status["nonce"])
        ours = (self.id, self.key.public, nonce)
        assert status["proof"] == self.key.proof("called", status["public"], ours, theirs), "it has the key that it shows"
        hello["spool_proof"] = self.key.proof("caller", status["public"], ours, theirs)
        assert status_in(client.ask(PING, hello))["id"] == status["id"]
        return client

    def hello(self, to: str, floor: int = 0) -> Variables:
        return {
            "spool_hello": "1", "spool_origin": self.id, "spool_name": self.name, "spool_cluster": self.cluster,
            "spool_to": to, "spool_instance": "from-the-spec", "spool_addresses": "", "spool_floor": str(floor),
        }  # fmt: skip

    def serve(self, connection: Client, count: int) -> list[tuple[dict[str, bytes], bytes]]:
        """Answers hellos, takes this many tasks from a link, and returns their variables and bodies."""
        taken: list[tuple[dict[str, bytes], bytes]] = []
        while len(taken) < count:
            packet = connection.hear()
            if packet.modifier1 == PING:
                status = {"id": self.id, "name": self.name, "cluster": self.cluster, "protocol": 1, "accepting": True}
                block: bytes = msgpack.packb(status)
                connection.sock.sendall(struct.pack("<BHB", PING, len(block), EXTENDED) + block)
            else:
                said = packet.variables
                taken.append((said, connection.read(int(said.get("spool_body", b"0")))))
                connection.say(ANSWER, {"spool_id": said["spool_id"]})
        return taken


def status_in(packet: Packet) -> dict[str, Any]:
    """The status in the answer to an extended ping."""
    assert (packet.modifier1, packet.modifier2) == (PING, EXTENDED), packet
    status: dict[str, Any] = msgpack.unpackb(packet.block)
    return status


# --- a spool directory ---

SPOOL_FILE = "uwsgi_spoolfile_on_"
WAITING, FINISHED, VOID = 0x11, 0xFD, 0xFC
HERE, OUTBOUND, ARRIVED = 0, 1, 2
NO_PRIORITY = 1 << 63


@dataclass
class Task:
    """A task on disk."""

    id: str
    variables: dict[str, bytes]
    body: bytes
    state: int
    attempts: int
    kind: int = HERE
    number: int = 0
    accepted: float = 0.0
    due: float = 0.0
    rank: int = NO_PRIORITY
    function: str = ""

    @property
    def is_waiting(self) -> bool:
        return self.state not in (FINISHED, VOID)


def task_in(data: bytes, identity: str) -> Task:
    state, size, attempts = struct.unpack_from("<BHB", data)
    return Task(identity, dict(variables_in(data[4 : 4 + size])), data[4 + size :], state, attempts)


def task_at(path: Path) -> Task:
    """The task in a spool file."""
    assert path.name.startswith(SPOOL_FILE)
    return task_in(path.read_bytes(), path.name.removeprefix(SPOOL_FILE).partition("@")[0])


def _checksum(record: bytes, payload: bytes, number: int, salt: int) -> int:
    crc = zlib.crc32(record[16:20] + record[24:48], (number ^ salt) & 0xFFFFFFFF)
    kind, _, name_size = struct.unpack_from("<IHH", record)
    if kind or name_size:
        crc = zlib.crc32(record[:16], crc)
    return zlib.crc32(bytes([WAITING]) + payload[1:3] + b"\0" + payload[4:], crc)


def batch_at(path: Path, node_id: str) -> list[Task]:
    """The whole records of a batch."""
    data = path.read_bytes()
    magic, version, _, salt, number, crc = struct.unpack_from("<8sHHIQI", data)
    assert magic == b"SPOOLBAT"
    assert version in (2, 3)
    assert crc == zlib.crc32(data[:24])
    assert path.name == f"{number}.batch"
    found, at = [], 32
    while at + 48 <= len(data):
        record = data[at : at + 48]
        kind, name_at, name_size, sequence, length, crc, accepted, due, rank = struct.unpack("<IHHQIIddQ", record)
        payload = data[at + 48 : at + 48 + length]
        if len(payload) < max(length, 4) or crc != _checksum(record, payload, number, salt):
            at += 8
            continue
        task = task_in(payload, f"{node_id}_{number}_{at + 48}")
        task.kind, task.number, task.accepted, task.due, task.rank = kind, sequence, accepted, due, rank
        task.function = payload[4 + name_at : 4 + name_at + name_size].decode()
        found.append(task)
        at += 48 + length + -length % 8
    return found


def write_batch(spool: Path, number: int, tasks: list[Variables], version: int = 3) -> None:
    """A batch with these waiting tasks, for a node that does not run."""
    salt = 0x5EED
    front = struct.pack("<8sHHIQ", b"SPOOLBAT", version, 0, salt, number)
    data = front + struct.pack("<II", zlib.crc32(front), 0)
    for variables in tasks:
        payload = encoded(WAITING, variables, 0)
        name = str(variables.get("spool_func", "")).encode() if version == 3 else b""
        name_at = payload.index(name) - 4 if name else 0
        fields = (HERE, name_at, len(name), 0, len(payload), 0, time.time(), 0.0, NO_PRIORITY)
        record = struct.pack("<IHHQIIddQ", *fields)
        crc = struct.pack("<I", _checksum(record, payload, number, salt))
        data += record[:20] + crc + record[24:] + payload + bytes(-len(payload) % 8)
    (spool / "incoming" / f"{number}.batch").write_bytes(data.ljust(1_048_576, b"\0"))


def put_task(spool: Path, name: str, variables: Variables, body: bytes = b"") -> None:
    """A task in a file, for a node that runs or will run."""
    unfinished = spool / f".{name}"
    with unfinished.open("xb") as file:
        file.write(encoded(WAITING, variables, 0, body))
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(spool / f"{SPOOL_FILE}{name}")


class Spool:
    """A spool directory, to be read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.node_id = (root / "node.id").read_text().strip()
        self.key = Key(bytes.fromhex((root / "node.key").read_text().strip()))

    def records(self) -> list[Task]:
        batches = sorted((self.root / "incoming").glob("*.batch"))
        return [task for path in batches for task in batch_at(path, self.node_id)]

    def files(self, below: str = "") -> dict[str, Path]:
        """The spool files of a directory, by the ids of their tasks."""
        return {task_at(path).id: path for path in (self.root / below).iterdir() if path.name.startswith(SPOOL_FILE)}

    def small(self, name: str) -> dict[str, Any]:
        """One of the node's own files in msgpack."""
        content: dict[str, Any] = msgpack.unpackb((self.root / name).read_bytes())
        assert content.pop("version") == 1
        return content

    def taken(self) -> set[tuple[str, str, int]]:
        """The numbers that were taken from other nodes: sender, destination, number."""
        rows = self.small("taken")["taken"] if (self.root / "taken").exists() else []
        kept = {(who, to, number) for who, to, _, pairs in rows for pair in pairs for number in range(*pair)}
        large = [task_at(path) for path in self.files("arriving").values()]
        arrived = [task for task in self.records() if task.kind == ARRIVED and task.state != VOID]
        return kept | {_came(task.variables) for task in [*large, *arrived]}


def _came(said: dict[str, bytes]) -> tuple[str, str, int]:
    sender = b"/".join(said[name] for name in ("spool_origin", "spool_sender") if name in said)
    return sender.decode(), said["spool_to"].decode(), int(said["spool_seq"])
