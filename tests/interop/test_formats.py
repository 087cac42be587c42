"""docs/wire-format.md and docs/disk-format.md are enough to write others from: `from_the_spec` talks to a real node, and reads
what it left. The numbers on the pages are those of the code.
"""

import ast
import json
import re
import socket
import sqlite3
import struct
import time
from pathlib import Path

import from_the_spec as spec
import msgpack
import pytest
from documents import page, section, table
from support import PATIENCE, RunningNode

from spoolnode.cluster import known, link, peer_status
from spoolnode.cluster.discovery import announcement
from spoolnode.cluster.timing import USUAL
from spoolnode.node.disk.layout import Layout
from spoolnode.node.ingress import admission, conversation, tls
from spoolnode.node.spool import files, group_commit, inbox, journal, reader, sequence
from spoolnode.node.spool import place as spool_place
from spoolnode.node.story import database, notes
from spoolnode.protocol import answer, batch, cancel, extension, fetch, forward, hello, names, operate, packet, spoolfile, values
from spoolnode.protocol.errors import Reason, Refused

WIRE, DISK = "docs/wire-format.md", "docs/disk-format.md"
APP = """
from datetime import date
from spoolnode import spool, uwsgi

@spool
def add(one, two=0, body=b""):
    print("add", one, two, len(body))
    return {"sum": int(one) + int(two), "day": date(2026, 11, 29)}

@spool
def fail():
    raise ValueError("no such thing")

def spooler(task):
    print("task", task.get("n"), len(task.get("body", b"")), task.get("spool_origin"))

uwsgi.spooler = spooler
"""
PEER = spec.Peer("aaaaaaaaaaaa", "from-the-spec", "default")


def rows(name: str, title: str) -> list[list[str]]:
    return [[cell.strip("`") for cell in row] for row in table(section(name, title))]


def numbers(name: str) -> dict[str, int]:
    return {what: int(value) for what, value in rows(name, "Numbers")}


# --- the wire ---


def test_a_client_from_the_page_enqueues_and_understands_the_answers(node: RunningNode) -> None:
    node.start("--workers", "1", app=APP)
    assert spec.ask_plainly(node.via, spec.TASK, {"n": "1"}) == bytes.fromhex("ff000001")
    assert spec.ask_plainly(node.via, spec.TASK, {"spool_x": "1"}) == bytes.fromhex("ff000000")
    assert spec.ask_plainly(node.via, spec.PING, {}) == bytes.fromhex("64000001")
    answered = spec.ask_plainly(node.via, spec.TASK, {"n": "2", "REQUEST_METHOD": "POST"})
    head, _, body = answered.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 202 ")
    assert f"X-Spool-Id: {json.loads(body)['id']}".encode() in head
    with spec.Client.to(node.via) as client:
        client.say(spec.TASK, {"n": "3", "spool_body": "5"}, body=b"hello")
        client.say(spec.TASK, {"n": "4", "at": "soon"}, body=b"")
        client.say(spec.TASK, {"spool_func": "app:add", "one": "1", "spool_keep": "1"})
        stored, refused, third = client.hear(), client.hear(), client.hear()
        assert (stored.modifier1, stored.modifier2) == (spec.ANSWER, spec.STORED)
        assert re.fullmatch("[A-Za-z0-9._:@%-]{1,236}", stored.variables["spool_id"].decode())
        assert (refused.modifier1, refused.modifier2) == (spec.ANSWER, spec.REFUSED)
        assert refused.variables["spool_reason"] == b"MALFORMED"
        identity = third.variables["spool_id"].decode()
        result = msgpack.unpackb(client.fetch("spool_result", identity))["result"]
        assert result["sum"] == 1
        assert result["day"] == msgpack.ExtType(2, b"2026-11-29")
        about = msgpack.unpackb(client.fetch("spool_task", identity))
        assert (about["state"], "kept" in about) == ("done", True)
        assert json.loads(client.fetch("spool_story", identity))
        assert client.ask(spec.PING, {}).modifier1 == spec.PING
    node.wait_for_log("print", text="task 3 5 None")


@pytest.mark.on_disk("the answer to a duplicate has an id that stands for nothing")
def test_a_client_from_the_page_cancels_a_task_and_sends_typed_values_and_keys(node: RunningNode) -> None:
    node.start("--workers", "1", app=APP)
    later = f"{int(time.time()) + 3600}"
    with spec.Client.to(node.via) as client:
        first, second = (client.ask(spec.TASK, {"at": later, "spool_key": "k", "n": n}).variables for n in "12")
        assert second["spool_id"] == first["spool_id"]
        assert second["spool_copies"] == b"0"
        said: spec.Variables = {"spool_cancel": first["spool_id"], "spool_by": "me", "spool_grace": "0"}
        cancelled = client.ask(spec.TASK, said | {"spool_wait": "10", "spool_follow": "8"})
        assert (cancelled.modifier1, cancelled.modifier2) == (spec.ANSWER, spec.CANCELLED)
        assert cancelled.variables["spool_outcome"] == b"cancelled"
        typed: bytes = msgpack.packb({"args": [1], "kwargs": {"two": 2}})
        assert client.ask(spec.TASK, {"spool_func": "app:add", "spool_values": typed}).modifier2 == spec.STORED
    node.wait_for_log("print", text="add 1 2 0")


@pytest.mark.on_disk("a task keeps the id of its first node")
@pytest.mark.parametrize("key", [None, spec.Key(bytes(range(32)))])
def test_a_peer_from_the_page_hands_a_task_over_once(node: RunningNode, key: spec.Key | None) -> None:
    node.start("--workers", "1", app=APP)
    peer = spec.Peer(PEER.id, PEER.name, PEER.cluster, key)
    number, later = spec.number_of(int(time.time()), 7), spec.number_of(int(time.time()), 8)
    task: spec.Variables = {"n": "1", "spool_node": node.name, "spool_id": "aaaaaaaaaaaa_1_72", "spool_seq": str(number)}
    with peer.link(node.via, node.name, floor=number) as link:
        given = link.ask(spec.TASK, task | {"spool_body": "5"}, b"hello")
        assert given.variables["spool_id"].decode().startswith((node.spool / "node.id").read_text().strip())
        assert link.ask(spec.TASK, task | {"spool_body": "5"}, b"hello").variables == {"spool_id": b"known"}
        assert link.ask(spec.TASK, {"n": "2"}).variables["spool_reason"] == b"MALFORMED"
    with peer.link(node.via, node.name, floor=later) as link:  # also on the next link
        repeated = link.ask(spec.TASK, task).variables
        assert repeated["spool_id" if key is None else "spool_reason"] == (b"known" if key is None else b"CONFLICT")
        assert link.ask(spec.TASK, task | {"n": "3", "spool_seq": str(later)}).modifier2 == spec.STORED
    node.wait_for_log("print", text="task 1 5")
    node.wait_for_log("print", text="task 3 0")
    assert len(node.lines("print", text="task 1")) == 1


def test_a_node_gives_an_id_only_to_the_key_that_proved_it_first(node: RunningNode) -> None:
    node.start()
    first, second = (spec.Peer(PEER.id, PEER.name, PEER.cluster, spec.Key(bytes([n] * 32))) for n in (1, 2))
    with spec.Client.to(node.via) as client:
        said = first.hello(node.name) | {"spool_public": spec.Key(bytes([1] * 32)).public, "spool_nonce": "0" * 32}
        said |= {"spool_proof": "0" * 64}
        assert client.ask(spec.PING, said).variables["spool_reason"] == b"FORBIDDEN"
    first.link(node.via, node.name).sock.close()
    second.link(node.via, node.name).sock.close()


@pytest.mark.on_disk("a task for another node goes through the store, and is not handed on")
def test_a_peer_from_the_page_takes_a_task(node: RunningNode) -> None:
    node.start()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        here = f"127.0.0.1:{listener.getsockname()[1]}"
        with spec.Client.to(node.via) as client:
            sent = client.ask(spec.TASK, {"n": "1", "spool_node": here, "spool_body": "5"}, b"hello").variables["spool_id"]
        with spec.Client(listener.accept()[0]) as link:
            ((said, body),) = PEER.serve(link, 1)
    assert (said["n"], said["spool_id"], said["spool_node"], body) == (b"1", sent, here.encode(), b"hello")
    assert int(said["spool_seq"]) >> 32 <= time.time()


WIRE_NUMBERS = {
    "largest block": packet.MAX_BLOCK,
    "largest block on a link": packet.MAX_BLOCK - forward.RECEIVER_ROOM,
    "largest block of a client's task for another node": packet.MAX_BLOCK - forward.LINK_ROOM,
    "longest id, characters": names.LONGEST_ID,
    "longest key, bytes": names.LONGEST_KEY,
    "levels of lists and maps, of sets and tuples": values.MAX_DEPTH,
    "version of the protocol between nodes": hello.PROTOCOL,
    "largest number of a task": names.MAX_NUMBER,
    "bits of a number within a run": sequence.RUN_BITS,
    "seconds that a floor may be ahead": sequence.WATERMARK_AHEAD,
    "hops after which a task stays": names.MAX_HOPS,
    "tasks under way on a link": link.WINDOW,
    "bytes under way on a link": link.WINDOW_BYTES,
    "seconds that a link waits for an answer": USUAL.answer,
    "body of a refused request that is read and dropped": conversation.MAX_DROPPED,
    "largest kept result, bytes": fetch.MAX_RESULT,
    "largest piece of an answer, bytes": fetch.PIECE,
    "longest wait of a question, seconds": fetch.MOST_WAIT,
    "longest grace, seconds": cancel.LONGEST_GRACE,
    "largest answer to an operator's request, bytes": operate.MOST_ANSWER,
    "longest path or query of an operator's request": operate.MOST_ASKED,
    "nodes that a request to cancel follows": cancel.MOST_NODES,
    "longest sentence of a refusal, bytes": answer._MAX_TEXT,
    "addresses in a hello": hello.MOST_ADDRESSES,
    "tags of a node that are read": peer_status.MOST_TAGS,
    "seconds in `Retry-After`": answer.RETRY_AFTER,
}


def test_the_numbers_of_the_wire_are_those_of_the_code() -> None:
    assert numbers(WIRE) == {what.strip("`"): value for what, value in WIRE_NUMBERS.items()}
    written = {int(number.replace(",", "")) for number in re.findall(r"(?<![{\d])\d{1,3}(?:,\d{3})+\b", page(WIRE))}
    assert written <= set(WIRE_NUMBERS.values())
    assert extension.MOST_NESTED == values.MAX_DEPTH


def test_the_names_of_the_wire_are_those_of_the_code() -> None:
    assert {row[0] for row in rows(WIRE, "Variables of a task")} >= {name.decode() for name in names.FROM_CLIENTS}
    said = {
        name.decode() for name, _ in packet.decode_variables(hello.encode(hello.Hello("a", "b", "c", public="d", nonce="e"))[4:])
    }
    between = rows(WIRE, "Between nodes")
    assert {row[0] for row in between} >= said | {name.decode() for name in names.FROM_PEERS - names.FROM_CLIENTS}
    fates = {"never": link.Fate.NEVER, "later": link.Fate.LATER}
    listed = {Reason[name]: (int(status), fates[fate]) for name, status, fate in rows(WIRE, "Refusals")}
    assert listed == {reason: (reason.value, link.fate_of(Refused(reason, ""))) for reason in Reason}
    assert {row[0] for row in rows(WIRE, "Cancelling")} >= {outcome.value for outcome in cancel.CancelOutcome}
    asked = " ".join(cell for row in rows(WIRE, "Questions about tasks") for cell in row)
    assert all(f"`{kind}`" in asked for kind in fetch.KINDS)
    assert announcement.SERVICE in page(WIRE)
    assert tls.NO_TLS.hex(" ") in page(WIRE)


FORMS = {
    "at": names._AT, "priority": names._PRIORITY, "spool_timeout": names._TIMEOUT, "spool_body": names._LENGTH,
    "spool_seq": names._NUMBER, "spool_hops": names._HOPS, "spool_due": names._DUE, "spool_id": names._TASK_ID,
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_each_form_on_the_page_is_the_pattern_of_the_code(name: str) -> None:
    pattern = FORMS[name].pattern
    assert f"`{pattern.decode() if isinstance(pattern, bytes) else pattern}`" in page(WIRE)


# --- the disk ---


@pytest.mark.on_disk("it reads the disk")
def test_a_reader_from_the_page_understands_what_a_node_left(node: RunningNode) -> None:
    node.start("--workers", "1", app=APP)
    soon = int(time.time()) + 3600
    with spec.Client.to(node.via) as client:

        def send(count: int = 1, body: bytes = b"", **said: str) -> None:
            length: spec.Variables = {"spool_body": str(len(body))} if body else {}
            for _ in range(count):
                client.say(spec.TASK, {**said, **length}, body)

        # One behind the other, so that one batch has them all, and stays: it has too many that wait.
        send(5, n="now")
        send(70, n="7", at=f"{soon}", priority="5", spool_func="app:add")
        send(n="away", spool_node="nowhere", body=b"hello")
        send(spool_func="app:fail", spool_retry="1,,")
        send(spool_func="app:add", one="1", spool_keep="1")
        send(n="large", at=f"{soon}", body=b"x" * 200_000)
        ids = [client.hear().variables["spool_id"].decode() for _ in range(79)]
    done, later, (away, dead, kept, large) = ids[:5], ids[5:75], ids[75:]
    node.wait_for_log("print", text="add 1 0 0")
    node.wait_for_log("dead", id=dead)
    spool = spec.Spool(node.spool)
    records = {task.id: task for task in spool.records()}
    assert {records[one].state for one in [*done, dead, kept]} == {spec.FINISHED}
    waiting = records[later[7]]
    assert (waiting.is_waiting, waiting.due, waiting.rank, waiting.function) == (True, soon, 5, "app:add")
    assert waiting.variables["n"] == b"7"
    assert soon - 4000 < waiting.accepted < soon
    assert (records[done[0]].function, records[done[0]].rank) == ("", spec.NO_PRIORITY)
    assert (records[away].kind, records[away].number >> 32, records[away].body) == (
        spec.OUTBOUND,
        spool.small("links")["run"],
        b"hello",
    )
    assert spec.task_at(spool.files()[large]).body == b"x" * 200_000
    assert spool.files()[large].stat().st_mtime == soon
    given_up = spec.task_at(spool.files("dead")[dead]).variables
    assert given_up["spool_attempts"] == b"1"
    assert b"no such thing" in given_up["spool_reason"]
    assert msgpack.unpackb((node.spool / "results" / kept).read_bytes())["result"]["sum"] == 1

    assert node.command("settle").returncode == 0
    assert not [task for task in spool.records() if task.is_waiting]
    assert spool.files("5").keys() == set(later)
    outbox = spool.files("outbox/nowhere")[away]
    assert outbox.name.partition("@")[2] == str(records[away].number)
    assert spec.task_at(outbox).attempts == 0
    assert node.stop() == 0
    assert spool.small("links")["clean"] is True
    with sqlite3.connect(node.spool / "story.db") as story:
        assert story.execute("PRAGMA user_version").fetchone() == (numbers(DISK)["user_version` of `story.db"],)
        key, _, offset = dead.rpartition("_")
        rows = story.execute("SELECT kind, offsets FROM happened WHERE key = ? ORDER BY number", (key,)).fetchall()
    kinds = [kind for kind, offsets in rows if int(offset) in struct.unpack(f"<{len(offsets) // 4}I", offsets)]
    assert (kinds[0], kinds[-1]) == ("accepted", "dead")


@pytest.mark.on_disk("it reads the disk")
def test_a_reader_from_the_page_knows_which_numbers_were_taken(node: RunningNode) -> None:
    node.start("--workers", "1", app=APP)
    key, number = spec.Key(bytes([3] * 32)), spec.number_of(int(time.time()), 7)
    task: spec.Variables = {"n": "1", "spool_node": node.name, "spool_id": "aaaaaaaaaaaa_1_72", "spool_seq": str(number)}
    with spec.Peer(PEER.id, PEER.name, PEER.cluster, key).link(node.via, node.name) as link:
        assert link.ask(spec.TASK, task).modifier2 == spec.STORED
        large: spec.Variables = {"spool_seq": str(number + 1), "spool_id": "aaaaaaaaaaaa_1_144", "spool_body": "200000"}
        assert link.ask(spec.TASK, task | large, b"x" * 200_000).modifier2 == spec.STORED
        spool, sender = spec.Spool(node.spool), f"{PEER.id}/{key.fingerprint}"
        taken = {(sender, node.name, number), (sender, node.name, number + 1)}
        assert spool.taken() == taken
    node.stop()
    assert spool.taken() == taken


@pytest.mark.parametrize("version", [2, 3])
def test_a_node_runs_the_tasks_of_a_batch_written_from_the_page(node: RunningNode, version: int) -> None:
    node.start("--workers", "1", app=APP)
    node.stop()
    number = int(time.time() * 1_000_000)
    spec.write_batch(node.spool, number, [{"n": "1"}, {"spool_func": "app:add", "one": "2"}], version)
    assert [task.variables.get("n") for task in spec.Spool(node.spool).records()] == [b"1", None]
    node.start("--workers", "1", app=APP)
    node.wait_for_log("print", text="task 1 0", id=f"{spec.Spool(node.spool).node_id}_{number}_80")
    node.wait_for_log("print", text="add 2 0 0")
    assert not node.lines("quarantined")


def test_a_node_runs_a_spool_file_written_from_the_page(node: RunningNode) -> None:
    node.start("--workers", "1", app=APP)
    spec.put_task(node.spool, "from_the_spec_1", {"n": "1"}, b"hello")
    node.wait_for_log("print", text="task 1 5", id="from_the_spec_1")


def test_a_node_does_with_unknown_versions_what_the_page_says(node: RunningNode) -> None:
    node.start()
    node.stop()
    newer: dict[str, dict[str, object]] = {
        "taken": {"taken": []}, "links": {"run": 1}, "timers": {"runs": {}},
        "known": {"names": {}, "holders": {}, "certificates": {}, "rivals": {}},
    }  # fmt: skip
    for name, content in newer.items():
        (node.spool / name).write_bytes(msgpack.packb({"version": 2, **content}))
    spec.write_batch(node.spool, 1, [{"n": "1"}], version=4)
    node.start()
    assert {path.name for path in (node.spool / "corrupt").iterdir()} == {"taken", "links"}
    assert (node.spool / "incoming" / "1.batch").exists()
    node.wait_for_log("known_damaged")
    node.wait_for_log("timers_damaged")


DISK_NUMBERS = {
    "size of a batch": group_commit.BATCH_SIZE,
    "size of its header": batch.HEADER_SIZE,
    "size of a record before its payload": batch.RECORD_SIZE,
    "alignment of records": batch.ALIGN,
    "version of a batch": batch.VERSION,
    "largest body in a batch": group_commit.INLINE_BODY,
    "seconds that a batch takes tasks": group_commit.BATCH_SECONDS,
    "seconds until its tasks get files": journal.SETTLE_AFTER,
    "most tasks of a batch that get files": journal.SETTLE_AT_MOST,
    "rank without a priority": names.LAST,
    "longest id, characters": names.LONGEST_ID,
    "most attempts that are counted": spoolfile.MAX_ATTEMPTS,
    "seconds between two scans": inbox.SCAN_SECONDS,
    "seconds that a file found by a scan is left alone": files.UNSURE_SECONDS,
    "longest reason, bytes": spool_place.MAX_REASON,
    "intervals of a link in `taken`": sequence.MOST_GAPS,
    "links in `taken`": admission.MOST_LINKS,
    "names and ids in `known`": known.MOST,
    "largest file of the node, bytes": reader.LARGEST_OWN,
    "`user_version` of `story.db`": database.FORM,
}


def test_the_numbers_of_the_disk_are_those_of_the_code() -> None:
    assert numbers(DISK) == {what.strip("`"): value for what, value in DISK_NUMBERS.items()}
    header, record = (
        [(int(row[0]), int(row[1])) for row in rows(DISK, "Batches") if row[0].isdigit() and row[1].isdigit()][part]
        for part in (slice(0, 7), slice(7, None))
    )
    for fields, size in ((header, batch.HEADER_SIZE), (record, batch.RECORD_SIZE)):
        ends = [at + width for at, width in fields]
        assert [at for at, _ in fields] == [0, *ends[:-1]]
        assert ends[-1] == size
    states = {row[0]: row[1] for row in rows(DISK, "Spool files")}
    assert states[f"{spoolfile.FINISHED:02x}"].startswith("finished")
    assert states[f"{spoolfile.VOID:02x}"].startswith("void")
    assert batch._READABLE == (2, 3)


def test_the_paths_of_the_page_are_those_of_the_layout() -> None:
    said = " ".join(row[0] for row in table(section(DISK, "The directory")))
    places = {name: getattr(Layout("/s"), name) for name, item in vars(Layout).items() if isinstance(item, property)}
    del places["directories"]
    assert not [path for path in places.values() if not re.search(rf"`{re.escape(path.removeprefix('/s/'))}[`/]", said)]
    columns = {name.strip("`") for row in rows(DISK, "Results and stories") for name in row[0].split(", ")}
    assert columns == {*notes.Row._fields, "number"}


def test_the_reader_from_the_pages_shares_no_code_with_us() -> None:
    tree = ast.parse(Path(spec.__file__).read_text())
    imported = [ast.unparse(item) for item in ast.walk(tree) if isinstance(item, ast.Import | ast.ImportFrom)]
    assert not [line for line in imported if "spoolnode" in line]
