"""Certificates that are revoked or end: a party that shows one is refused, and open connections are closed."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from tlsnode import LINK, OpenNode, Talk, run, until

from spoolnode.cluster import authority as ca
from spoolnode.cluster.authority import CaError, Issued
from spoolnode.cluster.dial import DialError, dial
from spoolnode.cluster.trust import Trust
from spoolnode.node.badconfig import BadConfig

Issue = Callable[..., Issued]


def trust(made: Issued, name: str, lists: Path | str = "", authorities: Path | None = None) -> Trust:
    return Trust(str(made.certificate), str(made.key), str(authorities or made.authority), name, str(lists))


def serial(path: Path) -> int:
    return x509.load_pem_x509_certificate(path.read_bytes()).serial_number


def serials(path: Path) -> set[int]:
    return {entry.serial_number for entry in x509.load_pem_x509_crl(path.read_bytes())}


def test_revoking_a_name_takes_back_all_that_was_issued_for_it_so_far_and_nothing_else(tmp_path: Path, issue: Issue) -> None:
    first, second, other = issue("beta"), issue("beta"), issue("alpha")
    taken = ca.revoke(tmp_path / "ca", "beta")
    assert (taken.revoked, taken.certificates) == (tmp_path / "ca" / "ca.crl", 2)
    assert serials(taken.revoked) == {serial(first.certificate), serial(second.certificate)}
    later = issue("beta")
    again = ca.revoke(tmp_path / "ca", "alpha")
    assert again.certificates == 1
    assert serials(taken.revoked) == {serial(one.certificate) for one in (first, second, other)}
    assert serial(later.certificate) not in serials(taken.revoked)


def test_a_certificate_that_is_not_known_here_is_taken_back_by_its_file(tmp_path: Path, issue: Issue) -> None:
    made = issue("beta")
    (tmp_path / "ca" / "issued").unlink()
    with pytest.raises(CaError, match="name its file with --cert FILE"):
        ca.revoke(tmp_path / "ca", "beta")
    assert ca.revoke(tmp_path / "ca", file=made.certificate).certificates == 1
    with pytest.raises(CaError, match="is not a certificate of this authority"):
        ca.revoke(tmp_path / "ca", file=issue("beta", of="other").certificate)


def test_a_revoked_node_is_refused_as_caller_and_as_called_and_hears_why(tmp_path: Path, issue: Issue) -> None:
    bad, good = issue("beta"), issue("alpha")
    lists = ca.revoke(tmp_path / "ca", "beta").revoked
    revoked, mine = trust(bad, "beta"), trust(good, "alpha", lists)

    async def main() -> None:
        async with OpenNode(tmp_path, mine, stranger=True) as node:
            dialed = await dial(node.address, lambda: Talk(LINK), revoked, "alpha")
            assert "CERTIFICATE_REVOKED" in str(await dialed.protocol.ended)
            await until(node.failures, "it is said")
            assert node.failures() == ["its certificate is not accepted: certificate revoked"]
        async with OpenNode(tmp_path, revoked, stranger=True) as node:
            with pytest.raises(DialError, match="its certificate is not accepted: certificate revoked"):
                await dial(node.address, Talk, mine, "beta")

    run(main)


@pytest.mark.parametrize("caller_revokes", [True, False])
def test_a_link_that_is_open_is_closed_when_the_list_that_is_read_again_has_the_other_side(
    tmp_path: Path, issue: Issue, caller_revokes: bool
) -> None:
    made = {"alpha": issue("alpha"), "beta": issue("beta"), "gamma": issue("gamma")}
    lists = ca.revoke(tmp_path / "ca", "").revoked
    sides = {name: trust(one, name, lists) for name, one in made.items()}
    reports: list[tuple[str, dict[str, Any]]] = []

    async def main() -> None:
        async with OpenNode(tmp_path, sides["beta"], stranger=True) as node:
            link = await dial(node.address, lambda: Talk(LINK), sides["alpha"], "beta")
            other = await dial(node.address, lambda: Talk(LINK), sides["gamma"], "beta")
            await until(lambda: link.protocol.said and other.protocol.said, "answers")
            gone, looks = ("beta", "alpha") if caller_revokes else ("alpha", "beta")
            ca.revoke(tmp_path / "ca", gone)
            assert sides[looks].reload(lambda *_, **__: None)
            sides[looks].close_ended(time.time(), lambda action, **details: reports.append((action, details)))
            await link.protocol.ended
            assert reports == [("link_closed", {"peer": gone, "reason": f"the certificate of {gone} is revoked (--tls-crl)"})]
            assert not other.protocol.ended.done()
            other.transport.abort()

    run(main)


def test_a_link_that_is_open_is_closed_when_a_certificate_ends_on_either_side(tmp_path: Path, issue: Issue) -> None:
    alpha, beta = trust(issue("alpha", days=90), "alpha"), trust(issue("beta", days=10), "beta")
    reports: list[str] = []

    async def main() -> None:
        async with OpenNode(tmp_path, beta, stranger=True) as node:
            for side in (alpha, beta):
                link = await dial(node.address, lambda: Talk(LINK), alpha, "beta")
                await until(lambda link=link: link.protocol.said, "an answer")
                side.close_ended(time.time() + 9 * 86400, lambda _action, **details: reports.append(details["reason"]))
                assert not link.protocol.ended.done()
                side.close_ended(time.time() + 11 * 86400, lambda _action, **details: reports.append(details["reason"]))
                await link.protocol.ended

    run(main)
    assert reports[0].startswith("the certificate of beta ended on 20")
    assert reports[1].startswith("this node's certificate ended on 20")


def test_a_link_that_is_open_is_closed_when_its_authority_is_taken_back(tmp_path: Path, issue: Issue) -> None:
    old, new = issue("alpha"), issue("beta", of="new")
    bundle = tmp_path / "bundle.crt"
    bundle.write_bytes(old.authority.read_bytes() + new.authority.read_bytes())
    alpha, beta = trust(old, "alpha", authorities=bundle), trust(new, "beta", authorities=bundle)
    reasons: list[str] = []

    async def main() -> None:
        async with OpenNode(tmp_path, beta, stranger=True) as node:
            link = await dial(node.address, lambda: Talk(LINK), alpha, "beta")
            await until(lambda: link.protocol.said, "an answer")
            bundle.write_bytes(new.authority.read_bytes())
            assert beta.reload(lambda *_, **__: None)
            beta.close_ended(time.time(), lambda _action, **details: reasons.append(details["reason"]))
            await link.protocol.ended

    run(main)
    assert reasons == ["the authority of the certificate of alpha is no longer in --tls-ca"]


def test_lists_that_cannot_be_used_are_refused_with_the_reason(tmp_path: Path, issue: Issue) -> None:
    made, other = issue("alpha"), issue("beta", of="other")
    foreign = ca.revoke(tmp_path / "other", "beta").revoked
    bundle, both = tmp_path / "bundle.crt", tmp_path / "both.crl"
    bundle.write_bytes(made.authority.read_bytes() + other.authority.read_bytes())
    with pytest.raises(BadConfig, match=r"--tls-crl .*nowhere cannot be read: No such file"):
        trust(made, "alpha", tmp_path / "nowhere")
    with pytest.raises(BadConfig, match="has no list in PEM form"):
        trust(made, "alpha", made.certificate)
    with pytest.raises(BadConfig, match=r"has a list of CN=spoolnode CA \w+, which no authority of --tls-ca .* signed"):
        trust(made, "alpha", foreign)
    with pytest.raises(BadConfig, match=r"has no list of CN=spoolnode CA \w+, an authority of --tls-ca"):
        trust(made, "alpha", foreign, authorities=bundle)
    both.write_bytes(foreign.read_bytes() + ca.revoke(tmp_path / "ca").revoked.read_bytes())
    trust(made, "alpha", both, authorities=bundle)
    own = ca.revoke(tmp_path / "ca", "alpha").revoked
    with pytest.raises(BadConfig, match=r"--tls-cert .*alpha\.crt is revoked: issue another"):
        trust(made, "alpha", own)


def test_the_end_of_a_list_is_said_before_and_after(tmp_path: Path, issue: Issue) -> None:
    made = issue("alpha")
    mine = trust(made, "alpha", ca.revoke(tmp_path / "ca", days=60).revoked)
    assert mine.lists_warning(time.time()) == ""
    assert "ca.crl ends on 20" in mine.lists_warning(time.time() + 31 * 86400)
    assert "has expired: no node is accepted now" in mine.lists_warning(time.time() + 61 * 86400)
    assert trust(made, "alpha").lists_warning(time.time() + 1e9) == ""
    ended = ca.revoke(tmp_path / "ca", days=-1).revoked
    with pytest.raises(BadConfig, match=r"--tls-crl .*ca\.crl has expired, on 20.*write it again with `spoolnode ca revoke`"):
        trust(made, "alpha", ended)
    reports: list[tuple[str, str]] = []
    assert not mine.reload(lambda action, **details: reports.append((action, details["reason"])))
    assert reports[0][0] == "tls_reload_failed"
    assert "has expired" in reports[0][1]
