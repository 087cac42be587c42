"""Headers of web visitors that are secrets: with `include uwsgi_params` nginx sends every header along, and a task is kept.

A node drops these from a request that comes through a web server, unless its operator names them (`--keep-header`).
"""

import re

from spoolnode.protocol.packet import decode_variables, encode_variables

_SECRET = re.compile(
    rb"HTTP_(?:.*_)?(?:COOKIE2?|AUTHORIZATION|TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|CREDENTIALS?|"
    rb"SESSION|SESSION_?ID|CSRF|XSRF|CSRFTOKEN|JWT)(?:_.*)?",
    re.DOTALL,
)


def variable_of(header: str) -> bytes:
    """The variable that carries a header: `HTTP_COOKIE` for `Cookie`; such a name itself stays as it is."""
    name = header.upper().replace("-", "_")
    return (name if name.startswith("HTTP_") else f"HTTP_{name}").encode()


def is_secret(variable: bytes) -> bool:
    """Whether a variable carries a header by which its sender proves who he is, as its name tells."""
    return _SECRET.fullmatch(variable) is not None


def without_secrets(block: bytes, keep: frozenset[bytes]) -> bytes:
    """A block without the secrets of whoever asked the web server, but for the variables in `keep`."""
    variables = decode_variables(block)
    kept = [item for item in variables if item[0] in keep or not is_secret(item[0])]
    return block if len(kept) == len(variables) else encode_variables(kept)
