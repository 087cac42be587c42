"""`tail` of real nodes: what it shows, how it ends, and what it does when its node ends."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import PATIENCE, RunningNode, environment, eventually, whole_lines

from spoolnode.client.control import ask

CLOSED = "127.0.0.1:1"
"""An address where nothing listens."""
APP = """
from spoolnode import spool

@spool(name="tail.mail")
def mail(to):
    pass

@spool(name="tail.pay")
def pay():
    raise ValueError("no such customer")
"""


class Tail:
    """A `spoolnode tail` in a process of its own."""

    def __init__(self, node: RunningNode, directory: Path, *args: str) -> None:
        self._out, self._err = directory / "tail.out", directory / "tail.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "spoolnode", "tail", "-Q", str(node.spool), *args],
                stdout=out,
                stderr=err,
                env=environment(),
            )

    @property
    def lines(self) -> list[str]:
        return whole_lines(self._out)

    @property
    def said(self) -> str:
        """What it wrote to standard error."""
        return self._err.read_text()

    def follows(self, event: str, cause: Callable[[], object]) -> None:
        """Returns when it has shown that event. `cause` brings it about, again and again: nothing else tells that it listens."""
        before = len(self.lines)

        def shown() -> bool:
            cause()
            return any(event in line for line in self.lines[before:])

        eventually(shown, f"it shows {event}")

    def ended(self) -> int:
        return self.process.wait(PATIENCE)


@pytest.fixture
def tail(tmp_path: Path) -> Iterator[Callable[..., Tail]]:
    """Starts `spoolnode tail ARGS` of a node; it ends with the test."""
    tails: list[Tail] = []

    def start(node: RunningNode, *args: str) -> Tail:
        directory = tmp_path / f"tail{len(tails)}"
        directory.mkdir()
        tails.append(Tail(node, directory, *args))
        return tails[-1]

    yield start
    for one in tails:
        one.process.kill()
        one.process.wait(PATIENCE)


def call(node: RunningNode, *args: str) -> str:
    done = node.command("call", *args)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def pause(node: RunningNode, how: str = "pause") -> None:
    ask(str(node.spool), "POST", f"/{how}")


def test_everything_is_followed_until_ctrl_c_which_is_quiet(node: RunningNode, tail: Callable[..., Tail]) -> None:
    node.start("--max-attempts", "1", app=APP)
    following = tail(node)
    following.follows("accepted", lambda: call(node, "tail.mail", "Ada"))
    identity = call(node, "tail.pay")
    eventually(lambda: any(" dead " in line for line in following.lines), "it ends")
    of_it = [line.split() for line in following.lines if identity in line and " started " not in line]
    assert [words[1] for words in of_it] == ["accepted", "attempt", "dead"]
    assert {words[3] for words in of_it} == {"tail.pay"}
    assert " ".join(of_it[1]).endswith("ValueError: no such customer")
    following.process.send_signal(signal.SIGINT)
    assert (following.ended(), following.said) == (0, "")


def test_a_dead_task_that_is_retried_is_followed_under_the_name_of_its_function(
    node: RunningNode, tail: Callable[..., Tail]
) -> None:
    node.start("--max-attempts", "1", app=APP)
    identity = call(node, "tail.pay")
    node.wait_for_log("dead", id=identity)
    following = tail(node, "tail.pay")
    following.follows(" retried ", lambda: node.command("dead", "retry", identity))
    eventually(lambda: any(" dead " in line for line in following.lines), "and its end")


def test_of_one_function_nothing_else_is_shown_and_json_has_the_events_of_the_api(
    node: RunningNode, tail: Callable[..., Tail]
) -> None:
    from jsonschema import Draft202012Validator

    from spoolnode.node.control.routes import description

    node.start(app=APP)
    following = tail(node, "tail.mail", "--json")

    def both() -> None:
        call(node, "tail.pay")
        call(node, "tail.mail", "Ada")

    following.follows('"done"', both)
    events = [json.loads(line) for line in following.lines]
    schema = {**description()["components"]["schemas"]["Event"], "components": description()["components"]}
    for event in events:
        Draft202012Validator(schema).validate(event)
    assert {event["function"] for event in events} == {"tail.mail"}


@pytest.mark.parametrize(
    ("function", "arguments", "last", "status"), [("tail.mail", ["Ada"], "done", 0), ("tail.pay", [], "dead", 1)]
)
def test_of_one_task_it_ends_with_the_task_and_its_status_says_how(
    function: str, arguments: list[str], last: str, status: int, node: RunningNode, tail: Callable[..., Tail]
) -> None:
    node.start("--max-attempts", "1", app=APP)
    pause(node)
    identity = call(node, function, *arguments)
    following = tail(node, identity)
    pause(node, "resume")  # it may end before, or after, the command asks
    assert following.ended() == status
    assert following.lines[-1].split()[1:3] == [last, identity]
    after_its_end = tail(node, identity)
    assert after_its_end.ended() == status
    assert [line.split()[1] for line in after_its_end.lines][:: len(after_its_end.lines) - 1] == ["accepted", last]


def test_a_task_is_followed_to_another_node(
    make: Callable[[str], RunningNode], tail: Callable[..., Tail]
) -> None:  # fmt: skip
    alpha, beta = make("alpha"), make("beta")
    beta.start(app=APP)
    pause(beta)
    alpha.start("--discover", f"static://{beta.via}")
    eventually(lambda: [row["state"] for row in ask(str(alpha.spool), "GET", "/nodes")["items"]] == ["up"], "alpha sees beta")
    identity = call(alpha, "tail.mail", "Ada", "--node", "beta")
    following = tail(alpha, identity)
    eventually(lambda: any(" forwarded " in line for line in following.lines), "it has gone to beta")
    pause(beta, "resume")
    assert following.ended() == 0
    told = [line.split()[1] for line in following.lines]
    assert told.count("forwarded") == 1
    assert told[-2:] == ["accepted", "done"]


def test_a_restart_of_the_node_is_told_and_what_happens_later_is_shown(node: RunningNode, tail: Callable[..., Tail]) -> None:
    node.start(app=APP)
    identity = call(node, "tail.mail", "Ada", "--node", CLOSED)
    following, of_task = tail(node), tail(node, identity)
    following.follows("accepted", lambda: call(node, "tail.mail", "Ada"))
    of_task.follows("retried", lambda: node.command("retry", identity))
    node.kill9()
    eventually(lambda: "the node has ended; waiting" in following.said and "the node has ended" in of_task.said, "it says so")
    node.start(app=APP)
    eventually(lambda: "the node runs again" in following.said and "the node runs again" in of_task.said, "it comes back")
    following.follows("accepted", lambda: call(node, "tail.mail", "Ada"))
    assert node.command("cancel", identity).returncode == 0
    assert of_task.ended() == 1
    assert "cancelled by" in of_task.lines[-1]


def test_an_end_that_no_story_tells_is_unknown(node: RunningNode, tail: Callable[..., Tail]) -> None:
    node.start("--history", "0", app=APP)
    identity = call(node, "tail.mail", "Ada", "--node", CLOSED)
    following = tail(node, identity)
    following.follows("retried", lambda: node.command("retry", identity))
    node.kill9()
    eventually(lambda: "the node has ended" in following.said, "it waits")
    assert node.command("rm", identity).returncode == 0
    node.start("--history", "0", app=APP)
    assert following.ended() == 3
    assert "how is not known: no story of it is kept" in following.said


@pytest.mark.parametrize("args", [(), ("0123456789ab_1_80",)])
def test_a_task_or_a_node_that_is_not_there_is_one_sentence(args: tuple[str, ...], node: RunningNode) -> None:
    node.start()
    if not args:
        node.kill9()
    done = node.command("tail", *args)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        "Error: there is no task 0123456789ab_1_80 here" if args else "Error: no node runs on the spool"
    )
