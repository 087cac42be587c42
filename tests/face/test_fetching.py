"""The pieces of an answer about a task are put together."""

from spoolnode.client.fetching import _Fetch
from spoolnode.protocol.fetch import TASK, Fetched
from spoolnode.protocol.packet import ANSWER, HEADER
from spoolnode.wire import resolve

ID = "0123456789ab_1790000000000000_64"


def hear(fetch: _Fetch, found: Fetched) -> None:
    """Gives it an answer."""
    packet = found.encode()
    fetch.hear(resolve("127.0.0.1:1"), (ANSWER, packet[3], packet[HEADER.size :]))


def test_an_answer_that_changes_between_two_pieces_is_read_again_from_its_beginning() -> None:
    fetch = _Fetch(ID, 0.0, TASK)
    hear(fetch, Fetched(4, b"ol"))
    hear(fetch, Fetched(6, b"wer!"))
    assert (fetch.data, fetch.is_over) == (b"", False)
    for piece in (b"new", b"er!"):
        hear(fetch, Fetched(6, piece))
    assert (fetch.data, fetch.is_over) == (b"newer!", True)
