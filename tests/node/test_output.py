"""What tasks print: whole lines, each with the task that printed it, even if that changes its streams."""
# ruff: noqa: T201  # printing is what these tests are about

import gc
import io
import mmap
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import pytest

from spoolnode.node.work import current, output
from spoolnode.node.work.messages import MAX_TEXT
from spoolnode.node.work.output import TaskOutput, capture_output, flush_task, print_to_descriptors
from spoolnode.node.work.taskfile import BatchTask

Lines = list[tuple[str, str, str]]


@contextmanager
def worker() -> Iterator[Lines]:
    """Within it this process prints as a worker does. Yields the list of (task, stream, text) that is told."""
    lines: Lines = []
    streams = sys.stdout, sys.stderr
    capture_output(lambda task, stream, text: lines.append((task, stream, text)))
    try:
        yield lines
    finally:
        sys.stdout, sys.stderr = streams
        output._streams.clear()
        output.rest.clear()
        output.cut.clear()
        gc.collect()  # a stream is flushed when it is freed: ours, and not the next test's text


@contextmanager
def task(name: str) -> Iterator[None]:
    """Within it a task of that name runs."""
    token = current.running.set(BatchTask(b"", b"", name, mmap.mmap(-1, 1), 0))
    yield
    current.running.reset(token)


def test_each_line_is_told_when_it_ends_with_its_stream_and_its_task() -> None:
    with worker() as lines, task("one"):
        print("a", end="")
        print("b\nc\n\nd")
        print("e", file=sys.stderr)
    told = [("stdout", "ab"), ("stdout", "c"), ("stdout", ""), ("stdout", "d"), ("stderr", "e")]
    assert lines == [("one", *line) for line in told]


def test_tasks_that_run_side_by_side_do_not_end_each_others_lines() -> None:
    with worker() as lines:
        with task("one"):
            print("first", end=" ")
        with task("two"):
            print("second", end=" ")
            flush_task()
        with task("one"):
            print("line")
    assert lines == [("two", "stdout", "second "), ("one", "stdout", "first line")]


def test_line_without_an_end_is_told_when_its_task_has_ended_and_once() -> None:
    with worker() as lines, task("one"):
        print("out", end="")
        print("err", end="", file=sys.stderr)
        flush_task()
        flush_task()
    assert lines == [("one", "stdout", "out"), ("one", "stderr", "err")]


@pytest.mark.parametrize("piece", [1000, MAX_TEXT * 3])
def test_line_of_any_length_is_told_in_pieces_that_fit_into_a_message(piece: int) -> None:
    text = "".join(map(str, range(MAX_TEXT)))[: MAX_TEXT * 3 - 5]
    with worker() as lines, task("one"):
        for start in range(0, len(text), piece):
            print(text[start : start + piece], end="")
            assert sum(map(len, output.rest.values())) <= MAX_TEXT, "a line that never ends fills no memory"
        flush_task()
    assert max(len(told) for _, _, told in lines) <= MAX_TEXT
    assert "".join(told for _, _, told in lines) == text


def test_character_that_is_written_in_two_halves_arrives_whole() -> None:
    half, other = "ä".encode()[:1], "ä".encode()[1:]
    with worker() as lines, task("one"):
        assert sys.stdout.buffer.write(b"1" + half) == 2
        with task("two"):
            sys.stdout.buffer.write(b"2\n")
        sys.stdout.buffer.write(memoryview(other + b"\n"))
    assert lines == [("two", "stdout", "2"), ("one", "stdout", "1ä")]


def test_half_a_character_is_shown_as_one_that_cannot_be_read() -> None:
    with worker() as lines, task("one"):
        sys.stdout.buffer.write("ä".encode()[:1])
        flush_task()
    assert lines == [("one", "stdout", "\ufffd")]


def test_streams_are_what_libraries_expect_of_a_file_of_text() -> None:
    with worker() as lines:
        assert (sys.stdout.fileno(), sys.stderr.fileno(), sys.stdout.buffer.fileno()) == (1, 2, 1)
        assert (sys.stdout.encoding, sys.stdout.name, sys.stdout.mode) == ("utf-8", "<stdout>", "w")
        assert sys.stdout.writable()
        assert sys.stdout.buffer.writable()
        assert not sys.stdout.isatty()
        with pytest.raises(TypeError, match="must be str, not bytes"):
            sys.stdout.write(b"bytes")  # type: ignore[arg-type]  # that is the mistake
    assert lines == []


@pytest.mark.parametrize("what", ["close", "detach", "reconfigure"])
def test_stream_works_on_whatever_a_task_does_to_it(what: str) -> None:
    with worker() as lines, task("one"):
        print("before", end="")
        getattr(sys.stdout, what)()
        assert lines == [("one", "stdout", "before")]
        assert not sys.stdout.closed
        print("after")
    assert lines[1:] == [("one", "stdout", "after")]


def test_what_a_task_wraps_around_a_stream_is_flushed_when_it_has_ended() -> None:
    with worker() as lines, task("one"), redirect_stdout(io.TextIOWrapper(sys.stdout.detach(), encoding="utf-8")):
        print("held back", end="")
        flush_task()
        assert lines == [("one", "stdout", "held back")]


@pytest.mark.parametrize("odd", ["closed", "none", "not a stream"])
def test_what_a_task_leaves_in_the_place_of_a_stream_does_no_harm(odd: str) -> None:
    closed = io.StringIO()
    closed.close()
    with worker() as lines, task("one"):
        print("line", end="", file=sys.stderr)
        sys.stdout = {"closed": closed, "none": None, "not a stream": object()}[odd]  # type: ignore[assignment]  # as tasks do
        flush_task()
    assert lines == [("one", "stderr", "line")]


def test_forked_child_prints_to_its_descriptor_and_not_what_the_worker_has_begun() -> None:
    reader, writer = os.pipe()
    with worker() as lines, open(reader, "rb") as pipe, open(writer, "wb", 0) as end:
        stream = TaskOutput("stdout", end.fileno(), lambda *_: pytest.fail("this is said to the node"))
        output._streams[:] = [stream]
        stream.write("the worker's")
        print_to_descriptors()
        stream.write("line\nrest")
        stream.buffer.write(b" bytes\n")
        stream.flush()
        end.close()
        assert pipe.read() == b"line\n bytes\nrest\n"
    assert lines == []
