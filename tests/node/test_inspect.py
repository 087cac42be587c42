"""Looking at a spool directory, with and without a running node: every task is shown where it lies, as what it is."""

import json
from collections.abc import Callable

import pytest

from spoolnode.node.spool import inspect
from spoolnode.node.spool.store import Store
from spoolnode.protocol import batch, names, spoolfile, values
from spoolnode.protocol.errors import BadPacket
from spoolnode.protocol.packet import encode_variables

NODE = "0123456789ab"
NUMBER = 1_700_000_000_000_000
NOW = 1.8e9
BLOCK = encode_variables([(b"a", b"b")])
Write = Callable[[str, bytes], None]
FIRST = batch.HEADER_SIZE + batch.RECORD_SIZE


@pytest.fixture
def spool(store: Store, write: Write) -> Store:
    """A task in every place and of every kind."""
    records = [
        batch.encode_record(NUMBER, BLOCK, b"", 1e9, 0.0, names.LAST),
        batch.encode_record(NUMBER, BLOCK, b"", 1e9 + 1, NOW + 5, 3),
        batch.encode_record(NUMBER, BLOCK, b"", 1e9 + 2, 0.0, names.LAST),
    ]
    write(store.layout.batch(NUMBER), batch.encode_header(NUMBER) + b"".join(records) + bytes(100))
    store.mark(NUMBER, [FIRST + 2 * len(records[0])])
    for directory in ("7", "outbox/beta", "junk"):
        store.disk.make_directory(store.layout.path(directory))
    for ref, mtime in (
        ("uwsgi_spoolfile_on_now", NOW - 9), ("7/uwsgi_spoolfile_on_ranked", NOW - 8), ("uwsgi_spoolfile_on_later", NOW + 9),
        ("dead/uwsgi_spoolfile_on_dead", NOW), ("outbox/beta/uwsgi_spoolfile_on_sent", NOW), ("notes", NOW), ("junk/x", NOW),
    ):  # fmt: skip
        write(store.layout.path(ref), spoolfile.head(BLOCK, attempts=2))
        store.disk.set_mtime(store.layout.path(ref), mtime)
    return store


def test_the_waiting_are_shown_in_the_order_in_which_they_run(spool: Store) -> None:
    found = list(inspect.in_order(inspect.waiting_tasks(spool, NOW)))
    assert [(info.id, info.state, info.priority, info.due) for info in found] == [
        ("ranked", "waiting", 7, None),
        (f"{NODE}_{NUMBER}_{FIRST}", "waiting", None, None),
        ("now", "waiting", None, None),
        (f"{NODE}_{NUMBER}_{FIRST + len(batch.encode_record(NUMBER, BLOCK, b'', 0, 0, 0))}", "later", 3, NOW + 5),
        ("later", "later", None, NOW + 9),
    ]
    assert list(inspect.in_order(inspect.waiting_tasks(spool, NOW), 2)) == found[:2]
    read = [inspect.with_attempts(spool, info) for info in found]
    assert {info.attempts for info in read if info is not None} == {0, 2}


def test_a_task_that_is_due_later_was_put_there_when_its_file_changed_and_not_when_it_is_due(
    spool: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat, entries = spool.disk.stat, spool.disk.entries
    monkeypatch.setattr(spool.disk, "stat", lambda path: stat(path)._replace(changed=NOW - 5))
    monkeypatch.setattr(spool.disk, "entries", lambda path: [entry._replace(changed=NOW - 5) for entry in entries(path)])
    changed = {info.id: info.changed for info in inspect.waiting_tasks(spool, NOW)}
    assert (changed["later"], changed["now"]) == (NOW - 5, NOW - 9)
    found = inspect.find_place(spool, "later", NOW)
    assert found is not None
    assert found[0].changed == NOW - 5


def test_the_dead_and_those_for_others_are_shown_apart(spool: Store) -> None:
    assert [(info.id, info.state, info.where) for info in inspect.dead_tasks(spool, NOW)] == [
        ("dead", "dead", "dead/uwsgi_spoolfile_on_dead")
    ]
    assert [(info.id, info.state, info.where) for info in inspect.outbox_tasks(spool, NOW)] == [
        ("sent", "outbox", "outbox/beta/uwsgi_spoolfile_on_sent")
    ]
    assert inspect.count_files(spool, "dead") == inspect.count_files(spool, "outbox/beta") == 1
    assert inspect.count_files(spool, "nothing") == 0


@pytest.mark.parametrize("identity", ["now", "ranked", "later", "dead", "sent", f"{NODE}_{NUMBER}_{FIRST}"])
def test_a_task_is_found_by_its_id_wherever_it_is(spool: Store, identity: str) -> None:
    found = inspect.find_place(spool, identity)
    assert found is not None
    assert found[0].id == identity
    assert inspect.contents(spool, found[1]) == {"variables": {"a": "b"}, "body_size": 0}


@pytest.mark.parametrize("identity", ["x", "notes", f"{NODE}_{NUMBER}_{FIRST + 1}", f"{NODE}_{NUMBER}_0", f"{NODE}_9_9"])
def test_what_is_nowhere_is_not_found(spool: Store, identity: str) -> None:
    assert inspect.find_place(spool, identity) is None


def test_whatever_a_task_carries_is_shown_as_json(store: Store, write: Write) -> None:
    typed = {"n": 1, "raw": b"\xff", "list": [b"\xfe", {"x": None}], "odd": {1: 2.5}}
    block = encode_variables(
        [(b"\xff", b"\xfe"), (names.VALUES, values.pack(typed)), (names.REASON, b"boom\xff"), (names.ATTEMPTS, b"3")]
    )
    write(store.layout.path("dead/uwsgi_spoolfile_on_x"), spoolfile.head(block) + b"\xff" * 300)
    found = inspect.find_place(store, "x")
    assert found is not None
    shown = json.loads(json.dumps(inspect.contents(store, found[1])))
    assert shown["variables"]["n"] == 1
    assert shown["variables"]["list"] == ["\\xfe", {"x": None}]
    assert shown["variables"]["\\xff" if "\\xff" in shown["variables"] else "\udcff"]
    assert (shown["body_size"], shown["spool_reason"], shown["spool_attempts"]) == (300, "boom\\xff", "3")


def test_what_cannot_be_read_is_said_to_be_so_and_does_not_hide_the_others(spool: Store, write: Write) -> None:
    write(spool.layout.path("uwsgi_spoolfile_on_short"), b"\x11\xff")
    found = inspect.find_place(spool, "short")
    assert found is not None
    with pytest.raises(BadPacket, match="2 bytes"):
        inspect.contents(spool, found[1])
    assert len(list(inspect.waiting_tasks(spool, NOW))) == 6


# -- tasks for others, and from others --


@pytest.fixture
def linked(store: Store, write: Write) -> Store:
    """A batch with a task for here, one for beta that is due later, one of `any` for a chosen node, and one from elsewhere."""
    arrived = [(b"a", b"b"), (names.ID, b"fedcba987654_1_2"), (names.ORIGIN, b"fedcba987654"), (names.TO, b"alpha")]
    records = [
        batch.encode_record(NUMBER, BLOCK, b"", 1e9, 0.0, names.LAST),
        batch.encode_record(
            NUMBER, encode_variables([(names.NODE, b"beta")]), b"", 1e9, NOW + 5, names.LAST, batch.Transit(batch.OUTBOUND, 7)
        ),
        batch.encode_record(
            NUMBER, encode_variables([(names.NODE, b"any"), (names.TO, b"fedcba987654")]), b"", 1e9, 0.0, 3,
            batch.Transit(batch.OUTBOUND, 8),
        ),
        batch.encode_record(NUMBER, encode_variables(arrived), b"", 1e9, 0.0, names.LAST, batch.Transit(batch.ARRIVED, 9)),
    ]  # fmt: skip
    write(store.layout.batch(NUMBER), batch.encode_header(NUMBER) + b"".join(records) + bytes(100))
    store.disk.make_directory(store.layout.path("outbox/gamma"))
    write(store.layout.path("outbox/gamma/uwsgi_spoolfile_on_x@10"), spoolfile.head(BLOCK))
    return store


def test_a_task_for_another_node_never_counts_as_waiting_for_this_one(linked: Store) -> None:
    assert [(info.state, info.destination) for info in inspect.waiting_tasks(linked, NOW)] == [("waiting", None)] * 2
    assert len(list(inspect.batch_tasks(linked, NOW))) == 2
    found = {info.destination: info for info in inspect.outbox_tasks(linked, NOW)}
    assert {to: (info.state, info.sequence_number) for to, info in found.items()} == {
        "beta": ("outbox", 7), "fedcba987654": ("outbox", 8), "gamma": ("outbox", 10),
    }  # fmt: skip
    for info in found.values():
        again = inspect.find_place(linked, info.id, NOW)
        assert again is not None
        assert again[0] == inspect.with_attempts(linked, info)
        assert again[0].attempts == 0, "none was sent"
        assert inspect.place_of(linked, info) == again[1]


@pytest.mark.parametrize("place", ["batch", "file", "dead", "outbox"])
def test_a_task_from_elsewhere_is_found_by_its_first_id(linked: Store, place: str) -> None:
    origin = "fedcba987654_1_2"
    info, where = inspect.find_arrived(linked, origin) or pytest.fail("it is there")
    if place != "batch":
        block = linked.block_at(where)
        linked.mark(NUMBER, [where.base])
        ref = {
            "file": "7/uwsgi_spoolfile_on_y",
            "dead": "dead/uwsgi_spoolfile_on_y",
            "outbox": "outbox/gamma/uwsgi_spoolfile_on_y@11",
        }
        linked.disk.make_directory(linked.layout.path("7"))
        linked.put(ref[place], [spoolfile.head(block)], None)
        info, where = inspect.find_arrived(linked, origin) or pytest.fail("it is there")
        assert (info.id, info.attempts) == ("y", 0)
    assert inspect.contents(linked, where)["spool_origin"] == "fedcba987654"
    assert inspect.find_arrived(linked, "fedcba987654_1") is None
    assert inspect.find_place(linked, origin) is None
