"""`Host` and `Origin`: which requests of browsers are meant for this node."""

import pytest

from spoolnode.node.control.hosts import OurHosts

HOME = OurHosts("127.0.0.1", ["Tasks.Example.org"])


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.0.0.1:9031", "127.5.5.5:1", "localhost", "LocalHost:9031", "[::1]:9031", "tasks.example.org",
        "TASKS.example.org:8080", "tasks.example.org.:8080",
    ],
)  # fmt: skip
def test_loopback_and_the_names_that_were_given_are_ours_on_any_port(host: str) -> None:
    assert HOME.has(host)


@pytest.mark.parametrize(
    "host",
    [
        "", "evil.example", "evil.example:9031", "localhost.evil.example", "tasks.example.org.evil.example",
        "127.0.0.1.evil.example",
        "evil.example@127.0.0.1", "127.0.0.1@evil.example", "127.0.0.1/x", "10.0.0.7", "0.0.0.0", "[::", "[fe80::1]:9031",
        "127.1", "2130706433", "0x7f000001", "localhost,evil.example", "evil.example, localhost", "localhost evil.example",
    ],
)  # fmt: skip
def test_every_other_name_is_foreign(host: str) -> None:
    assert not HOME.has(host)


def test_an_address_is_ours_if_it_is_listened_on() -> None:
    assert OurHosts("10.0.0.7", []).has("10.0.0.7:9031")
    assert not OurHosts("10.0.0.7", []).has("10.0.0.8:9031")
    assert OurHosts("0.0.0.0", []).has("10.0.0.8:9031"), "on all addresses: no name of a stranger is an address"
    assert OurHosts("::", []).has("[2001:db8::1]:9031")
    assert not OurHosts("0.0.0.0", []).has("evil.example")


@pytest.mark.parametrize(
    ("origin", "host", "is_same"),
    [
        ("http://127.0.0.1:9031", "127.0.0.1:9031", True),
        ("https://tasks.example.org", "Tasks.example.org", True),
        ("http://localhost:8080", "localhost:8080", True),
        ("http://localhost:8080", "localhost:9031", False),
        ("http://localhost:9031", "127.0.0.1:9031", False),
        ("http://evil.example", "127.0.0.1:9031", False),
        ("http://evil.example", "evil.example", False),
        ("null", "127.0.0.1:9031", False),
        ("", "127.0.0.1:9031", False),
        ("file://127.0.0.1:9031", "127.0.0.1:9031", False),
        ("127.0.0.1:9031", "127.0.0.1:9031", False),
        ("http://127.0.0.1:9031.evil.example", "127.0.0.1:9031", False),
        ("http://evil.example@127.0.0.1:9031", "127.0.0.1:9031", False),
    ],
)
def test_a_page_may_ask_only_the_host_that_it_is_from(origin: str, host: str, is_same: bool) -> None:
    assert HOME.is_same(origin, host) == is_same
