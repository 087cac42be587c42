"""The fuzz target, for two seconds, with a seed that is always the same."""

import random

import fuzz
import pytest


@pytest.mark.parametrize("target", fuzz.TARGETS, ids=lambda target: target.__name__)
def test_the_corpus_itself_breaks_no_parser(target: fuzz.Target) -> None:
    for data in fuzz.CORPUS:
        target(data, random.Random(1))


@pytest.mark.slow
def test_two_seconds_of_garbage_break_no_parser() -> None:
    assert fuzz.run(2, seed=17) > 100


def test_the_same_seed_draws_the_same_garbage() -> None:
    first, second = random.Random(17), random.Random(17)
    assert [fuzz.draw(first) for _ in range(100)] == [fuzz.draw(second) for _ in range(100)]


def test_it_runs_as_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    fuzz.main(["0.05", "3"])
    assert "targets in 0.05 s, seed 3: all well" in capsys.readouterr().out


def test_a_failure_tells_seed_input_and_target(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def breaks(data: bytes, chance: random.Random) -> None:
        raise KeyError(data)

    monkeypatch.setattr(fuzz, "TARGETS", [breaks])
    with pytest.raises(KeyError):
        fuzz.run(1, seed=3)
    assert capsys.readouterr().err.startswith("seed 3, input 0, breaks: b")
