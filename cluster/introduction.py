"""The beginning of one connection to another node, on the side that calls: both prove their keys. Pure.

introduction = Introduction(hello, key, nonce)
send(introduction.packet("beta", low_watermark))     # asks which node is there, and what to prove
status = introduction.hear(status)           # its `key` is the proved fingerprint; empty if it has no key
if introduction.must_prove:
    send(introduction.packet("beta", low_watermark))
"""

from typing import Any

from spoolnode.cluster.channel import Impostor
from spoolnode.protocol import hello as hellos
from spoolnode.protocol import keys
from spoolnode.protocol.keys import NodeKey, Talk


class Introduction:
    """The introduction on one connection.

    Args:
        hello: the hello of this node.
        key: its key; None if it has none.
        nonce: never used before, for the other side's proof.
    """

    def __init__(self, hello: hellos.Hello, key: NodeKey | None, nonce: str) -> None:
        self._key = key
        self._hello = hello._replace(public=key.public, nonce=nonce) if key is not None else hello
        self._other = ""
        self._fingerprint = ""

    @property
    def must_prove(self) -> bool:
        """Whether the other side wants our proof before it takes tasks."""
        return bool(self._hello.proof)

    def packet(self, to: str = "", low_watermark: int = 0) -> bytes:
        """The hello for a destination (empty: a ping), with the proof as soon as there is one."""
        return hellos.encode(self._hello._replace(to=to, low_watermark=low_watermark))

    def hear(self, status: dict[str, Any]) -> dict[str, Any]:
        """The status from the other side's answer, with `key`, the fingerprint that it has proved.

        Raises:
            Impostor: it does not have the key that it shows, or is not the same node as before.
        """
        identity = str(status.get("id", ""))
        public, nonce, proof = status.get("public"), status.get("nonce"), status.get("proof")
        if self._fingerprint and identity != self._other:
            raise Impostor(f"it was the node {self._other}, and says now that it is {identity!r}")
        if not self._fingerprint and self._key is not None and keys.is_public_key(public) and keys.is_nonce(nonce):
            said = self._hello
            talk = Talk(said.id, said.public, said.nonce, identity, str(public), str(nonce))
            if not self._key.is_answer(str(proof), talk):
                raise Impostor(f"it shows a key of the node {identity} that it does not have")
            self._hello = said._replace(proof=self._key.call(talk))
            self._other, self._fingerprint = identity, keys.fingerprint(str(public))
        return {**status, "key": self._fingerprint}
