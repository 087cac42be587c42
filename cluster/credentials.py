"""Whether a node is the one that it says it is, by its certificate or its key: nodes that call us, and nodes that we called."""

from typing import Any

from spoolnode.cluster.channel import Impostor
from spoolnode.cluster.known import Known
from spoolnode.node.neighbours import Greeting
from spoolnode.protocol import hello as hellos
from spoolnode.protocol import keys
from spoolnode.protocol.errors import Reason, Refused
from spoolnode.protocol.forward import sender_of


class Credentials:
    """The checks of this node on others, and the proof of its own key."""

    def __init__(self, node_id: str, key: keys.NodeKey | None, known: Known, *, with_certificates: bool) -> None:
        """`with_certificates`: this node takes links with TLS only. Then certificates bind an id, and keys do not."""
        self._id = node_id
        self._key = key
        self._known = known
        self._with_certificates = with_certificates

    def __repr__(self) -> str:
        return f"<credentials of {self._id}, by {'certificate' if self._with_certificates else 'key'}>"

    def check(self, hello: hellos.Hello, certified: str, nonce: str) -> Greeting:
        """Checks a node that says hello.

        Args:
            certified: the name in its certificate; empty without one.
            nonce: what we sent it, for the proof of its key; empty before its first hello.

        Returns:
            What to tell it, and who it is if it has proved its key.

        Raises:
            Refused: it is not the node that it says it is, or cannot show it.
        """
        if self._with_certificates:
            self._check_certificate(hello, certified)
        return self._check_key(hello, nonce)

    def vouch(self, status: dict[str, Any], certified: str) -> None:
        """Checks that the status of a node that we called fits its certificate, or its key. Raises `Impostor`."""
        identity, name = str(status.get("id", "")), str(status.get("name", ""))
        if not self._with_certificates:
            self._vouch_by_key(identity, name, status.get("key", ""))
        if not certified or not status:
            return
        if name != certified:
            raise Impostor(f"its certificate is for the node {certified!r}, and it says that it is {name!r}")
        if (owner := self._known.certificate(identity, certified)) != certified:
            remedy = f"if it was renamed, run spoolnode accept {certified} {identity}"
            raise Impostor(f"the id {identity} belongs to the node {owner!r}, and it is {certified!r}; {remedy}")

    def _vouch_by_key(self, identity: str, name: str, fingerprint: Any) -> None:
        if self._known.key(identity) not in ("", fingerprint):
            remedy = f"if its spool directory is new, run spoolnode accept {name} {identity}"
            raise Impostor(f"it has not proved the key to which the id {identity} belongs; {remedy}")
        if identity == self._id and self._key and fingerprint != keys.fingerprint(self._key.public):
            raise Impostor(f"it says the id of this node, {identity}, but does not have its key")

    def _check_certificate(self, hello: hellos.Hello, certified: str) -> None:
        if not certified:
            raise Refused(Reason.FORBIDDEN, "this node takes links with TLS only, and you showed no certificate")
        if certified != hello.name:
            raise Refused(
                Reason.FORBIDDEN, f"your certificate is for the node {certified!r}, and you say that you are {hello.name!r}"
            )
        if (owner := self._known.certificate(hello.id, certified)) != certified:
            remedy = f"if you were renamed, run spoolnode accept {certified} {hello.id} here"
            text = f"the id {hello.id} belongs to the node {owner!r}, and you are {certified!r}; {remedy}"
            raise Refused(Reason.FORBIDDEN, text)

    def _check_key(self, hello: hellos.Hello, nonce: str) -> Greeting:
        """Checks that the node has the key that it shows, and that its id belongs to this key."""
        fingerprint, known = keys.fingerprint(hello.public) if hello.public else "", self._known.key(hello.id)
        if not self._with_certificates and known not in ("", fingerprint):
            remedy = f"if its spool directory is new, run spoolnode accept {hello.name} {hello.id} here"
            raise Refused(Reason.FORBIDDEN, f"the id {hello.id} belongs to a node with another key than yours; {remedy}")
        own = self._key
        if own is None or not hello.public:
            return Greeting(hello.id)
        talk = keys.Talk(hello.id, hello.public, hello.nonce, self._id, own.public, nonce)
        if not hello.proof:
            return Greeting(said=(("public", own.public), ("nonce", nonce), ("proof", own.answer(talk))))
        if not own.is_call(hello.proof, talk):
            raise Refused(Reason.FORBIDDEN, f"you show a key of the node {hello.id} that you do not have")
        return Greeting(sender_of(hello.id, fingerprint), is_proved=True)
