"""Layout, wire, config: the small tables between everything else."""

import socket
from array import array
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolnode.node.badconfig import BadConfig
from spoolnode.node.config import Config, default_name, is_public, parse_address
from spoolnode.node.disk.layout import Layout, batch_number, is_priority, is_spool_file, rank_of, ref_id
from spoolnode.node.work import messages
from spoolnode.protocol.names import LAST, is_node_name

# -- layout --


@given(st.integers(0, 1 << 62))
def test_the_number_of_a_batch_is_in_its_name(number: int) -> None:
    assert batch_number(Path(Layout("/s").batch(number)).name) == number


@pytest.mark.parametrize("name", ["", ".batch", "1", "x.batch", "-1.batch", "1.batch.40", "1.Batch", "1 .batch"])
def test_what_is_no_batch_has_no_number(name: str) -> None:
    assert batch_number(name) is None


@pytest.mark.parametrize(
    ("ref", "rank"),
    [("uwsgi_spoolfile_on_x", LAST), ("0/uwsgi_spoolfile_on_x", 0), ("007/8/x", 7), (f"{10**40}/x", LAST - 1)],
)
def test_the_topmost_directory_is_the_rank_and_any_priority_comes_before_none(ref: str, rank: int) -> None:
    assert rank_of(ref) == rank


def test_only_digits_are_priorities_and_only_the_prefix_is_a_task() -> None:
    assert [is_priority(name) for name in ("0", "12", "", "-1", "1a", "²", "٣", "1.5")] == [True, True] + [False] * 6
    assert is_spool_file("uwsgi_spoolfile_on_")
    assert not is_spool_file("uwsgi_spoolfile")
    assert ref_id("3/uwsgi_spoolfile_on_ab_1_2") == "ab_1_2"
    assert Layout("/s").directory_of("3/x") == "/s/3"
    assert Layout("/s").directory_of("x") == "/s"


def test_every_place_is_below_the_root_and_its_own() -> None:
    layout = Layout("/s")
    places = [*layout.directories[1:], layout.node_id, layout.lock, layout.control, layout.socket]
    assert len(set(places)) == len(places)
    assert all(place.startswith("/s/") for place in places)


# -- wire --


@given(st.lists(st.integers(0, (1 << 32) - 1), max_size=messages.MAX_CHUNK))
def test_offsets_arrive_as_they_were_sent(offsets: list[int]) -> None:
    assert list(messages.unpack_offsets(messages.pack_offsets(offsets))) == offsets
    assert messages.pack_offsets(array("I", offsets)) == messages.pack_offsets(offsets)


@given(st.lists(st.integers(0, messages.MAX_CHUNK - 1), max_size=messages.MAX_CHUNK))
def test_positions_arrive_as_they_were_sent(positions: list[int]) -> None:
    assert list(messages.unpack_positions(messages.pack_positions(positions))) == positions


def test_the_largest_chunk_of_the_longest_names_is_one_packet_and_the_end_is_none() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        message = ["run", 1, None, ["9" * 10 + "/" + "x" * 244] * messages.MAX_CHUNK]
        with ours:
            messages.send_message(ours, message)
            assert messages.receive(theirs) == message
            messages.send_message(ours, ["print", "t", "stdout", "\udcff" * 100])
            assert messages.receive(theirs) == ["print", "t", "stdout", "\udcff" * 100]
        assert messages.receive(theirs) is None


@given(st.lists(st.text(st.characters(min_codepoint=1), min_size=1, max_size=60).map(lambda text: text * 60), max_size=200))
def test_paths_however_long_travel_in_packets_and_none_is_lost(refs: list[str]) -> None:
    groups = list(messages.split_files(refs)) if refs else []
    assert [ref for group in groups for ref in group] == refs
    for group in groups:
        assert group
        message = ["run", 1 << 31, None, group]
        assert len(msgpack.packb(message, unicode_errors="surrogatepass")) <= messages.MAX_PACKET


# -- config --


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:3031", ("127.0.0.1", 3031)), ("[::1]:80", ("::1", 80)), (":0", ("0.0.0.0", 0)),
        ("host.example:65535", ("host.example", 65535)), ("/tmp/a.sock", "/tmp/a.sock"), ("a.sock", "a.sock"),
        ("./a:b", "./a:b"),
    ],
)  # fmt: skip
def test_an_address_is_a_host_and_a_port_or_a_path(text: str, address: object) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "host:", "host:x", "host:65536", "host:-1", "host:²", "host: 1", "::1:80", "fe80::1:80", "/" + "x" * 107]
)
def test_what_is_no_address_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(BadConfig) as caught:
        parse_address(text)
    assert is_clear(str(caught.value))
    with pytest.raises(BadConfig):
        Config(listen=[text]).validated()


@pytest.mark.parametrize(
    ("text", "public"),
    [("127.0.0.1:1", False), ("127.9.9.9:1", False), ("[::1]:1", False), ("localhost:1", False), ("/tmp/s", False),
     (":1", True), ("0.0.0.0:1", True), ("[::]:1", True), ("10.0.0.1:1", True), ("example.org:1", True)],
)  # fmt: skip
def test_an_address_that_others_reach_needs_a_word_about_who_may(text: str, public: bool) -> None:
    assert is_public(text) is public
    if public:
        with pytest.raises(BadConfig, match="--allow"):
            Config(listen=[text]).validated()
    Config(listen=[text], insecure=True).validated()
    Config(listen=[text], allow=["10.0.0.0/8"]).validated()


BAD: list[dict[str, Any]] = [
    {"workers": 0}, {"workers": 257}, {"concurrency": 0}, {"buffer_size": 63}, {"buffer_size": 65536}, {"max_attempts": -1},
    {"max_attempts": 256}, {"retry_base": 0}, {"retry_max": float("nan")}, {"timeout": -1}, {"timeout": float("inf")},
    {"max_tasks": -1}, {"grace": -0.1}, {"max_body": -1}, {"min_free": -1}, {"max_connections": 0}, {"request_timeout": 0},
    {"sync": "sometimes"}, {"log_level": "loud"}, {"log_format": "xml"}, {"chmod_socket": "888"}, {"chmod_socket": "rw"},
    {"chmod_socket": "6"}, {"allow": ["10.0.0.0/33"]}, {"allow": ["x"]}, {"name": "a b"}, {"name": ".a"}, {"name": "any"},
    {"name": "x" * 64}, {"tag": ["a/b"]}, {"tag": [""]}, {"http": "host:x"},
]  # fmt: skip


@pytest.mark.parametrize("setting", BAD, ids=lambda setting: "=".join(map(str, *setting.items()))[:30])
def test_every_refusal_is_one_clear_sentence_that_names_the_setting_or_the_value(setting: dict[str, Any]) -> None:
    with pytest.raises(BadConfig) as caught:
        Config(**setting).validated()
    text = str(caught.value)
    assert is_clear(text)
    ((name, value),) = setting.items()
    assert name.replace("_", "-") in text or str(value) in text


def test_the_defaults_are_valid_and_filled_in() -> None:
    config = Config().validated()
    assert is_node_name(config.name)
    assert Path(config.spool).is_absolute()
    assert config.validated() == config
    assert is_node_name(default_name())


def is_clear(text: str) -> bool:
    """One sentence that says what is wrong and what would be right."""
    return "\n" not in text and 20 < len(text) < 300 and any(word in text for word in ("must be", "write", "name the networks"))
