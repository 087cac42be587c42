"""X25519, the Diffie-Hellman function of RFC 7748: two nodes that know each other's public value share a secret.

It is in Python because the standard library has no X25519, and a node without certificates does not need the compiled package
`cryptography`. It takes about a millisecond, once for each pair of nodes. It is not constant-time, which helps only an attacker
who measures microseconds on this very machine. `tests/protocol/test_keys.py` compares it with the RFC's own vectors and with
`cryptography`.
"""

SIZE = 32
"""Bytes of secrets, of public values, and of what two share."""
_P = 2**255 - 19
_A24 = 121665


def x25519(secret: bytes, point: bytes) -> bytes:
    """The multiple of a point on the curve (RFC 7748, section 5): both are 32 bytes."""
    scalar = int.from_bytes(secret, "little") & ~7 & ~(1 << 255) | 1 << 254
    x1 = int.from_bytes(point, "little") & (1 << 255) - 1
    x2, z2, x3, z3, swapped = 1, 0, x1, 1, 0
    for index in range(254, -1, -1):
        bit = scalar >> index & 1
        if bit != swapped:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swapped = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a % _P, b * b % _P, d * a % _P, c * b % _P
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % _P, x1 * (da - cb) ** 2 % _P
        x2, z2 = aa * bb % _P, e * (aa + _A24 * e) % _P
    if swapped:
        x2, z2 = x3, z3
    return (x2 * pow(z2, _P - 2, _P) % _P).to_bytes(SIZE, "little")


def public_of(secret: bytes) -> bytes:
    """The public value of a secret."""
    return x25519(secret, (9).to_bytes(SIZE, "little"))
