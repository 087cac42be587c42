"""The key of a node: with it a node proves to another one that it is the same as before, without a certificate.

Each node has a secret that never leaves it, and tells its public half to everybody. Two nodes that know each other's public half
share a key that nobody else can compute, so what is said proves nothing to others and is worth nothing elsewhere:

    A -> B   hello: A's public half, a nonce
    B -> A   pong:  B's public half, another nonce, a proof: the HMAC of both nonces, ids and public halves
    A -> B   hello: again, with A's proof

It proves who answers when a connection begins. It does not hide or seal what follows: whoever can change what others send needs
TLS to be kept out.
"""

import hashlib
import hmac
import re
from functools import lru_cache
from typing import NamedTuple

from spoolnode.protocol.x25519 import SIZE, public_of, x25519

MOST_SHARED = 4096
"""Keys shared with others that are not computed anew: each takes about a millisecond."""
NONCE_SIZE = 16
"""Random bytes of a nonce."""
_PUBLIC = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NONCE = re.compile(rf"[0-9a-f]{{{2 * NONCE_SIZE}}}", re.ASCII)
_NOTHING = bytes(SIZE)


class Talk(NamedTuple):
    """What one connection is about: both sides' ids, public halves and nonces."""

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
        """What is told to others."""
        self._shared = lru_cache(MOST_SHARED)(self._share)

    def answer(self, talk: Talk) -> str:
        """What proves to the caller that it has called this node."""
        return self._prove(b"called", talk.caller_public, talk)

    def call(self, talk: Talk) -> str:
        """What proves to the called that this node calls."""
        return self._prove(b"caller", talk.called_public, talk)

    def is_answer(self, proof: str, talk: Talk) -> bool:
        """Whether it is what the other node's `answer` makes."""
        return self._is(proof, b"called", talk.called_public, talk)

    def is_call(self, proof: str, talk: Talk) -> bool:
        """Whether it is what the other node's `call` makes."""
        return self._is(proof, b"caller", talk.caller_public, talk)

    def _is(self, proof: str, role: bytes, public: str, talk: Talk) -> bool:
        right = self._prove(role, public, talk)
        return bool(right) and hmac.compare_digest(proof.encode(), right.encode())

    def _prove(self, role: bytes, public: str, talk: Talk) -> str:
        """Empty when the other side's public half is none: nobody can prove anything to it."""
        shared = self._shared(public)
        if shared == _NOTHING:
            return ""
        return hmac.digest(shared, b"\n".join([b"spoolnode", role, *(part.encode() for part in talk)]), "sha256").hex()

    def _share(self, public: str) -> bytes:
        return x25519(self._secret, bytes.fromhex(public))


def fingerprint(public: str) -> str:
    """A public half in short, as it is remembered: 32 hexadecimal digits."""
    return hashlib.sha256(bytes.fromhex(public)).hexdigest()[:32]


def is_public(text: object) -> bool:
    """Whether this is written as a public half."""
    return isinstance(text, str) and bool(_PUBLIC.fullmatch(text))


def is_nonce(text: object) -> bool:
    """Whether this is written as a nonce."""
    return isinstance(text, str) and bool(_NONCE.fullmatch(text))
