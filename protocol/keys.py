"""The key of a node: it proves to another node, without a certificate, that it is the same node as before.

Each node has a secret that never leaves it, and tells its public half to all others. Two nodes that know each other's public
half share a key that no third node can compute, so a proof convinces only the other node and is worth nothing elsewhere:

    A -> B   hello: A's public half, a nonce
    B -> A   pong:  B's public half, another nonce, a proof: the HMAC of both nonces, ids and public halves
    A -> B   hello: again, with A's proof

This proves who is at the other end when a connection begins. It neither hides nor seals what follows: only TLS keeps out an
attacker who can change what others send.
"""

import hashlib
import hmac
import re
from functools import lru_cache
from typing import NamedTuple

from spoolnode.protocol.x25519 import SIZE, public_of, x25519

MOST_SHARED = 4096
"""Shared keys that are kept in memory: computing one takes about a millisecond."""
NONCE_SIZE = 16
"""Random bytes of a nonce."""
_PUBLIC = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NONCE = re.compile(rf"[0-9a-f]{{{2 * NONCE_SIZE}}}", re.ASCII)
_NOTHING = bytes(SIZE)


class Talk(NamedTuple):
    """The two sides of a connection: their ids, public halves and nonces."""

    caller: str
    caller_public: str
    caller_nonce: str
    called: str
    called_public: str
    called_nonce: str


class NodeKey:
    """The key of this node. `secret`: 32 random bytes."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.public = public_of(secret).hex()
        """The half that others are told."""
        self._shared = lru_cache(MOST_SHARED)(self._share)

    def answer(self, talk: Talk) -> str:
        """The proof for the caller that it has reached this node."""
        return self._prove(b"called", talk.caller_public, talk)

    def call(self, talk: Talk) -> str:
        """The proof for the called node that this node calls."""
        return self._prove(b"caller", talk.called_public, talk)

    def is_answer(self, proof: str, talk: Talk) -> bool:
        """Whether `proof` is what the other node's `answer` makes."""
        return self._is(proof, b"called", talk.called_public, talk)

    def is_call(self, proof: str, talk: Talk) -> bool:
        """Whether `proof` is what the other node's `call` makes."""
        return self._is(proof, b"caller", talk.caller_public, talk)

    def _is(self, proof: str, role: bytes, public: str, talk: Talk) -> bool:
        right = self._prove(role, public, talk)
        return bool(right) and hmac.compare_digest(proof.encode(), right.encode())

    def _prove(self, role: bytes, public: str, talk: Talk) -> str:
        """Empty if the other side's public half is worthless: then no proof is possible."""
        shared = self._shared(public)
        if shared == _NOTHING:
            return ""
        return hmac.digest(shared, b"\n".join([b"spoolnode", role, *(part.encode() for part in talk)]), "sha256").hex()

    def _share(self, public: str) -> bytes:
        return x25519(self._secret, bytes.fromhex(public))


def fingerprint(public: str) -> str:
    """The short form in which a public half is remembered: 32 hexadecimal digits."""
    return hashlib.sha256(bytes.fromhex(public)).hexdigest()[:32]


def is_public_key(text: object) -> bool:
    """Whether this has the form of a public half."""
    return isinstance(text, str) and bool(_PUBLIC.fullmatch(text))


def is_nonce(text: object) -> bool:
    """Whether this has the form of a nonce."""
    return isinstance(text, str) and bool(_NONCE.fullmatch(text))
