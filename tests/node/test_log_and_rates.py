"""For people and programs: lines of the log, and rates."""

import errno
import json
import os
import sys
import time
from collections.abc import Iterator

import pytest
from support import eventually

from spoolnode.node.control.last_hour import LastHour
from spoolnode.node.control.rates import WINDOW, Rates
from spoolnode.node.figures import Figures
from spoolnode.node.log import Log, rarely
from spoolnode.node.logwriter import LineWriter


def said(capfd: pytest.CaptureFixture[str], form: str, action: str, **details: object) -> list[str]:
    """The lines of a log that says one thing."""
    log = Log("info", form)
    log(action, **details)
    log.flush()
    return capfd.readouterr().err.splitlines()


def test_for_people_a_traceback_follows_its_line_and_for_programs_a_line_is_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    line, *further = said(capfd, "text", "retry", id="a_1_2", reason="ValueError: no\nTraceback:\n  here")
    assert "retry" in line
    assert "a_1_2" in line
    assert further == ["    Traceback:", "      here"]
    (only,) = said(capfd, "json", "retry", id="a_1_2", reason="ValueError: no\nTraceback:\n  here")
    assert json.loads(only)["reason"].endswith("here")


@pytest.mark.parametrize("form", ["auto", "text", "json"])
def test_journal_learns_the_level_of_each_line_of_a_traceback(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    stderr = os.fstat(sys.stderr.fileno())
    monkeypatch.setenv("JOURNAL_STREAM", f"{stderr.st_dev}:{stderr.st_ino}")
    line, *further = said(capfd, form, "retry", reason="ValueError: no\nTraceback:\n  here")
    assert said(capfd, form, "mistake")[0].startswith("<3>")
    assert said(capfd, form, "ready")[0].startswith("<6>")
    if form == "json":
        assert (line[:3], json.loads(line[3:])["level"], further) == ("<4>", "warning", [])
    else:
        assert line.startswith("<4>[warning"), "the journal has times of its own"
        assert further == ["<4>    Traceback:", "<4>      here"]


def test_log_that_is_not_the_journal_of_this_process_has_no_numbers(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")  # of a parent whose standard error is another
    (line,) = said(capfd, "auto", "ready")
    assert json.loads(line)["action"] == "ready"


def test_record_of_the_application_has_its_own_level_and_for_people_its_lines(capfd: pytest.CaptureFixture[str]) -> None:
    line, *further = said(capfd, "text", "log", level="error", logger="shop", text="no amount\nTraceback:\n  here")
    assert "[error" in line
    assert "no amount" in line
    assert further == ["    Traceback:", "      here"]
    assert said(capfd, "text", "log", level="debug", logger="shop", text="too much") == []


def test_people_read_the_name_of_a_destination_and_programs_its_id(capfd: pytest.CaptureFixture[str]) -> None:
    (line,) = said(capfd, "text", "link_failed", destination="988ae31bc562", name="beta", reason="no")
    assert "beta (988ae31bc562)" in line
    assert "name=" not in line
    (only,) = said(capfd, "json", "link_failed", destination="988ae31bc562", name="beta", reason="no")
    assert (json.loads(only)["destination"], json.loads(only)["name"]) == ("988ae31bc562", "beta")
    (line,) = said(capfd, "text", "link_failed", destination="beta", name="beta", reason="no")
    assert "destination=beta" in line


class Unprintable:
    """Something that cannot be shown."""

    def __repr__(self) -> str:
        raise ValueError("no")


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_cannot_be_shown_does_not_break_who_reports_it(capfd: pytest.CaptureFixture[str], form: str) -> None:
    (line,) = said(capfd, form, "retry", reason=Unprintable())
    assert "retry" in line
    assert "ValueError" in line
    (line,) = said(capfd, form, "print", text="\udcff \ud800")
    assert "print" in line


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The two ends of a pipe; a test that closes one puts -1 in its place."""
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue  # the test has closed it


def dropped_line(lines: int) -> bytes:
    return f"dropped {lines}\n".encode()


def test_who_writes_a_log_that_nobody_reads_does_not_wait(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    log = LineWriter(writer, dropped_line, most=10_000)
    line = b"x" * 99 + b"\n"
    put = 0
    while log.flush(0.2):  # until the pipe is full
        for _ in range(100):
            log.put(line)
        put += 100
    before = log.dropped
    for _ in range(5000):
        log.put(line)
    assert log.dropped - before >= 4900
    dropped, heard = log.dropped, b""
    while heard.count(b"x\n") < put + 5000 - dropped:
        heard += os.read(reader, 1 << 20)
    assert log.flush(30)
    log.put(b"the last\n")
    while b"the last\n" not in heard:
        heard += os.read(reader, 1 << 20)
    assert heard.decode().splitlines()[-2:] == [f"dropped {dropped}", "the last"]


def test_a_descriptor_that_takes_nothing_costs_lines_and_no_error() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        log = LineWriter(full, dropped_line)
        log.put(b"one\n")
        log.put(b"two\n")
        assert log.flush(30)
        assert log.dropped == 2
    finally:
        os.close(full)


def test_a_line_that_was_cut_short_does_not_spoil_the_next(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = pipe
    write, room = os.write, [6, None]

    def full_after_some_bytes(descriptor: int, data: bytes) -> int:
        left = room.pop(0) if len(room) > 1 else room[0]
        if left == 0:
            raise OSError(errno.ENOSPC, "full")
        return write(descriptor, data if left is None else data[:left])

    room[1:1] = [0]
    monkeypatch.setattr(os, "write", full_after_some_bytes)
    log = LineWriter(writer, dropped_line)
    log.put(b"a long line\n")
    assert log.flush(30)
    log.put(b"next\n")
    assert log.flush(30)
    assert os.read(reader, 1000) == b"a long\ndropped 1\nnext\n"


def test_a_reader_that_went_away_costs_lines_and_no_error(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.close(reader)
    log = LineWriter(writer, dropped_line)
    log.put(b"one\n")
    assert log.flush(30)
    assert log.dropped == 1


def test_a_descriptor_that_does_not_block_is_waited_for(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.set_blocking(writer, False)
    log = LineWriter(writer, dropped_line)
    line = b"x" * 99 + b"\n"
    for _ in range(3000):
        log.put(line)
    heard = 0
    while heard < 3000 * len(line):
        heard += len(os.read(reader, 1 << 16))
    eventually(lambda: log.flush(0))
    assert log.dropped == 0


def test_a_stuck_reader_holds_up_the_end_for_a_bounded_time(pipe: tuple[int, int]) -> None:
    log = LineWriter(pipe[1], dropped_line)
    log.put(b"x" * (1 << 19) + b"\n")
    began = time.monotonic()
    assert not log.flush(0.1)
    assert time.monotonic() - began < 30


def test_a_stranger_cannot_flood_the_log_and_hides_no_other_cause() -> None:
    said: list[tuple[str, str]] = []
    report = rarely(lambda action, **details: said.append((action, details["why"])))
    for _ in range(100):
        report("refused", why="too_large")
        report("refused", why="malformed")
    assert said == [("refused", "too_large"), ("refused", "malformed")]


def test_a_rate_looks_back_for_a_minute() -> None:
    rates = Rates()
    assert rates.per_second(5.0, {"done": 7}) == {"done": 0.0}
    for second in range(200):
        rates.sample(float(second), {"done": 10 * second})
    assert rates.per_second(200.0, {"done": 2000}) == {"done": 10.0}
    assert rates.per_second(200.0 + WINDOW, {"done": 2000})["done"] < 10.0


def test_the_last_hour_has_a_value_a_minute_gaps_where_nothing_was_noted_and_the_present_at_its_end() -> None:
    hour = LastHour[int]()
    for second in (10.0, 70.0, 130.0, 131.0, 310.0):
        hour.sample(second, lambda second=second: {"a": int(second)})  # type: ignore[misc]  # mypy cannot infer this default
    series = hour.series(310.0, {"a": 9, "b": 8})
    assert series["a"][-6:] == [70, 130, 310, None, None, 9]
    assert series["b"] == [None] * 59 + [8]
    assert {len(values) for values in series.values()} == {60}


def test_what_is_older_than_an_hour_is_forgotten() -> None:
    hour = LastHour[int]()
    noted: dict[str, int] = {"old": 1}
    for minute in range(200):
        if minute == 150:
            noted = {}
        hour.sample(minute * 60.0, noted.copy)
    assert hour.series(199 * 60.0, {})["old"].count(1) == 9  # of the minutes 140 to 148
    assert hour.series(300 * 60.0, {}) == {}


def test_figures_of_a_status_from_elsewhere_are_unknown_where_they_make_no_sense() -> None:
    sound = {"waiting": 3, "dead": 0, "free": 5, "oldest_waiting": 0.5, "rates": {"accepted": 1.5, "found": 2, "done": 3.0}}
    found = Figures.of(sound)
    assert (found.waiting, found.dead, found.free, found.oldest_waiting) == (3, 0, 5, 0.5)
    assert (found.in_per_second, found.done_per_second, found.failed_per_second, found.running) == (3.5, 3.0, None, None)
    for wrong in (True, -1, "7", None, [1], 10**400, float("nan"), float("inf"), {}):
        said = dict.fromkeys(("waiting", "dead", "free", "oldest_waiting", "rates"), wrong)
        assert Figures.of(said) == Figures(), wrong
        assert Figures.of({"rates": {"accepted": wrong, "found": wrong, "done": wrong}}) == Figures(), wrong
