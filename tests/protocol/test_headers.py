"""headers: which of a web visitor's headers are secrets, and that nothing else is touched."""

import pytest
from wire import block

from spoolnode.protocol.headers import is_secret, variable_of, without_secrets
from spoolnode.protocol.packet import decode_variables

SECRETS = [
    "Cookie", "Cookie2", "Authorization", "Proxy-Authorization", "X-Api-Key", "X-ApiKey", "X-Auth-Token", "X-CSRF-Token",
    "X-CSRFToken", "X-XSRF-TOKEN", "X-Amz-Security-Token", "Cf-Access-Jwt-Assertion", "X-Forwarded-Access-Token", "X-Session-Id",
    "X-Gitlab-Token", "X-Client-Secret", "X-Password",
    "X-WSSE", "DPoP", "X-Amzn-Oidc-Data", "PHPSESSID", "JSESSIONID", "X-Sid", "X-Auth", "X-Otp", "X-Pin", "X-Pwd", "X-Key",
    "Bearer", "SSL-Client-Cert", "X-SSL-Client-Cert", "Client-Cert", "X-Forwarded-Client-Cert", "X-Auth-Key", "X-Functions-Key",
    "X-Bearer", "X-Amzn-Oidc-Accesstoken", "X-ARR-ClientCert",
]  # fmt: skip
ORDINARY = [
    "Host", "User-Agent", "Accept", "Content-Length", "Content-Type", "X-Request-Id", "X-Forwarded-For", "X-Hub-Signature-256",
    "Origin", "Referer", "X-Author", "X-Tokens-Left", "X-Keyboard", "If-None-Match", "Traceparent",
    "Sec-WebSocket-Version", "X-Pinned", "X-Ping", "X-Side", "X-Keys-Left", "X-Monkey", "X-Author-Id", "X-Inside",
    "X-SSL-Protocol", "Idempotency-Key", "Surrogate-Key", "X-Auth-Request-User", "OIDC-Claim-Email", "X-SSL-Client-Verify",
]  # fmt: skip


@pytest.mark.parametrize("header", SECRETS)
def test_a_header_by_which_its_sender_proves_who_he_is_is_a_secret(header: str) -> None:
    assert is_secret(variable_of(header))
    assert without_secrets(block({b"a": b"b", variable_of(header): b"s"}), frozenset()) == block({b"a": b"b"})


@pytest.mark.parametrize("header", ORDINARY)
def test_any_other_header_is_not(header: str) -> None:
    content = block({b"a": b"b", variable_of(header): b"s"})
    assert without_secrets(content, frozenset()) is content


@pytest.mark.parametrize("name", [b"COOKIE", b"http_cookie", b"cookie", b"AUTHORIZATION", b"token", b"HTTP_COOKIES_X"])
def test_a_variable_that_carries_no_header_is_not(name: bytes) -> None:
    assert not is_secret(name)


@pytest.mark.parametrize("named", ["Cookie", "cookie", "COOKIE", "HTTP_COOKIE", "http_cookie"])
def test_what_the_operator_names_is_kept_however_he_writes_it(named: str) -> None:
    content = block({b"HTTP_COOKIE": b"a=1", b"HTTP_AUTHORIZATION": b"Basic x", b"a": b"b"})
    kept = without_secrets(content, frozenset({variable_of(named)}))
    assert decode_variables(kept) == [(b"HTTP_COOKIE", b"a=1"), (b"a", b"b")]
