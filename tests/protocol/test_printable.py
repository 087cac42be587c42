"""printable: whatever a text holds, printing it steers no terminal, and nothing of it is lost."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolnode.protocol.answer import read_answer
from spoolnode.protocol.errors import Refused
from spoolnode.protocol.packet import encode_variables
from spoolnode.protocol.printable import printable, printable_json, printable_lines

HOSTILE = {
    "a screen that is cleared": ("\x1b[2J", "\\x1b[2J"),
    "a title": ("\x1b]0;x\x07", "\\x1b]0;x\\x07"),
    "C1": ("\x9b2J", "\\x9b2J"),
    "a line written over": ("ok\rbad", "ok\\rbad"[:2] + "\\x0dbad"),
    "a backspace": ("a\b", "a\\x08"),
    "a delete": ("a\x7f", "a\\x7f"),
    "the other direction": ("a\u202eb", "a\\u202eb"),
    "a byte that is no UTF-8": ("a\udcff", "a\\udcff"),
    "a tag": ("a\U000e0001", "a\\U000e0001"),
    "a line separator": ("a\u2028b", "a\\u2028b"),
}


@pytest.mark.parametrize(("text", "shown"), HOSTILE.values(), ids=HOSTILE)
def test_what_steers_a_terminal_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert printable(text) == printable_lines(text) == shown


@pytest.mark.parametrize("text", ["", "plain", "Grüße, \N{SNOWMAN} 日本語", "a\\x1b"])
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert printable(text) is text


def test_lines_stay_lines_only_where_they_may() -> None:
    assert printable("a\nb\tc") == "a\\x0ab\\x09c"
    assert printable_lines("a\nb\tc") == "a\nb\tc"


@given(st.text())
def test_any_text_becomes_printable(text: str) -> None:
    assert printable(text).isprintable()
    assert all(line.isprintable() for line in printable_lines(text).replace("\t", "").split("\n"))


@given(st.dictionaries(st.text(), st.text()))
def test_a_json_document_says_the_same(content: dict[str, str]) -> None:
    shown = printable_json(json.dumps(content, ensure_ascii=False, indent=2))
    assert json.loads(shown) == content
    assert shown.replace("\n", "").isprintable()


def test_the_reason_that_another_node_gives_is_safe_to_print_wherever_it_goes() -> None:
    with pytest.raises(Refused) as caught:
        read_answer(0, encode_variables([(b"spool_error", b"no\x1b[2J\r" + b"x" * 50_000)]))
    assert caught.value.text.isprintable()
    assert len(caught.value.text) < 10_000
