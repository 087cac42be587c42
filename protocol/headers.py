"""Headers of web visitors that are secrets. With `include uwsgi_params` nginx sends every header, and a task is kept on disk.

A node drops these from a request that comes through a web server, unless its operator names them (`--keep-header`).
"""

import re

from spoolnode.protocol.packet import decode_variables, encode_variables

_ANYWHERE = (
    rb"COOKIE2?|AUTHORIZATION|(?:AUTH|ACCESS|ID|REFRESH|CSRF)?TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|PWD|PIN|T?OTP|API_?KEY|ACCESS_?KEY|"
    rb"CREDENTIALS?|SESSION|SESSION_?ID|(?:PHP|J)?SESS(?:ION)?ID|SID|CSRF|XSRF|JWT|BEARER|DPOP|WSSE|SAML|OIDC_DATA|CLIENT_?CERT(?:IFICATE)?"
)
"""Words that mark a name as that of a secret."""
_AT_THE_END = rb"AUTH|AUTHENTICATION|(?:AUTH|PRIVATE|ENCRYPTION|CUSTOMER|CLIENT|SUBSCRIPTION|FUNCTIONS)_KEY"
"""Words that do so only at the end: `X-Auth-Request-User` names a user, but proves nothing."""
_SECRET = re.compile(
    rb"HTTP_(?:(?:.*_)?(?:(?:" + _ANYWHERE + rb")(?:_.*)?|" + _AT_THE_END + rb")|(?:X_)?KEY)",
    re.DOTALL,
)


def variable_of(header: str) -> bytes:
    """The variable that carries a header: `HTTP_COOKIE` for `Cookie`. The name of a variable stays as it is."""
    name = header.upper().replace("-", "_")
    return (name if name.startswith("HTTP_") else f"HTTP_{name}").encode()


def is_secret(variable: bytes) -> bool:
    """Whether a variable, by its name, carries a header that proves who its sender is."""
    return _SECRET.fullmatch(variable) is not None


def without_secrets(block: bytes, keep: frozenset[bytes]) -> bytes:
    """A block without the secrets of the web visitor, except for the variables in `keep`."""
    variables = decode_variables(block)
    kept = [item for item in variables if item[0] in keep or not is_secret(item[0])]
    return block if len(kept) == len(variables) else encode_variables(kept)
