"""The key of a node: it proves the node's id to each other node, and no other node can do that."""

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from spoolnode.protocol.keys import NodeKey, Talk, fingerprint, is_nonce, is_public_key
from spoolnode.protocol.x25519 import public_of, x25519

SECRETS = st.binary(min_size=32, max_size=32)
ALPHA, BETA, MALLORY = (NodeKey(bytes([byte]) * 32) for byte in (1, 2, 3))
TALK = Talk("a" * 12, ALPHA.public, "1" * 32, "b" * 12, BETA.public, "2" * 32)

# RFC 7748, section 5.2
VECTORS = [
    (
        "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
        "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
        "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
    ),
    (
        "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
        "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
        "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
    ),
]


@pytest.mark.parametrize(("secret", "point", "result"), VECTORS)
def test_the_vectors_of_the_rfc(secret: str, point: str, result: str) -> None:
    assert x25519(bytes.fromhex(secret), bytes.fromhex(point)).hex() == result


@settings(max_examples=25, deadline=None)
@given(SECRETS, SECRETS)
def test_it_is_what_cryptography_makes(ours: bytes, theirs: bytes) -> None:
    other = X25519PrivateKey.from_private_bytes(theirs).public_key()
    assert public_of(theirs) == other.public_bytes_raw()
    shared = X25519PrivateKey.from_private_bytes(ours).exchange(X25519PublicKey.from_public_bytes(public_of(theirs)))
    assert x25519(ours, public_of(theirs)) == x25519(theirs, public_of(ours)) == shared


def test_two_nodes_prove_to_each_other_who_they_are() -> None:
    assert ALPHA.is_answer(BETA.answer(TALK), TALK)
    assert BETA.is_call(ALPHA.call(TALK), TALK)


def test_a_proof_is_that_of_one_side_of_one_connection() -> None:
    assert not BETA.is_call(BETA.answer(TALK), TALK)
    assert not ALPHA.is_answer(ALPHA.call(TALK), TALK)
    for changed in (
        {"caller": "c" * 12}, {"called": "c" * 12}, {"caller_nonce": "3" * 32}, {"called_nonce": "3" * 32}
    ):  # fmt: skip
        assert not BETA.is_call(ALPHA.call(TALK), TALK._replace(**changed))
        assert not ALPHA.is_answer(BETA.answer(TALK), TALK._replace(**changed))


@pytest.mark.parametrize("proof", ["", "0" * 64, "\N{SUPERSCRIPT TWO}", MALLORY.call(TALK), MALLORY.answer(TALK)])
def test_nobody_else_can_prove_it(proof: str) -> None:
    assert not BETA.is_call(proof, TALK)
    assert not ALPHA.is_answer(proof, TALK)


@pytest.mark.parametrize("public", ["00" * 32, "01" + "00" * 31, "ec" + "ff" * 30 + "7f"])
def test_a_public_half_with_which_everybody_shares_the_same_proves_nothing(public: str) -> None:
    talk = TALK._replace(caller_public=public)
    assert BETA.answer(talk) == ""
    assert not BETA.is_call("", talk)


def test_what_is_said_has_its_form() -> None:
    assert is_public_key(ALPHA.public)
    assert is_nonce("0" * 32)
    assert len(fingerprint(ALPHA.public)) == 32
    for wrong in ("", "x" * 64, ALPHA.public + "\n", b"0" * 64, None):
        assert not is_public_key(wrong)
        assert not is_nonce(wrong)
