"""`send` and `ping`."""

import json
import socket
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
from support import RunningNode, command

from spoolnode.cli.send import read_time

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("1764000000", 1764000000.0),
        ("1764000000.25", 1764000000.25),
        ("+90", NOW + 90),
        ("+90s", NOW + 90),
        ("+500ms", NOW + 0.5),
        ("+5m", NOW + 300),
        ("+2h", NOW + 7200),
        ("+1d", NOW + 86400),
        ("+0.5s", NOW + 0.5),
        ("2027-01-31T08:00:00Z", datetime(2027, 1, 31, 8, tzinfo=UTC).timestamp()),
        ("2027-01-31T08:00+02:00", datetime(2027, 1, 31, 6, tzinfo=UTC).timestamp()),
        ("2027-01-31 08:00", datetime(2027, 1, 31, 8).timestamp()),  # noqa: DTZ001 - local time is what it means
    ],
)
def test_times(text: str, when: float) -> None:
    assert read_time(text, NOW) == when


@pytest.mark.parametrize("text", ["", "soon", "+", "+soon", "+-5", "+5w", "5m", "-5", "2027-13-01", "1e9"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a time; write Unix seconds, ISO 8601"):
        read_time(text, NOW)


def test_sent_task_runs_and_its_id_is_printed(node: RunningNode, app: str) -> None:
    node.start(app=app)
    done = node.command("send", "name=Ada", "-j", 'value={"n": [1, 2.5, null]}', "--body", "-", stdin="0123456789")
    assert done.returncode == 0
    node.wait_for_log("print", id=done.stdout.strip(), text="ran Ada {'n': [1, 2.5, None]} 10")


def test_json_output_is_one_object_with_the_id(node: RunningNode) -> None:
    node.start()
    answer = json.loads(node.command("send", "name=Ada", "--json").stdout)
    assert list(answer) == ["id"]
    assert node.command("show", answer["id"]).returncode == 0


def test_every_option_is_kept_with_the_task(node: RunningNode, tmp_path: Path) -> None:
    node.start()
    (tmp_path / "data").write_bytes(b"x" * 300)
    options = ["--priority", "5", "--timeout", "2500ms", "--body", "data", "--key", "k", "--max-attempts", "7"]
    done = node.command("send", "a=b=c", "--at", "+1h", *options)
    task = json.loads(node.command("show", done.stdout.strip(), "--json").stdout)
    assert task["variables"]["a"] == "b=c"
    assert (task["priority"], task["state"], task["body_bytes"]) == (5, "later", 300)
    assert (task["spool_timeout"], task["spool_key"], task["spool_retry"]) == ("2.500000", "k", "7,,")
    assert task["due_at"] - task["accepted_at"] == pytest.approx(3600, abs=30)


def test_a_task_whose_key_waits_is_not_stored_again_and_that_is_said(node: RunningNode) -> None:
    node.start()
    first, second, third = (
        node.command("send", f"n={n}", "--at", "+1h", "--key", "k", *json) for n, json in enumerate([[], [], ["--json"]])
    )
    assert (first.returncode, second.returncode, first.stderr) == (0, 0, "")
    assert second.stdout == first.stdout
    assert second.stderr == "not stored: a task with the same key waits already\n"
    assert json.loads(third.stdout) == {"id": first.stdout.strip(), "copies": 0}


def test_task_for_another_node_waits_in_the_outbox(node: RunningNode) -> None:
    node.start()
    identity = node.command("send", "a=b", "--node", "beta").stdout.strip()
    (row,) = json.loads(node.command("ls", "--outbox", "--json").stdout)
    assert (row["id"], row["state"], row["destination"]) == (identity, "outbox", "beta")


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (["novalue"], 2, "'novalue' is not a name and a value; write it as name=value"),
        (["-j", "a={"], 2, "the value of 'a' is not JSON"),
        (["a=b", "--at", "soon"], 2, "'soon' is not a time"),
        (["a=b", "--timeout", "-1"], 2, "'-1' is not a length of time: write seconds, or a number with a unit, like 90,"),
        (["a=b", "--timeout", "0"], 2, "it must be more than 0"),
        (["a=b", "--key", "k" * 256], 2, "of at most 255 bytes, and has 256"),
        (["a=b", "--max-attempts", "256"], 2, "attempts (a whole number from 0 (no limit) to 255)"),
        (["a=b", "--max-attempts", "x"], 2, "'x' is not a valid whole number"),
        (["a=b", "--send-timeout", "5x"], 2, "'5x' is not a length of time"),
        (["a=b", "--send-timeout", "2d"], 2, "seconds, more than 0 and at most 86400"),
        (["a=b", "--priority", "high"], 2, "`priority` is 'high'; it must be a whole number from 0 to 9999999999"),
        (["a=b", "--priority", "-5"], 2, "`priority` is '-5'; it must be a whole number from 0 to 9999999999"),
        (["a=b", "--priority", "1.5"], 2, "`priority` is '1.5'; it must be a whole number from 0 to 9999999999"),
        (["a=b", "--body", "/nowhere"], 1, "the body '/nowhere' cannot be read: No such file or directory; nothing was sent"),
        (["spool_id=b"], 1, "'spool_id' is reserved"),
        ([], 2, "the task is empty; give it at least one KEY=VALUE"),
        (["a=1", "a=2"], 2, "'a' is given twice"),
        (["a=1", "-j", "a=2"], 2, "'a' is given twice"),
        (["at=5"], 2, "'at' has an option of its own: use --at"),
        (["-j", "priority=3"], 2, "'priority' has an option of its own: use --priority"),
        (["a=b", "--node", "../x"], 1, "node= is '../x'"),
        (["a=b", "--node", "10.0.0.2"], 1, "any or all: write 10.0.0.2:3031"),
        (["a=b", "--via", "host:x"], 2, "'host:x' has the port 'x'"),
        (["a=b", "--via", "/nowhere.sock"], 1, "/nowhere.sock: cannot connect: No such file or directory; nothing was stored"),
    ],
)
def test_what_cannot_be_sent_is_one_sentence(args: list[str], status: int, said: str) -> None:
    done = command("send", *args, SPOOLNODE_VIA="/nowhere.sock")
    assert done.returncode == status
    assert said in done.stderr.splitlines()[-1]
    assert done.stdout == ""


def test_no_answer_is_3_because_the_task_may_be_stored(tmp_path: Path) -> None:
    import threading

    from spoolnode.protocol.answer import status_pong

    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(status_pong({"name": "x"}))
                connection.recv(100)

        thread = threading.Thread(target=serve)
        thread.start()
        done = command("send", "a=b", "--via", f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    assert done.returncode == 3
    assert "the task may or may not have been stored" in done.stderr


# --- ping ---


def test_ping_says_who_is_there(node: RunningNode, app: str) -> None:
    node.start(app=app)
    done = node.command("ping", node.via)
    assert done.returncode == 0
    assert f"{node.via}: node testnode (" in done.stdout
    assert ") is running: 0 waiting, 0 running, 0 later, 0 dead" in done.stdout
    answer = json.loads(node.command("ping", "--json").stdout)
    assert (answer["kind"], answer["status"]["name"]) == ("spoolnode", "testnode")
    assert 0 < answer["plain"] < 5


def test_ping_understands_a_real_uwsgi_server() -> None:
    """Its four bytes, and the end of the connection, as measured on uWSGI 2.0.31."""
    import threading

    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in range(2):
                connection, _ = server.accept()
                with connection:
                    connection.recv(100)
                    connection.sendall(b"\x64\x00\x00\x01")

        thread = threading.Thread(target=serve)
        thread.start()
        done = command("ping", f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    assert done.returncode == 0
    assert "a uWSGI server" in done.stdout


@pytest.mark.parametrize(("answer", "said"), [(b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak uwsgi"), (b"", "closed the")])
def test_ping_of_something_else_is_1(answer: bytes, said: str) -> None:
    import threading

    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        done = command("ping", f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    assert done.returncode == 1
    assert said in done.stderr


def test_ping_of_nobody_is_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    done = command("ping", f"127.0.0.1:{port}")
    said = f"Error: 127.0.0.1:{port}: cannot connect: Connection refused: is a node running there (`spoolnode join`)?\n"
    assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.parametrize("via", ["eager:", "memory:"])
@pytest.mark.parametrize("line", [("send", "a=b"), ("ping",)])
def test_addresses_for_tests_are_refused_because_the_task_would_be_lost(line: tuple[str, ...], via: str) -> None:
    done = command(*line, SPOOLNODE_VIA=via)
    assert done.returncode == 2
    assert f"{via} is for the tests of an application" in done.stderr
