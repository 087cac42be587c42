"""A node starts only with a certificate that its peers will take, and goes on with it until a better one is there."""

import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tlsnode import LINK, OpenNode, Talk, run, until

from spoolnode.cluster.dial import DialError, dial
from spoolnode.cluster.trust import WARN_SECONDS, Trust, name_in, uri_of
from spoolnode.node.badconfig import BadConfig
from spoolnode.node.config import Config
from spoolnode.node.ingress.tls import Untrusted

Issue = Callable[..., Any]


def trust(made: Any, name: str, authority: Path | None = None) -> Trust:
    return Trust(str(made.certificate), str(made.key), str(authority or made.authority), name)


@pytest.mark.parametrize("name", ["a", "alpha", "Alpha", "web_1", "-", "_", "a.b.example.com", "A-" * 31 + "x"])
def test_every_name_of_a_node_fits_into_a_certificate(issue: Issue, name: str) -> None:
    assert trust(issue(name), name).expires_in(time.time()) > 0


def test_a_certificate_must_be_for_this_node(issue: Issue) -> None:
    with pytest.raises(BadConfig, match="is for the node 'alpha', but this node's --name is 'Alpha'"):
        trust(issue("alpha"), "Alpha")


def test_a_certificate_must_be_of_an_authority_that_peers_take(issue: Issue) -> None:
    made = issue("alpha")
    with pytest.raises(BadConfig, match="is not signed by any authority"):
        trust(made, "alpha", issue("alpha", of="other").authority)
    with pytest.raises(BadConfig, match="is not signed by any authority"):
        trust(made, "alpha", issue("beta").certificate)


def test_a_certificate_must_not_have_ended(issue: Issue) -> None:
    with pytest.raises(BadConfig, match=r"ended on 20\d\d-"):
        trust(issue("alpha", days=-1), "alpha")


def test_an_authority_must_not_have_ended(tmp_path: Path, issue: Issue) -> None:
    from spoolnode.cluster import authority as ca

    ca.init(tmp_path / "ended", days=-1)
    with pytest.raises(BadConfig, match="ended on"):  # no certificate outlives its authority
        trust(issue("alpha", of="ended"), "alpha")


def test_a_key_must_be_that_of_the_certificate(issue: Issue) -> None:
    made, other = issue("alpha"), issue("alpha")
    with pytest.raises(BadConfig, match="is not the key of"):
        trust(made._replace(key=other.key), "alpha")


def test_files_that_cannot_be_read_or_hold_something_else_are_named(tmp_path: Path, issue: Issue) -> None:
    made, text = issue("alpha"), tmp_path / "text"
    text.write_text("nothing\n")
    for change, pattern in (
        ({"certificate": tmp_path / "no"}, "--tls-cert .*/no cannot be read: No such file"),
        ({"key": tmp_path / "no"}, "--tls-key .*/no cannot be read"),
        ({"authority": tmp_path / "no"}, "--tls-ca .*/no cannot be read"),
        ({"certificate": text}, "--tls-cert .*/text or .* not in PEM form"),
        ({"key": text}, "--tls-key .*/text is not in PEM form"),
        ({"authority": text}, "--tls-ca .*/text has no certificate"),
    ):
        with pytest.raises(BadConfig, match=pattern):
            trust(made._replace(**change), "alpha")


def test_a_key_with_a_password_is_said_and_not_asked_for(tmp_path: Path, issue: Issue) -> None:
    from cryptography.hazmat.primitives import serialization

    made = issue("alpha")
    key: Any = serialization.load_pem_private_key(made.key.read_bytes(), None)
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    locked = tmp_path / "locked.key"
    locked.write_bytes(key.private_bytes(*form))
    with pytest.raises(BadConfig, match="is encrypted"):
        trust(made._replace(key=locked), "alpha")


@pytest.mark.parametrize(
    "names", [[], [uri_of("a"), uri_of("b")], [uri_of("all")], [uri_of("a/b")], [uri_of("")], ["spoolnode://elsewhere/a"]]
)
def test_a_certificate_that_does_not_name_one_node_is_nobodys(names: list[str]) -> None:
    with pytest.raises(Untrusted, match="it must name one"):
        name_in({"subjectAltName": tuple(("URI", name) for name in names)})
    with pytest.raises(Untrusted):
        name_in({"subjectAltName": (("DNS", uri_of("a")),)})


@pytest.mark.parametrize("kind", ["dns", "ip", "uri", "mail"])
def test_the_key_of_an_authority_opens_no_web_site(tmp_path: Path, issue: Issue, kind: str) -> None:
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    from spoolnode.cluster import authority as ca

    made = issue("alpha")
    authority, signing = ca._load(tmp_path / "ca")
    other: Any = {
        "dns": x509.DNSName("www.example.org"), "ip": x509.IPAddress(ip_address("192.0.2.1")),
        "uri": x509.UniformResourceIdentifier("https://www.example.org/"), "mail": x509.RFC822Name("me@example.org"),
    }[kind]  # fmt: skip
    key: Any = serialization.load_pem_private_key(made.key.read_bytes(), None)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "web server")])
    builder = ca._builder(subject, authority.subject, key.public_key(), 1)
    mine = x509.UniformResourceIdentifier(uri_of("alpha"))
    builder = builder.add_extension(x509.SubjectAlternativeName([mine, other]), critical=False)
    forged = tmp_path / "forged.crt"
    forged.write_bytes(builder.sign(signing, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    with pytest.raises(BadConfig, match="subtree violation"):
        trust(made._replace(certificate=forged), "alpha")


def test_an_end_is_warned_about_thirty_days_before(issue: Issue) -> None:
    mine = trust(issue("alpha", days=90), "alpha")
    until_end = mine.expires_in(0.0)
    assert mine.until == until_end
    assert mine.expiry_warning(until_end - WARN_SECONDS - 1) == ""
    assert "ends in 29 days, on 20" in mine.expiry_warning(until_end - WARN_SECONDS + 1)
    assert "ended on 20" in mine.expiry_warning(until_end + 1)
    assert "spoolnode ca issue alpha" in mine.expiry_warning(until_end)


def test_a_reload_takes_the_new_certificate_and_leaves_connections_alone(tmp_path: Path, issue: Issue) -> None:
    made = issue("beta")
    mine, peer = trust(made, "beta"), trust(issue("alpha"), "alpha")
    reports: list[str] = []

    async def main() -> None:
        async with OpenNode(tmp_path, mine, stranger=True) as node:
            old = await dial(node.address, Talk, peer, "beta")
            before = old.transport.get_extra_info("peercert")["serialNumber"]
            replace(issue("beta"), made)
            assert mine.reload(lambda action, **_: reports.append(action))
            new = await dial(node.address, Talk, peer, "beta")
            assert new.transport.get_extra_info("peercert")["serialNumber"] != before
            old.transport.write(LINK)
            await until(lambda: old.protocol.said, "an answer on the old connection")
            old.transport.abort()
            new.transport.abort()

    run(main)
    assert reports == ["tls_reloaded"]


def test_a_reload_of_broken_files_keeps_the_old_ones_and_says_so(tmp_path: Path, issue: Issue) -> None:
    made = issue("beta")
    mine, peer = trust(made, "beta"), trust(issue("alpha"), "alpha")
    reports: list[tuple[str, dict[str, Any]]] = []

    async def main() -> None:
        async with OpenNode(tmp_path, mine, stranger=True) as node:
            for other in (issue("gamma"), issue("beta", days=-1), issue("beta")._replace(key=issue("beta").key)):
                replace(other, made)
                assert not mine.reload(lambda action, **details: reports.append((action, details)))
                dialed = await dial(node.address, Talk, peer, "beta")
                dialed.transport.abort()

    run(main)
    assert [action for action, _ in reports] == ["tls_reload_failed"] * 3
    assert "is for the node 'gamma'" in reports[0][1]["reason"]


def test_an_authority_is_replaced_without_a_moment_in_which_nodes_do_not_know_each_other(tmp_path: Path, issue: Issue) -> None:
    bundle = tmp_path / "bundle.crt"
    old_alpha, old_beta = issue("alpha"), issue("beta")
    new_alpha, new_beta = issue("alpha", of="new"), issue("beta", of="new")
    bundle.write_bytes(old_alpha.authority.read_bytes() + new_alpha.authority.read_bytes())
    # one after the other: first both trust both authorities, then both get new certificates, then the old authority goes
    alphas = [trust(old_alpha, "alpha"), trust(old_alpha, "alpha", bundle), trust(new_alpha, "alpha", bundle)]
    alphas.append(trust(new_alpha, "alpha"))
    betas = [trust(old_beta, "beta"), trust(old_beta, "beta", bundle), trust(new_beta, "beta", bundle), trust(new_beta, "beta")]

    async def meet(alpha: Trust, beta: Trust) -> None:
        async with OpenNode(tmp_path, beta, stranger=True) as node:
            dialed = await dial(node.address, lambda: Talk(LINK), alpha, "beta")
            await until(lambda: dialed.protocol.said, "an answer")
            dialed.transport.abort()

    async def main() -> None:
        for step in range(4):
            await meet(alphas[step], betas[step])
            if step < 3:
                await meet(alphas[step + 1], betas[step])
                await meet(alphas[step], betas[step + 1])
        with pytest.raises(DialError):
            await meet(alphas[0], betas[3])

    run(main)


def test_keys_are_for_their_owner_and_nothing_is_overwritten(tmp_path: Path, issue: Issue) -> None:
    from spoolnode.cluster import authority as ca

    old = os.umask(0)
    try:
        made = issue("alpha")
    finally:
        os.umask(old)
    for key in (made.key, tmp_path / "ca" / "ca.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    content = made.key.read_bytes()
    with pytest.raises(ca.CaError, match="never overwritten"):
        ca.issue(tmp_path / "ca", "alpha", out=made.key.parent)
    with pytest.raises(ca.CaError, match="never overwritten"):
        ca.init(tmp_path / "ca")
    assert made.key.read_bytes() == content
    made.certificate.unlink()
    with pytest.raises(ca.CaError, match="never overwritten"):
        ca.issue(tmp_path / "ca", "alpha", out=made.key.parent)


def test_no_certificate_outlives_its_authority(tmp_path: Path) -> None:
    from spoolnode.cluster import authority as ca

    authority = ca.init(tmp_path / "ca", days=10)
    assert ca.issue(tmp_path / "ca", "alpha", days=365).until == authority.until


@pytest.mark.parametrize("missing", ["tls_cert", "tls_key", "tls_ca"])
def test_the_three_settings_come_together(missing: str) -> None:
    given = {name: "file" for name in ("tls_cert", "tls_key", "tls_ca") if name != missing}
    with pytest.raises(BadConfig, match=f"--{missing.replace('_', '-')} is missing"):
        Config(**given).validated()


def test_a_public_address_may_be_listened_on_with_a_certificate() -> None:
    with pytest.raises(BadConfig, match="--tls-cert"):
        Config(listen=["0.0.0.0:3031"]).validated()
    config = Config(listen=["0.0.0.0:3031"], tls_cert="a", tls_key="b", tls_ca="c").validated()
    with pytest.raises(BadConfig, match="--tls-cert a cannot be read"):
        Trust.of(config)
    assert Trust.of(Config()) is None


def replace(new: Any, old: Any) -> None:
    """As an administrator does it."""
    shutil.copy(new.certificate, old.certificate)
    shutil.copy(new.key, old.key)
