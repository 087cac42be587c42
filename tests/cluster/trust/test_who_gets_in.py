"""Each wrong party is refused, by the listener or by the one who dials, before anything it said or sent counts."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tlsnode import LINK, ONE, OpenNode, Talk, careless, over, plain, run, until

from spoolnode.cluster import dial as dialing
from spoolnode.cluster.dial import DialError, DialFailure, dial, refusal_of
from spoolnode.cluster.trust import Trust
from spoolnode.node.ingress import tls as handshaking
from spoolnode.protocol.answer import REFUSED, STORED, AnswerReader

TrustOf = Callable[..., Trust]


def answers(data: bytes) -> int:
    """How many answers of the extended dialect these are."""
    return len(list(AnswerReader().answers(data)))


def test_two_nodes_of_one_authority_know_each_other_by_name(tmp_path: Path, trust_of: TrustOf) -> None:
    async def main() -> None:
        alpha, beta = trust_of("Al_pha.example"), trust_of("beta")
        async with OpenNode(tmp_path, beta, stranger=True) as node:
            dialed = await dial(node.address, lambda: Talk(LINK), alpha, "beta")
            assert dialed.name == "beta"
            await until(lambda: answers(dialed.protocol.said) == 1, "an answer")
            assert node.names == ["Al_pha.example"]
            assert dialed.transport.get_extra_info("ssl_object").version() == "TLSv1.3"
            assert not node.listener.connections.strangers
            dialed.transport.close()
            await dialed.protocol.ended
        assert len(node.admission.taken) == 1
        assert node.services.handshake_failures == 0

    run(main)


def test_much_goes_over_a_link_in_order(tmp_path: Path, trust_of: TrustOf) -> None:
    async def main() -> None:
        async with OpenNode(tmp_path, trust_of("beta"), stranger=True) as node:
            dialed = await dial(node.address, Talk, trust_of("alpha"), "beta")
            for _ in range(20_000):
                dialed.transport.write(LINK)
            await until(lambda: answers(dialed.protocol.said) == 20_000, "all answers")
            dialed.transport.close()
            await dialed.protocol.ended
        assert len(node.admission.taken) == 20_000

    run(main)


def test_one_port_takes_plain_requests_too_from_where_they_are_allowed(tmp_path: Path, trust_of: TrustOf) -> None:
    async def main() -> None:
        async with OpenNode(tmp_path, trust_of("beta")) as node:
            talk = await plain(node.address, ONE)
            await talk.ended
            assert talk.said == STORED
            slow = await plain(node.address)
            await until(lambda: node.listener.connections.count == 1, "it is accepted")
            for byte in ONE:
                slow.transport.write(bytes([byte]))
                await asyncio.sleep(0)
            await slow.ended
            assert slow.said == STORED
        assert len(node.admission.taken) == 2

    run(main)


def test_plain_requests_from_elsewhere_are_refused(tmp_path: Path, trust_of: TrustOf) -> None:
    async def main() -> None:
        async with OpenNode(tmp_path, trust_of("beta"), stranger=True) as node:
            talk = await plain(node.address, ONE)
            await until(lambda: talk.said == REFUSED, "it is refused")
            talk.transport.abort()
            link = await plain(node.address, LINK)
            await until(lambda: answers(link.said) == 1, "it is refused with a reason")
            assert b"--allow" in link.said
            link.transport.abort()
        assert not node.admission.taken

    run(main)


@pytest.mark.parametrize("who", ["nobody", "other", "expired", "nameless", "old"])
def test_whoever_has_no_certificate_of_ours_is_refused_and_hears_why(
    tmp_path: Path, trust_of: TrustOf, issue: Callable[..., Any], who: str
) -> None:
    async def main() -> None:
        async with OpenNode(tmp_path, trust_of("beta")) as node:
            context = careless()
            if who in ("other", "expired"):
                made = issue("alpha", of="other") if who == "other" else issue("alpha", days=-1)
                context = careless(made.certificate, made.key)
            elif who == "nameless":
                context = careless(*nameless(tmp_path))
            elif who == "old":
                context.maximum_version = ssl.TLSVersion.TLSv1_2
            error: BaseException | None
            try:
                talk = await over(node.address, context, LINK)
                error = await talk.ended
                assert not talk.said
            except OSError as caught:  # in TLS 1.2 the client learns it in the handshake
                error = caught
            await until(node.failures, "a line in the log")
            assert [reason for reason in node.failures() if EXPECTED[who] in reason] == node.failures()
            assert node.services.handshake_failures == 1
            if who in ("nobody", "other", "expired"):
                refusal = refusal_of(error, node.address)
                assert refusal is not None
                assert refusal.kind == DialFailure.UNTRUSTED
                assert "does not accept this node's certificate" in str(refusal)
        assert not node.admission.taken

    run(main)


EXPECTED = {
    "nobody": "did not return a certificate",
    "other": "its certificate is not accepted: ",
    "expired": "its certificate is not accepted: certificate has expired",
    "nameless": "its certificate names 0 nodes",
    "old": "unsupported protocol",
}


def nameless(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate of our authority that names no node; `ca` makes none, but its key may be used by other programs."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    from spoolnode.cluster import authority as ca

    authority, signing = ca._load(tmp_path / "ca")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "web server")])
    certificate = ca._builder(name, authority.subject, key.public_key(), 1).sign(signing, hashes.SHA256())
    paths = tmp_path / "nameless.crt", tmp_path / "nameless.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(*form))
    return paths


def test_a_peer_with_another_name_hears_nothing(tmp_path: Path, trust_of: TrustOf) -> None:
    async def main() -> None:
        made = []
        async with OpenNode(tmp_path, trust_of("gamma")) as node:
            with pytest.raises(DialError, match="is of the node 'gamma', not of 'beta'") as caught:
                await dial(node.address, lambda: made.append(1) or Talk(LINK), trust_of("alpha"), "beta")  # type: ignore[func-returns-value] # it counts
            assert caught.value.kind == DialFailure.UNTRUSTED
        assert not made
        assert not node.admission.taken

    run(main)


def test_names_are_compared_to_the_letter(tmp_path: Path, trust_of: TrustOf) -> None:
    async def main() -> None:
        async with OpenNode(tmp_path, trust_of("Beta")) as node:
            with pytest.raises(DialError, match="not of 'beta'"):
                await dial(node.address, lambda: Talk(LINK), trust_of("alpha"), "beta")
            dialed = await dial(node.address, Talk, trust_of("alpha"))
            assert dialed.name == "Beta", "whoever expects nobody is told who it is"
            dialed.transport.abort()

    run(main)


def test_an_impostor_with_another_authority_hears_nothing(tmp_path: Path, trust_of: TrustOf) -> None:
    async def main() -> None:
        async with OpenNode(tmp_path, trust_of("beta", of="other")) as node:
            with pytest.raises(DialError, match="its certificate is not accepted") as caught:
                await dial(node.address, lambda: Talk(LINK), trust_of("alpha"), "beta")
            assert caught.value.kind == DialFailure.UNTRUSTED
        assert not node.admission.taken

    run(main)


def test_a_node_without_a_certificate_is_not_talked_to_in_clear(tmp_path: Path, trust_of: TrustOf) -> None:
    async def main() -> None:
        async with OpenNode(tmp_path, None) as node:
            with pytest.raises(DialError, match="does not speak TLS") as caught:
                await dial(node.address, lambda: Talk(LINK), trust_of("alpha"), "beta")
            assert caught.value.kind == DialFailure.UNTRUSTED
            assert node.failures() == ["it speaks TLS, but this node has no --tls-cert"]
        assert not node.admission.taken

    run(main)


def test_a_handshake_that_stalls_ends_and_holds_nobody_up(
    tmp_path: Path, trust_of: TrustOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshaking, "HANDSHAKE_SECONDS", 60.0)  # enough for the one that does not stall

    async def main() -> None:
        async with OpenNode(tmp_path, trust_of("beta"), request_timeout=2.0) as node:
            stalled = await plain(node.address, b"\x16\x03\x01")
            silent = await plain(node.address)
            dialed = await dial(node.address, lambda: Talk(LINK), trust_of("alpha"), "beta")
            await until(lambda: answers(dialed.protocol.said) == 1, "an answer")
            await stalled.ended
            await silent.ended
            assert node.failures() == ["it did not finish the handshake in time"]
            dialed.transport.abort()

    run(main)


def test_many_stalled_handshakes_do_not_keep_a_node_out(
    tmp_path: Path, trust_of: TrustOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshaking, "WAITING", 4)

    async def main() -> None:
        async with OpenNode(tmp_path, trust_of("beta"), stranger=True) as node:
            stalled = [await plain(node.address, b"\x16\x03\x01") for _ in range(20)]
            await until(lambda: node.listener.connections.count == 4, "the oldest are gone")
            dialed = await dial(node.address, lambda: Talk(LINK), trust_of("alpha"), "beta")
            await until(lambda: answers(dialed.protocol.said) == 1, "an answer")
            assert node.services.handshake_failures == 17
            for talk in stalled:
                talk.transport.abort()
            dialed.transport.abort()

    run(main)


@pytest.mark.parametrize("begun", [b"", b"\x16", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01\x00\x01"])
def test_whoever_has_not_sent_a_whole_hello_takes_no_place_of_one_that_shakes_hands(
    tmp_path: Path, trust_of: TrustOf, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(handshaking, "AT_ONCE", 1)

    async def main() -> None:
        async with OpenNode(tmp_path, trust_of("beta")) as node:
            stalled = [await plain(node.address, begun) for _ in range(20)]
            dialed = await dial(node.address, lambda: Talk(LINK), trust_of("alpha"), "beta")
            await until(lambda: answers(dialed.protocol.said) == 1, "an answer")
            assert not node.failures()
            for talk in stalled:
                assert not talk.ended.done()
                talk.transport.abort()
            dialed.transport.abort()

    run(main)


def test_a_hello_may_come_byte_by_byte(tmp_path: Path, trust_of: TrustOf) -> None:
    async def main() -> None:
        async with OpenNode(tmp_path, trust_of("beta")) as node:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            client = trust_of("alpha").client_context().wrap_bio(incoming, outgoing)
            with pytest.raises(ssl.SSLWantReadError):
                client.do_handshake()
            talk = await plain(node.address)
            for byte in outgoing.read():
                talk.transport.write(bytes([byte]))
                await asyncio.sleep(0)
            await until(lambda: talk.said, "the other side goes on")
            assert talk.said[:1] == b"\x16", "a ServerHello"
            talk.transport.abort()

    run(main)


def test_rubbish_that_begins_like_tls_is_refused(tmp_path: Path, trust_of: TrustOf) -> None:
    async def main() -> None:
        async with OpenNode(tmp_path, trust_of("beta")) as node:
            for rubbish in (b"\x16" * 3000, b"\x16\x00\x00\x00", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"):
                talk = await plain(node.address, rubbish)
                await asyncio.sleep(0)
                talk.transport.write_eof()
                await talk.ended
            await until(lambda: node.services.handshake_failures == 3, "three refused")
        assert not node.admission.taken

    run(main)


def test_more_connections_than_allowed_are_turned_away_unheard(tmp_path: Path, trust_of: TrustOf) -> None:
    async def main() -> None:
        async with OpenNode(tmp_path, trust_of("beta"), max_connections=1) as node:
            first = await dial(node.address, lambda: Talk(LINK), trust_of("alpha"), "beta")
            with pytest.raises(DialError) as caught:
                await dial(node.address, lambda: Talk(LINK), trust_of("alpha"), "beta")
            assert caught.value.kind == DialFailure.UNREACHABLE
            first.transport.abort()

    run(main)


def test_nobody_listening_and_nobody_answering_are_told_apart() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with pytest.raises(DialError, match="nothing listens") as caught:
            await dial(f"127.0.0.1:{port}", Talk, None)
        assert caught.value.kind == DialFailure.REFUSED
        for address in ("no.such.host.invalid:1", "not-an-address", "/a/path"):
            with pytest.raises(DialError) as caught:
                await dial(address, Talk, None)
            assert caught.value.kind == DialFailure.UNREACHABLE

    run(main)


def test_a_peer_that_hangs_is_given_up_in_time(trust_of: TrustOf) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            with pytest.raises(DialError, match=r"within 0\.2 s|in time") as caught:
                await dial(f"127.0.0.1:{silent.getsockname()[1]}", Talk, trust_of("alpha"), "beta", 0.2)
            assert caught.value.kind == DialFailure.UNREACHABLE

    run(main)


def test_every_address_of_a_name_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with OpenNode(tmp_path, None) as node:
            host, _, port = node.address.rpartition(":")

            async def two(address: str) -> list[Any]:
                return [(socket.AF_INET, 0, 0, "", place) for place in (("127.0.0.9", int(port)), (host, int(port)))]

            monkeypatch.setattr(dialing, "_resolve", two)
            dialed = await dial(f"name.example:{port}", lambda: Talk(LINK), None)
            await until(lambda: answers(dialed.protocol.said) == 1, "an answer")
            assert dialed.name == ""
            dialed.transport.abort()

    run(main)
