"""`/api/v1` of a real node: each answer has the shape that `openapi.json` promises, and the table has the paths that it names."""

import http.client
import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from documents import blocks, page
from documents import table as rows_of
from support import PATIENCE, RunningNode, eventually
from watch import NOTES, Gate, wait_for_note

import spoolnode
from spoolnode.client.control import ControlError, ask
from spoolnode.node.control.routes import Route, description, table

ENDED = {"left": 0, "next": None, "missing": ""}
"""The rest of an answer about many dead tasks: no more are left."""
APP = (
    NOTES
    + """
from spoolnode import current_task, spool, timer

@spool(name="api.long", limit=1)
def long():
    current_task().progress(0.4, "page 4 of 10")
    note("runs")
    wait("door")

@spool(name="api.short")
def short():
    pass

@spool(name="api.pay")
def pay():
    raise ValueError("no such customer")

@spool(name="api.mail")
def mail():
    raise ConnectionRefusedError("no server")

@timer(3600)
def hourly():
    pass
"""
)
NO_HANDLERS: Any = type("NoHandlers", (), {"__getattr__": lambda self, name: name})()


@spoolnode.spool(name="api.long")
def long() -> None: ...


@spoolnode.spool(name="api.short")
def short() -> None: ...


@spoolnode.spool(name="api.pay")
def pay() -> None: ...


@spoolnode.spool(name="api.mail")
def mail() -> None: ...


def operations() -> dict[tuple[str, str], dict[str, Any]]:
    """The operations of the file, by method and path."""
    paths: dict[str, dict[str, Any]] = description()["paths"]
    return {(method.upper(), path): said for path, methods in paths.items() for method, said in methods.items()}


def test_the_file_is_openapi_and_its_operations_are_those_of_the_table() -> None:
    from openapi_spec_validator import validate

    validate(description())
    routes: list[Route] = table(*[NO_HANDLERS] * 5)
    said = operations()
    assert {(route.method, route.path): route.needs for route in routes} == {key: op["x-needs"] for key, op in said.items()}
    for route in routes:
        parameters = said[route.method, route.path].get("parameters", [])
        assert sorted(route.query) == sorted(each["name"] for each in parameters if each["in"] == "query"), route
        in_path = [f"{{{each['name']}}}" for each in parameters if each["in"] == "path"]
        assert sorted(in_path) == sorted(part for part in route.path.split("/") if part.startswith("{")), route


def test_the_page_has_each_operation_and_what_it_needs() -> None:
    rows = [row for row in rows_of(page("docs/api.md")) if row[1].startswith("`/") and len(row) == 4]
    listed = {(method, path.strip("`")): (needs, does.lower()) for method, path, needs, does in rows}
    assert listed == {key: (op["x-needs"], op["summary"].lower()) for key, op in operations().items()}


def test_the_line_of_the_page_prints_what_is_shown(node: RunningNode) -> None:
    node.start()
    line, shown = (block.text.strip() for block in blocks("docs/api.md", "Asking"))
    done = subprocess.run(line.split(), cwd=node.directory, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == shown


class Asked:
    """Asks a node, and compares each answer with the file."""

    def __init__(self, node: RunningNode) -> None:
        self._node = node
        self.seen: set[tuple[str, str]] = set()

    def __call__(self, method: str, path: str, query: str = "", **ids: str) -> Any:
        from jsonschema import Draft202012Validator

        answer = ask(str(self._node.spool), method, path.format(**ids) + query)
        content = operations()[method, path]["responses"]["200"]["content"]["application/json"]
        schema = {**content["schema"], "components": description()["components"]}
        Draft202012Validator(schema).validate(answer)
        self.seen.add((method, path))
        return answer


@pytest.fixture
def asked(node: RunningNode) -> Asked:
    return Asked(node)


def check_other_lists(asked: Asked) -> None:
    assert len(asked("GET", "/tasks", "?state=running,waiting,later,dead,outbox&limit=100")["items"]) == 10
    assert asked("GET", "/tasks", "?state=retrying")["items"] == []
    died = asked("GET", "/tasks", "?state=ended&error=ValueError&limit=2")
    assert [(row["end"], row["function"], row["reason"]) for row in died["items"]] == [
        ("dead", "api.pay", "ValueError: no such customer")
    ] * 2
    (last,) = asked("GET", "/tasks", f"?state=ended&error=ValueError&limit=2&cursor={died['next']}")["items"]
    assert last["id"] not in {row["id"] for row in died["items"]}


def check_numbers_of_the_cluster(asked: Asked) -> None:
    (here,) = asked("GET", "/cluster")["items"]
    assert (here["here"], here["state"], here["workers"], here["running"], here["dead"]) == (True, "up", 2, 1, 4)
    hour = asked("GET", "/history")
    assert [row["id"] for row in hour["nodes"]] == [here["id"]]
    assert {row["name"]: sum(filter(None, row["dead"])) for row in hour["functions"]} == {"api.pay": 3, "api.mail": 1}
    minutes = {row["name"]: [*filter(None, row["run_p95_seconds"])] for row in hour["functions"]}
    assert all(0 < length <= 60 for lengths in minutes.values() for length in lengths)
    assert minutes["api.pay"]
    (died,) = (row for row in asked("GET", "/warnings")["items"] if row["kind"] == "tasks_died")
    assert died["function"] == "api.pay"
    (pay_row,) = (row for row in asked("GET", "/functions")["items"] if row["name"] == "api.pay")
    assert pay_row["last_hour"]["dead"] == 3
    assert 0 < pay_row["last_hour"]["run_p50_seconds"] <= pay_row["last_hour"]["run_p95_seconds"]


def check_what_waits(asked: Asked) -> None:
    assert [(row["destination"], row["waiting"]) for row in asked("GET", "/links")["items"]] == [("beta", 1)]
    by_function, by_node = (asked("GET", "/ages", f"?by={by}")["items"] for by in ("function", "node"))
    assert [(row["function"], row["tasks"]) for row in by_function] == [("api.long", 3), ("api.mail", 2)]
    assert [(row["destination"], row["tasks"]) for row in by_node] == [(None, 4), ("beta", 1)]


@pytest.mark.on_disk("the numbers and lists of a disk; tests/store has those of a store")
def test_every_answer_has_the_shape_that_the_file_promises(node: RunningNode, gate: Callable[[str], Gate], asked: Asked) -> None:
    node.start("--workers", "2", "--max-attempts", "1", "--http", "127.0.0.1:0", app=APP)
    first = long.options(via=node.via).spool()
    wait_for_note(node, "runs")
    for _ in range(3):
        long.options(via=node.via).spool()
        pay.options(via=node.via).spool()
    waiting = mail.options(via=node.via, at=4e9).spool()
    mail.options(via=node.via).spool()
    for_beta = mail.options(via=node.via, node="beta").spool()
    eventually(lambda: asked("GET", "/node")["dead"] == 4, "they have died")
    assert asked("GET", "/openapi.json") == description()
    # looking
    assert asked("GET", "/nodes")["items"] == []
    check_numbers_of_the_cluster(asked)
    assert [row["name"] for row in asked("GET", "/timers")["items"]] == ["app:hourly"]
    assert [(row["function"], row["error"], row["tasks"]) for row in asked("GET", "/dead")["items"]] == [
        ("api.pay", "ValueError", 3),
        ("api.mail", "ConnectionRefusedError", 1),
    ]
    check_what_waits(asked)
    functions = {row["name"]: row for row in asked("GET", "/functions")["items"]}
    assert {name: (row["running"], row["dead"]) for name, row in functions.items()} == {
        "api.long": (1, 0),
        "api.pay": (0, 3),
        "api.mail": (0, 1),
    }
    assert functions["api.long"]["limit"] == {"at_once": 1, "starts_per_second": None}
    (running,) = asked("GET", "/tasks", "?state=running")["items"]
    assert (running["id"], running["progress_text"]) == (first, "page 4 of 10")
    assert [row["id"] for row in asked("GET", "/tasks", "?state=outbox")["items"]] == [for_beta]
    check_other_lists(asked)
    dead = asked("GET", "/tasks", "?state=dead&function=api.pay&error=ValueError")["items"]
    assert [row["reason"] for row in dead] == ["ValueError: no such customer"] * 3
    for identity, state in ((first, "running"), (waiting, "later"), (dead[0]["id"], "dead"), (for_beta, "outbox")):
        assert asked("GET", "/tasks/{id}", id=identity)["state"] == state
    # changing
    assert (
        asked("POST", "/pause", "?function=api.mail")
        == asked("GET", "/pauses")
        == {"everything": False, "functions": ["api.mail"]}
    )
    assert asked("POST", "/resume") == {"everything": False, "functions": []}
    change_tasks(asked, dead[0]["id"], waiting, for_beta)
    mail.options(via=node.via, node="beta").spool()
    assert [row["tried"] for row in asked("POST", "/flush")["items"]] == [False]
    assert asked("POST", "/accept", "?name=beta&id=0123456789ab")["name"] == "beta"
    assert asked("GET", "/forget", "?node=beta")["unsent"] == 1
    assert asked("POST", "/forget", "?node=beta&move_to=127.0.0.1:1")["moved"] == 1
    assert asked("POST", "/reload", "?wait_seconds=60")["outcome"] == "reloaded"
    assert asked("POST", "/settle")["left"] >= 0
    assert asked("POST", "/web-links")["url"].startswith("http://127.0.0.1:")
    assert asked("POST", "/drain")["outbox"] == 1
    gate("door").open()
    assert asked("POST", "/stop") == {"stopping": True}
    assert asked.seen == {key for key in operations() if "{node}" not in key[1]} - {("GET", "/events")}, (
        "each operation was asked"
    )


def change_tasks(asked: Asked, dead: str, waiting: str, for_beta: str) -> None:
    """Retries, removes and cancels what is there."""
    assert asked("POST", "/tasks/{id}/retry", id=dead)["destination"] is None
    eventually(lambda: asked("GET", "/dead")["items"][0]["tasks"] == 3, "it died again")
    assert asked("POST", "/dead/retry", "?function=api.mail&error=ConnectionRefusedError") == {"ready": 1, **ENDED}
    eventually(lambda: len(asked("GET", "/dead", "?by=reason&since_at=1e9")["items"]) == 2, "it died again")
    removed = [asked("DELETE", "/dead", f"?function=api.pay&{some}") for some in ("reason=no+such&limit=1", "until_at=4e9")]
    assert removed == [{"removed": 1, **ENDED, "left": 2}, {"removed": 2, **ENDED}]
    assert [row["function"] for row in asked("GET", "/dead")["items"]] == ["api.mail"], "the others stay"
    assert asked("DELETE", "/tasks/{id}", id=waiting)["id"] == waiting
    assert asked("GET", "/tasks/{id}", id=waiting)["state"] == "ended"
    assert asked("POST", "/tasks/{id}/cancel", "?by=me&grace_seconds=0.1", id=for_beta)["outcome"] == "cancelled"
    assert [row["error"] for row in asked("GET", "/dead")["items"]] == ["ConnectionRefusedError", "cancelled"]


def test_what_is_declined_is_a_problem_as_rfc_9457_has_it(node: RunningNode) -> None:
    from jsonschema import Draft202012Validator

    node.start()
    schema = {**description()["components"]["schemas"]["Problem"], "components": description()["components"]}
    for method, path, status in (
        ("GET", "/api/v1/tasks/0123456789ab_1_80", 404), ("GET", "/api/v1/tasks?limit=0", 400), ("POST", "/api/v1/reload", 409),
        ("GET", "/status", 404), ("POST", "/api/v1/node", 405),
    ):  # fmt: skip
        connection = http.client.HTTPConnection("node")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(node.spool / "control.sock"))
        connection.request(method, path)
        answer = connection.getresponse()
        content = json.loads(answer.read())
        connection.close()
        assert (answer.status, answer.headers["Content-Type"].partition(";")[0]) == (status, "application/problem+json"), path
        Draft202012Validator(schema).validate(content)
        assert content["status"] == status
    with pytest.raises(ControlError, match="there is no task"):
        ask(str(node.spool), "DELETE", "/tasks/0123456789ab_1_80")


def test_a_cursor_stays_right_while_tasks_come_and_go(node: RunningNode, asked: Asked) -> None:
    node.start()
    sent = [spoolnode.send_to_spooler({"n": str(n)}, via=node.via) for n in range(30)]
    got = asked("GET", "/tasks", "?limit=10")
    found = [row["id"] for row in got["items"]]
    ask(str(node.spool), "DELETE", f"/tasks/{found[-1]}")  # the one that the cursor names
    ask(str(node.spool), "DELETE", f"/tasks/{found[0]}")
    late = [spoolnode.send_to_spooler({"n": "late", "priority": str(priority)}, via=node.via) for priority in (1, 99)]
    while got["next"] is not None:
        got = asked("GET", "/tasks", f"?limit=10&cursor={got['next']}")
        found += [row["id"] for row in got["items"]]
    assert sorted(set(found) - set(late)) == sorted(sent)
    assert len(found) == len(set(found)), "none comes twice"


class Stream:
    """The events that a node sends to one client."""

    def __init__(self, node: RunningNode, query: str = "") -> None:
        self._connection = http.client.HTTPConnection("node", timeout=60)
        self._connection.sock = socket.socket(socket.AF_UNIX)
        self._connection.sock.connect(str(node.spool / "control.sock"))
        self._connection.request("GET", f"/api/v1/events{query}")
        self._answer = self._connection.getresponse()
        assert self._answer.headers["Content-Type"].startswith("text/event-stream")
        assert self._answer.readline() == b": from now on\n", "from here on nothing is missed"

    def until(self, event: str) -> list[dict[str, Any]]:
        """All events up to one of that name."""
        from jsonschema import Draft202012Validator

        schema = {**description()["components"]["schemas"]["Event"], "components": description()["components"]}
        found: list[dict[str, Any]] = []
        while not found or found[-1]["event"] != event:
            line = self._answer.readline().decode()
            if line.startswith("data: "):
                found.append(json.loads(line.removeprefix("data: ")))
                Draft202012Validator(schema).validate(found[-1])
        return found

    def rest(self) -> bytes:
        """What comes until the node ends the stream."""
        return b"".join(iter(self._answer.readline, b""))

    def close(self) -> None:
        self._connection.close()
        self._answer.close()


@pytest.fixture
def listen(node: RunningNode) -> Iterator[Callable[..., Stream]]:
    """Makes streams, which end with the test."""
    streams: list[Stream] = []

    def make(query: str = "") -> Stream:
        streams.append(Stream(node, query))
        return streams[-1]

    yield make
    for stream in streams:
        stream.close()


def test_events_tell_what_happens_to_the_tasks_that_are_asked_for(
    node: RunningNode, gate: Callable[[str], Gate], listen: Callable[..., Stream]
) -> None:
    node.start("--workers", "2", "--max-attempts", "1", app=APP)
    everything, of_pay, of_none = listen(), listen("?function=api.pay"), listen("?task=0123456789ab_1_1")
    first = long.options(via=node.via).spool()
    assert [event["event"] for event in everything.until("started") if event["id"] == first] == ["accepted", "started"]
    second = pay.options(via=node.via).spool()
    told = of_pay.until("dead")
    assert [(event["event"], event["id"]) for event in told if event["event"] != "started"] == [
        ("accepted", second), ("attempt", second), ("dead", second),
    ]  # fmt: skip
    assert {event["function"] for event in told} == {"api.pay"}
    assert told[-2]["reason"].startswith("ValueError: no such customer")
    gate("door").open()
    assert everything.until("done")[-1]["id"] == first
    assert node.stop() == 0, "listeners do not keep it"
    assert b"event" not in of_none.rest(), "another task's client has heard nothing"


def test_each_start_is_told_once_before_its_end_however_short_a_task_is_and_only_while_there_is_a_listener(
    node: RunningNode, listen: Callable[..., Stream]
) -> None:
    node.start("--workers", "2", "--max-attempts", "2", "--retry-base", "0.01", app=APP)
    for _ in range(2):  # the second listener comes when the first one has gone
        stream = listen("?function=api.short")
        sent = {short.options(via=node.via).spool() for _ in range(100)}
        told: dict[str, list[str]] = {identity: [] for identity in sent}
        while any("done" not in events for events in told.values()):
            for event in stream.until("done"):
                told[event["id"]].append(event["event"])
        assert {tuple(events) for events in told.values()} == {("accepted", "started", "done")}
        stream.close()
    of_pay = listen("?function=api.pay")
    pay.options(via=node.via).spool()
    assert [event["event"] for event in of_pay.until("dead")] == [
        "accepted", "started", "attempt", "started", "attempt", "dead",
    ]  # fmt: skip
    assert node.command("reload").returncode == 0
    of_short = listen("?function=api.short")
    short.options(via=node.via).spool()
    assert [event["event"] for event in of_short.until("done")] == ["accepted", "started", "done"], "by a new worker, too"


@pytest.mark.on_disk("it counts what waits on the disk")
def test_a_client_that_does_not_read_holds_up_nothing_and_is_told_what_it_missed(
    node: RunningNode, listen: Callable[..., Stream]
) -> None:
    node.start()
    stream = listen()
    spoolnode.send_many([{"n": "x" * 100}] * 60_000, via=node.via, send_timeout=PATIENCE)
    assert node.status()["total"] == 60_000
    lost = stream.until("lost")[-1]["events"]
    assert 0 < lost < 60_000
