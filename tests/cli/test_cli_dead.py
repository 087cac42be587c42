"""Dead tasks by kind: `dead ls --by`, `dead retry` and `dead rm` of all that are alike. Nothing is lost or doubled."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import pytest
from support import PATIENCE, RunningNode, command, environment, eventually

from spoolnode.cli.options import rate
from spoolnode.cli.printing import moment_and_age
from spoolnode.protocol import spoolfile
from spoolnode.protocol.packet import encode_variables

KINDS = [
    ("tasks:pay", "ConnectionError: refused by 10.0.0.1"),
    ("tasks:pay", "ConnectionError: refused by 10.0.0.2"),
    ("tasks:pay", "KeyError: 'customer'"),
    ("tasks:mail", "ConnectionError: refused by 10.0.0.1"),
    ("", "it ran for more than 5 s"),
]
"""Functions and reasons; the tasks of the cemetery have one after the other."""
OLD, EACH = 3, 2
"""Of each of these: so many that died a day ago, and so many that died a minute ago."""


def bury(node: RunningNode, count: int, age: float, first: int = 0) -> None:
    """Lets so many tasks lie in dead/."""
    dead = node.spool / "dead"
    dead.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        function, reason = KINDS[number % len(KINDS)]
        variables = [(b"spool_func", function.encode()), (b"spool_reason", reason.encode())]
        path = dead / f"uwsgi_spoolfile_on_host_{number}"
        path.write_bytes(spoolfile.head(encode_variables([pair for pair in variables if pair[1]])))
        os.utime(path, (time.time() - age,) * 2)


@pytest.fixture(params=["running", "stopped"])
def cemetery(request: pytest.FixtureRequest, node: RunningNode) -> RunningNode:
    """A spool with dead tasks of five kinds, and without an application: those that are ready wait."""
    node.start()
    if request.param == "stopped":
        assert node.stop() == 0
    bury(node, len(KINDS) * OLD, 86400.0)
    bury(node, len(KINDS) * EACH, 60.0, first=len(KINDS) * OLD)
    return node


def line_of(node: RunningNode, *args: str) -> list[str]:
    return [sys.executable, "-m", "spoolnode", *args, "-Q", str(node.spool)]


def rows(node: RunningNode, *args: str) -> list[dict[str, Any]]:
    done = node.command(*args, "--json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def ids(node: RunningNode, *args: str) -> Counter[str]:
    return Counter(row["id"] for row in rows(node, *args, "--limit", "0"))


def test_the_dead_are_counted_by_kind_function_and_reason(cemetery: RunningNode) -> None:
    total = OLD + EACH
    by_kind = [(row["tasks"], row["function"], row["error"]) for row in rows(cemetery, "dead", "ls", "--by", "kind")]
    assert by_kind == [
        (2 * total, "tasks:pay", "ConnectionError"),
        (total, "", ""),
        (total, "tasks:mail", "ConnectionError"),
        (total, "tasks:pay", "KeyError"),
    ]
    by_function = [(row["tasks"], row["function"]) for row in rows(cemetery, "dead", "ls", "--by", "function")]
    assert by_function == [(3 * total, "tasks:pay"), (total, ""), (total, "tasks:mail")]
    by_reason = {row["reason"]: row["tasks"] for row in rows(cemetery, "dead", "ls", "--by", "reason", "--since", "2h")}
    assert by_reason == Counter(reason for _, reason in KINDS * EACH)
    table = cemetery.command("dead", "ls", "--by", "function", "--reason", "KeyError", "--limit", "1").stdout.splitlines()
    titles, line = table
    assert titles.split() == ["TASKS", "FUNCTION", "FIRST", "LAST"]
    clock = r"(?:\d\d-\d\d \d\d:\d\d|\d\d:\d\d:\d\d|\d{4}-\d\d-\d\d)"
    assert re.fullmatch(rf"{total} +tasks:pay +{clock} \(1 d ago\) +{clock} \(1 min ago\)", line)


def test_a_moment_is_told_by_the_clock_and_by_its_age() -> None:
    now = datetime(2026, 11, 29, 14, 30).timestamp()  # noqa: DTZ001 - local time is what people see
    told = [moment_and_age(now - seconds, now) for seconds in (5, 3600, 86400, 400 * 86400)]
    assert told == ["14:29:55 (5.0 s ago)", "13:30:00 (1 h ago)", "11-28 14:30 (1 d ago)", "2025-10-25 (400 d ago)"]
    assert moment_and_age(None, now) == ""


def test_groups_that_are_not_shown_are_told(cemetery: RunningNode) -> None:
    done = cemetery.command("dead", "ls", "--by", "reason", "--limit", "1")
    assert done.stderr == f"only 1 of 4 groups are shown; {len(KINDS) * (OLD + EACH)} tasks in all\n"


def test_dead_ls_shows_those_that_are_chosen(cemetery: RunningNode) -> None:
    recent = rows(cemetery, "dead", "ls", "--function", "tasks:pay", "--reason", "refused by", "--since", "2h")
    assert Counter((row["function"], row["reason"]) for row in recent) == Counter(KINDS[:2] * EACH)
    assert {row["function"] for row in rows(cemetery, "dead", "ls", "--function", "")} == {""}
    nothing = cemetery.command("dead", "ls", "--function", "tasks:other")
    assert (nothing.stdout, nothing.stderr) == ("", "no such task is dead\n")


def test_one_kind_is_retried_and_the_rest_stays(cemetery: RunningNode) -> None:
    before = ids(cemetery, "dead", "ls")
    chosen = ("--function", "tasks:pay", "--reason", "ConnectionError")
    meant = ids(cemetery, "dead", "ls", *chosen)
    assert cemetery.command("dead", "retry", *chosen, "-y").stdout == f"{len(meant)} tasks are ready\n"
    assert ids(cemetery, "ls") == meant
    assert ids(cemetery, "dead", "ls") == before - meant
    assert cemetery.command("dead", "retry", *chosen, "-y", "--json").stdout == '{\n  "ready": 0\n}\n'
    assert cemetery.command("dead", "retry", "--function", "pay", "-y").stdout.startswith("no such task is dead; ")


def test_those_that_died_lately_are_removed_and_the_rest_stays(cemetery: RunningNode) -> None:
    done = cemetery.command("dead", "rm", "--since", "2h", "-y")
    assert done.stdout == f"{len(KINDS) * EACH} tasks removed\n"
    assert len(ids(cemetery, "dead", "ls")) == len(KINDS) * OLD
    assert rows(cemetery, "ls") == []


@pytest.mark.parametrize("verb", ["retry", "rm"])
def test_without_a_terminal_nothing_is_done_unless_it_is_confirmed(cemetery: RunningNode, verb: str) -> None:
    done = cemetery.command("dead", verb, "--function", "tasks:mail")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{OLD + EACH} dead tasks" in done.stderr
    assert "--yes" in done.stderr
    assert len(ids(cemetery, "dead", "ls")) == len(KINDS) * (OLD + EACH)


@pytest.mark.parametrize(("verb", "done"), [("retry", "are ready"), ("rm", "removed")])
def test_a_script_that_says_all_is_not_asked(cemetery: RunningNode, verb: str, done: str) -> None:
    assert cemetery.command("dead", verb, "--all").stdout == f"{len(KINDS) * (OLD + EACH)} tasks {done}\n"
    assert not ids(cemetery, "dead", "ls")


@pytest.mark.parametrize(("answer", "left"), [("n", len(KINDS) * (OLD + EACH)), ("y", (len(KINDS) - 1) * (OLD + EACH))])
def test_on_a_terminal_it_asks_with_the_number(cemetery: RunningNode, answer: str, left: int) -> None:
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        line = line_of(cemetery, "dead", "rm", "--function", "tasks:mail")
        done = subprocess.run(
            line, stdin=theirs, env=environment(), capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.stderr.startswith(f"Remove {OLD + EACH} dead tasks for good? [y/N]: ")
    assert len(ids(cemetery, "dead", "ls")) == left


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_slow_retry_that_is_interrupted_has_done_what_it_did_and_goes_on(cemetery: RunningNode, number: signal.Signals) -> None:
    everything = ids(cemetery, "dead", "ls")
    line = line_of(cemetery, "dead", "retry", "--all", "--rate", "1/h", "--yes")
    with subprocess.Popen(line, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as retrying:
        eventually(lambda: rows(cemetery, "ls"), "the first one is ready")
        retrying.send_signal(number)
        said = retrying.communicate(timeout=PATIENCE)[1]
    assert retrying.returncode == (1 if number == signal.SIGINT else -signal.SIGKILL)
    # The first one may be ready a moment before the command has heard that.
    wanted = rf"at least (0|1) of {len(everything)} tasks (is|are) ready; the same command goes on with the rest"
    assert number == signal.SIGKILL or re.search(wanted, said)
    assert len(ids(cemetery, "ls")) == 1, "an hour has not passed"
    assert ids(cemetery, "ls") + ids(cemetery, "dead", "ls") == everything
    assert cemetery.command("dead", "retry", "--all", "-y").stdout == f"{len(everything) - 1} tasks are ready\n"
    assert ids(cemetery, "ls") == everything


def test_a_node_that_is_killed_while_many_are_retried_has_each_task_once(node: RunningNode) -> None:
    node.start()
    bury(node, 1000, 60.0)
    everything = ids(node, "dead", "ls")
    line = line_of(node, "dead", "retry", "--all", "--yes")
    with subprocess.Popen(line, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        node.wait_for_log("retry_asked")
        node.kill9()
    node.start()
    assert ids(node, "ls") + ids(node, "dead", "ls") == everything
    assert node.command("dead", "retry", "--all", "-y").returncode == 0
    assert ids(node, "ls") == everything


def test_those_that_die_while_others_are_retried_are_not_retried_again(node: RunningNode) -> None:
    node.start(
        "--max-attempts",
        "1",
        app="from spoolnode import uwsgi\n\ndef run(task):\n    raise KeyError('again')\n\nuwsgi.spooler = run\n",
    )
    bury(node, 3, 60.0)
    assert node.command("dead", "retry", "--all", "--rate", "5/s", "-y").stdout == "3 tasks are ready\n"
    node.wait_for_log("dead", count=3)
    assert len(node.lines("retry_asked")) == 3


@pytest.mark.parametrize(("text", "per_second"), [("10/s", 10.0), ("90/m", 1.5), ("1.5/s", 1.5), ("3600/h", 1.0)])
def test_a_rate_is_a_number_in_a_unit_of_time(text: str, per_second: float) -> None:
    assert rate(text) == per_second


@pytest.mark.parametrize("text", ["10", "10/", "/s", "0/s", "-1/s", "inf/s", "nan/s", "10/d", "ten/s"])
def test_what_is_not_a_rate_is_one_sentence(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a rate: write a number per second"):
        rate(text)


@pytest.mark.parametrize("line", ["rm", "retry x_1 --all", "rm x_1 --function f", "rm --all --since 2h", "retry x_1 --rate 1/s"])
def test_tasks_are_named_in_one_way(tmp_path: Path, line: str) -> None:
    assert command("dead", *line.split(), "-Q", str(tmp_path)).returncode == 2
