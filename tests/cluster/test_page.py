"""The link to another node's page: what the node says of it comes from the network."""

import pytest

from spoolnode.cluster.page import page_of
from spoolnode.cluster.peer_status import Status

HERE = "10.0.0.7:3031"


@pytest.mark.parametrize(
    ("said", "page"),
    [
        ("https://tasks.example.org:9031", "https://tasks.example.org:9031"),
        ("http://10.0.0.8:80", "http://10.0.0.8:80"),
        ("https://[2001:db8::1]:9031", "https://[2001:db8::1]:9031"),
        ("http://0.0.0.0:9031", "http://10.0.0.7:9031"),
        ("https://[::]:9031", "https://10.0.0.7:9031"),
    ],
)
def test_a_page_is_at_the_host_that_the_node_says_or_where_we_reach_it(said: str, page: str) -> None:
    assert page_of(said, HERE) == page


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "[::1]", "localhost"])
def test_a_page_on_loopback_is_only_for_the_same_machine(host: str) -> None:
    assert page_of(f"http://{host}:9031", HERE) == ""
    assert page_of(f"http://{host}:9031", "127.0.0.1:3031") == f"http://{host}:9031"
    assert page_of(f"http://{host}:9031", "[::1]:3031") == f"http://{host}:9031"


@pytest.mark.parametrize(
    "said",
    [
        "", "javascript:alert(1)", "javascript://10.0.0.8:80", "ftp://10.0.0.8:21", "http://10.0.0.8", "http://10.0.0.8:80/x",
        "http://10.0.0.8:80?x", "http://10.0.0.8:80#x", "http://a@10.0.0.8:80", "http://10.0.0.8:0", "http://10.0.0.8:65536",
        "http://10.0.0.8:٨٠", "http://:80", "http://10.0.0.8:80\n", " http://10.0.0.8:80", "http://exämple:80", "http://a b:80",
        'http://"><b>:80', "http://[1:80", "//10.0.0.8:80",
    ],
)  # fmt: skip
def test_anything_but_a_plain_url_of_a_host_and_a_port_is_no_link(said: str) -> None:
    assert page_of(said, HERE) == ""


def test_without_an_address_where_it_answers_a_page_on_any_address_is_unknown() -> None:
    assert page_of("http://0.0.0.0:9031", "") == ""


@pytest.mark.parametrize("said", [None, 7, ["http://10.0.0.8:80"], {"page": 1}, "http://a\x00:80"])
def test_what_is_not_text_is_no_page(said: object) -> None:
    assert Status.read({"page": said}).page == ""


def test_a_text_without_end_takes_little_room_and_is_no_link() -> None:
    assert page_of(Status.read({"page": "http://" + "a" * 10**6 + ":80"}).page, HERE) == ""
