"""What people and programs read: lines of the log, and rates."""

import json

import pytest

from spoolnode.node.log import configure, rarely
from spoolnode.node.rates import WINDOW, Rates


def test_for_people_a_traceback_follows_its_line_and_for_programs_a_line_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "text")("retry", id="a_1_2", reason="ValueError: no\nTraceback:\n  here")
    line, *further = capsys.readouterr().err.splitlines()
    assert "retry" in line
    assert "a_1_2" in line
    assert further == ["    Traceback:", "      here"]
    configure("info", "json")("retry", id="a_1_2", reason="ValueError: no\nTraceback:\n  here")
    (only,) = capsys.readouterr().err.splitlines()
    assert json.loads(only)["reason"].endswith("here")


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
