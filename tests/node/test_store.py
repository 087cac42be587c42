"""Every move of a task on disk, on both disks; and on the fake one, every call of every move failing."""

import contextlib
import errno
import os
from collections.abc import Callable

import pytest

from spoolnode.node.disk.disk import Disk
from spoolnode.node.disk.fakes import FakeDisk
from spoolnode.node.disk.layout import Layout, outbox_ref
from spoolnode.node.outbox.revival import destination_again
from spoolnode.node.spool import inspect
from spoolnode.node.spool.place import IN_FILES, InBatch, Place
from spoolnode.node.spool.reader import Location, Progress
from spoolnode.node.spool.store import Store
from spoolnode.protocol import batch, names, spoolfile
from spoolnode.protocol.forward import LINK_ROOM, undeliverable, undelivered
from spoolnode.protocol.packet import MAX_BLOCK, encode_variables

NODE = "0123456789ab"
NUMBER = 1_700_000_000_000_000
BATCH = InBatch(NUMBER)
Write = Callable[[str, bytes], None]
Task = tuple[str, bytes, float, int]


def make_batch(store: Store, tasks: list[Task]) -> list[int]:
    """A batch with tasks as (name, body, due, rank); their offsets."""
    data, offsets = bytearray(batch.encode_header(NUMBER)), []
    for name, body, due, rank in tasks:
        offsets.append(len(data) + batch.RECORD_SIZE)
        data += batch.encode_record(NUMBER, encode_variables([(b"n", name.encode())]), body, 1e9, due, rank)
    descriptor = store.disk.create(store.layout.batch(NUMBER))
    store.disk.allocate(descriptor, 64 << 10)
    store.disk.write(descriptor, bytes(data), 0)
    store.disk.sync(descriptor)
    store.disk.close(descriptor)
    store.disk.sync_directory(store.layout.incoming)
    return offsets


def task(name: str = "a", *, body: bytes = b"", due: float = 0.0, rank: int = names.LAST) -> Task:
    return name, body, due, rank


def ref_of(offset: int, rank: int | None = None) -> str:
    name = names.file_name(names.id_of_record(NODE, NUMBER, offset))
    return name if rank is None else f"{rank}/{name}"


def read(store: Store, ref: str) -> spoolfile.SpoolFile:
    return inspect.read_file(store, Location(store.layout.path(ref)))


def listing(store: Store, directory: str = "") -> list[str]:
    entries = store.disk.entries(store.layout.path(directory))
    return sorted(entry.name for entry in entries if entry.name.startswith(names.SPOOL_PREFIX))


def spool_file(*variables: tuple[bytes, bytes], body: bytes = b"", attempts: int = 0) -> bytes:
    return spoolfile.head(encode_variables(variables), attempts) + body


# -- marks --


def test_progress_is_read_and_written_in_place(store: Store, write: Write) -> None:
    first, second = make_batch(store, [task(), task()])
    write(store.layout.path("uwsgi_spoolfile_on_x"), spool_file((b"a", b"b")))
    store.mark(NUMBER, [first])
    BATCH.set_attempts(store, second, 7)
    IN_FILES.set_attempts(store, "uwsgi_spoolfile_on_x", 1000)
    assert store.progresses(store.layout.batch(NUMBER), [first, second]) == {
        first: Progress(spoolfile.FINISHED, 0),
        second: Progress(spoolfile.WAITING, 7),
    }
    assert BATCH.progress(store, second) == Progress(spoolfile.WAITING, 7)
    assert IN_FILES.progress(store, "uwsgi_spoolfile_on_x") == Progress(spoolfile.WAITING, spoolfile.MAX_ATTEMPTS)


def test_only_a_task_that_waits_is_finished_by_hand_and_no_other_byte_is_touched(store: Store) -> None:
    first, second = make_batch(store, [task(), task()])
    before = store.contents(store.layout.batch(NUMBER))
    for offset in (0, 1, first + 1, second - 1, 1 << 20):
        assert not BATCH.remove(store, offset)
    assert store.contents(store.layout.batch(NUMBER)) == before
    assert BATCH.remove(store, first)
    assert not BATCH.remove(store, first)
    assert [record.state for record in store.records(NUMBER)] == [spoolfile.FINISHED, spoolfile.WAITING]


def test_syncing_what_is_gone_is_no_error(store: Store) -> None:
    store.sync_marks([1, 2], [store.layout.path("5"), store.layout.root])


def test_a_sync_that_fails_keeps_no_other_from_it() -> None:
    disk = FakeDisk()
    store = fake_store(disk)
    make_batch(store, [task()])
    store.put("uwsgi_spoolfile_on_x", [spool_file((b"a", b"b"))], None)
    disk.unlink(store.layout.path("uwsgi_spoolfile_on_x"))
    disk.fail_at(2, errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        store.sync_marks([NUMBER], [store.layout.root])
    disk.crash()
    assert listing(store) == []


# -- settle --


def test_settling_gives_each_waiting_task_a_file_of_its_own(store: Store) -> None:
    plain, ranked, later, in_flight, void, done = make_batch(
        store,
        [task("plain", body=b"b" * 3000), task("ranked", rank=3), task("later"), task("f"), task("v"), task("d")],
    )
    BATCH.set_attempts(store, later, 2)
    store.mark(NUMBER, [done])
    moved = BATCH.settle(store, {in_flight}, {void}, {later: 2e9})
    assert moved == {plain: ref_of(plain), ranked: ref_of(ranked, 3), later: ref_of(later)}
    assert read(store, ref_of(plain)) == (spoolfile.WAITING, 0, [(b"n", b"plain")], b"b" * 3000)
    assert read(store, ref_of(ranked, 3)).variables == [(b"n", b"ranked")]
    assert read(store, ref_of(later)).attempts == 2
    assert store.disk.stat(store.layout.path(ref_of(plain))).mtime == 1e9
    assert store.disk.stat(store.layout.path(ref_of(later))).mtime == 2e9
    waiting = [record.offset for record in store.records(NUMBER) if record.state == spoolfile.WAITING]
    assert waiting == [in_flight]
    assert listing(store, "tmp") == []


def test_settling_again_moves_nothing_again(store: Store) -> None:
    (offset,) = make_batch(store, [task()])
    assert BATCH.settle(store, set(), set(), {}) == {offset: ref_of(offset)}
    assert BATCH.settle(store, set(), set(), {}) == {}


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_settlement_that_fails_at_any_call_leaves_no_task_in_two_places_for_the_running_node(error: int) -> None:
    tasks = [task("a"), task("b", rank=4), task("c", body=b"x" * 2000)]
    for call in range(1, 60):
        disk = FakeDisk(call)
        store = fake_store(disk)
        offsets = make_batch(store, tasks)
        disk.fail_at(call, error)
        try:
            moved = BATCH.settle(store, set(), set(), {})
        except OSError:
            moved = {}
        disk.heal()
        files = {*listing(store), *(f"4/{name}" for name in listing(store, "4"))}
        assert files == set(moved.values())
        waiting = {record.offset for record in store.records(NUMBER) if record.state == spoolfile.WAITING}
        assert waiting == set(offsets) - set(moved)
        assert listing(store, "tmp") == []
        assert not disk.open_files


def test_a_task_that_was_made_ready_by_hand_stays_ready_when_it_settles(store: Store) -> None:
    (offset,) = make_batch(store, [task(due=4e9)])
    BATCH.settle(store, set(), set(), {})  # nothing is due later
    assert store.disk.stat(store.layout.path(ref_of(offset))).mtime == 1e9


def test_a_settled_task_survives_every_power_cut_once_its_record_is_marked() -> None:
    for seed in range(60):
        disk = FakeDisk(seed)
        store = fake_store(disk)
        (offset,) = make_batch(store, [task(rank=4, due=2e9)])
        BATCH.settle(store, set(), set(), {offset: 2e9})
        store.sync_marks([NUMBER], [])
        disk.crash()
        assert [record.state for record in store.records(NUMBER)] == [spoolfile.FINISHED]
        assert read(store, ref_of(offset, 4)).variables == [(b"n", b"a")]
        assert disk.stat(store.layout.path(ref_of(offset, 4))).mtime == 2e9


# -- dead and back --


@pytest.mark.parametrize("kind", ["record", "file"])
def test_the_dead_keep_everything_and_the_reason(store: Store, write: Write, kind: str) -> None:
    where = bury_one(store, write, kind, "because")
    found = read(store, where)
    assert found.variables == [
        (b"n", b"a"), (b"priority", b"5"), (names.REASON, b"because"), (names.ATTEMPTS, b"20")
    ]  # fmt: skip
    assert (found.state, found.attempts, found.body) == (spoolfile.WAITING, 20, b"body")
    assert listing(store) == []
    assert not list(inspect.waiting_tasks(store, 0.0))


@pytest.mark.parametrize("kind", ["record", "file"])
def test_the_revived_are_as_they_were_before_they_died(store: Store, write: Write, kind: str) -> None:
    where = bury_one(store, write, kind, "because")
    ref = store.revive(where)
    assert ref == f"5/{where.removeprefix('dead/')}"
    assert read(store, ref) == (spoolfile.WAITING, 0, [(b"n", b"a"), (b"priority", b"5")], b"body")
    assert listing(store, "dead") == []


def bury_one(store: Store, write: Write, kind: str, reason: str) -> str:
    """Buries a task; where it lies then."""
    place, ref = make_one(store, write, kind)
    place.bury(store, ref, reason, 20)
    if place == BATCH:
        assert place.progress(store, ref).state == spoolfile.FINISHED
    return f"dead/{names.file_name(place.id_of(ref, NODE))}"


def make_one(store: Store, write: Write, kind: str) -> tuple[Place, int | str]:
    """A task, in a batch or in a file of its own."""
    block = encode_variables([(b"n", b"a"), (b"priority", b"5")])
    if kind == "file":
        write(store.layout.path("uwsgi_spoolfile_on_x"), spoolfile.head(block) + b"body")
        return IN_FILES, "uwsgi_spoolfile_on_x"
    offset = batch.HEADER_SIZE + batch.RECORD_SIZE
    write(
        store.layout.batch(NUMBER),
        batch.encode_header(NUMBER) + batch.encode_record(NUMBER, block, b"body", 1.0, 0.0, 5),
    )
    return BATCH, offset


def test_a_reason_that_does_not_fit_beside_the_variables_lies_beside_the_task(store: Store, write: Write) -> None:
    write(store.layout.path("uwsgi_spoolfile_on_x"), spool_file((b"k", b"v" * (MAX_BLOCK - 20))))
    IN_FILES.bury(store, "uwsgi_spoolfile_on_x", "because", 20)
    where = "dead/uwsgi_spoolfile_on_x"
    assert read(store, where).variables == [(b"k", b"v" * (MAX_BLOCK - 20))]
    shown = inspect.contents(store, Location(store.layout.path(where)))
    assert (shown["spool_reason"], shown["spool_attempts"]) == ("because", "20")
    assert inspect.count_files(store, "dead") == 1
    store.revive(where)
    assert [entry.name for entry in store.disk.entries(store.layout.dead)] == []


def test_what_a_link_can_carry_has_always_room_for_where_it_was_not_delivered(store: Store, write: Write) -> None:
    write(store.layout.path("uwsgi_spoolfile_on_x"), spool_file((b"k", b"v" * (MAX_BLOCK - LINK_ROOM - 5))))
    to = "x" * 249 + ":65535"
    IN_FILES.bury(store, "uwsgi_spoolfile_on_x", undeliverable(to, "because " * 1000), 0)
    assert undelivered(store.block_of("dead/uwsgi_spoolfile_on_x")) == (to, "")


def test_the_undeliverable_go_back_to_their_outbox_as_they_were(store: Store, write: Write) -> None:
    write(store.layout.path("uwsgi_spoolfile_on_x"), spool_file((names.NODE, b"[::1]:3031")))
    IN_FILES.bury(store, "uwsgi_spoolfile_on_x", undeliverable("[::1]:3031", "nobody: there"), 0)
    assert undelivered(store.block_of("dead/uwsgi_spoolfile_on_x")) == ("[::1]:3031", "[::1]:3031")
    target = outbox_ref("[::1]:3031", "x", 7)
    assert store.revive("dead/uwsgi_spoolfile_on_x", target) == target
    assert read(store, target) == (spoolfile.WAITING, 0, [(names.NODE, b"[::1]:3031")], b"")
    assert listing(store, "dead") == []


@pytest.mark.parametrize("reason", ["RuntimeError: not delivered to beta: x", "", "not delivered to ../beta: x"])
def test_what_has_run_here_is_not_undeliverable(store: Store, write: Write, reason: str) -> None:
    write(store.layout.path("uwsgi_spoolfile_on_x"), spool_file((names.TO, b"alpha")))
    IN_FILES.bury(store, "uwsgi_spoolfile_on_x", reason, 3)
    assert undelivered(store.block_of("dead/uwsgi_spoolfile_on_x")) is None
    assert destination_again(store.block_of("dead/uwsgi_spoolfile_on_x")) == ""


@pytest.mark.parametrize(
    ("asked", "to", "again"),
    [
        ("beta", "beta", "beta"),
        ("10.0.0.7:3031", "10.0.0.7:3031", "10.0.0.7:3031"),
        ("any", "0123456789ab", "any"),
        ("tag:gpu", "0123456789ab", "tag:gpu"),
        ("all", "0123456789ab", "0123456789ab"),
        ("", "0123456789ab", ""),
    ],
    ids=["a node", "an address", "chosen among any", "chosen by a tag", "one of the copies for all", "shared, and ours"],
)
def test_what_could_not_be_delivered_goes_again_where_its_sender_asked(
    store: Store, write: Write, asked: str, to: str, again: str
) -> None:
    write(store.layout.path("uwsgi_spoolfile_on_x"), spool_file((b"k", b"v"), *([(names.NODE, asked.encode())] if asked else [])))
    IN_FILES.bury(store, "uwsgi_spoolfile_on_x", undeliverable(to, "it refuses"), 0)
    assert destination_again(store.block_of("dead/uwsgi_spoolfile_on_x")) == again


def test_a_long_reason_is_kept_with_its_beginning_and_its_end(store: Store, write: Write) -> None:
    write(store.layout.path("uwsgi_spoolfile_on_x"), spool_file((b"a", b"b")))
    IN_FILES.bury(store, "uwsgi_spoolfile_on_x", "begin" + "\udcff" * 9000 + "end", 20)
    reason = dict(read(store, "dead/uwsgi_spoolfile_on_x").variables)[names.REASON]
    assert reason.startswith(b"begin")
    assert reason.endswith(b"end")
    assert len(reason) < 5000


def test_a_priority_that_only_uwsgi_would_take_does_not_keep_a_task_dead(store: Store, write: Write) -> None:
    write(store.layout.path("dead/uwsgi_spoolfile_on_x"), spool_file((b"priority", b"high"), (b"a", b"b")))
    assert store.revive("dead/uwsgi_spoolfile_on_x") == "uwsgi_spoolfile_on_x"


def test_a_file_with_the_longest_name_can_die_rise_and_be_put_aside(store: Store, write: Write) -> None:
    name = names.SPOOL_PREFIX + "x" * (255 - len(names.SPOOL_PREFIX))
    store.disk.make_directory(store.layout.path("7"))
    write(store.layout.path(f"7/{name}"), spool_file((b"a", b"b")))
    IN_FILES.bury(store, f"7/{name}", "because", 3)
    assert store.revive(f"dead/{name}") == name
    store.disk.rename(store.layout.path(name), store.layout.path(f"7/{name}"))
    target = store.quarantine(f"7/{name}")
    assert [entry.name for entry in store.disk.entries(store.layout.corrupt)] == [target]


@pytest.mark.parametrize("kind", ["record", "file"])
def test_a_burial_that_fails_at_any_call_leaves_the_task_where_it_was_and_only_there(kind: str) -> None:
    for call in range(1, 30):
        disk = FakeDisk(call)
        store = fake_store(disk)
        place, ref = make_one(store, writer(disk), kind)
        disk.fail_at(call, errno.EIO)
        try:
            place.bury(store, ref, "because", 20)
            places = (1, 0)
        except OSError:
            places = (0, 1)
        disk.heal()
        assert (len(listing(store, "dead")), len(list(inspect.waiting_tasks(store, 0.0)))) == places
        assert not disk.open_files


def test_a_revival_that_fails_at_any_call_leaves_the_task_dead_or_waiting_and_not_both() -> None:
    for call in range(1, 30):
        disk = FakeDisk(call)
        store = fake_store(disk)
        writer(disk)(store.layout.path("dead/uwsgi_spoolfile_on_x"), spool_file((b"priority", b"5")))
        disk.fail_at(call, errno.EIO)
        try:
            store.revive("dead/uwsgi_spoolfile_on_x")
            places: tuple[list[str], list[str]] = ([], ["uwsgi_spoolfile_on_x"])
        except OSError:
            places = (["uwsgi_spoolfile_on_x"], [])
        disk.heal()
        assert (listing(store, "dead"), listing(store, "5")) == places
        assert not disk.open_files


# -- files of others --


def test_a_file_that_is_somebody_elses_becomes_ours_as_it_was(store: Store, write: Write) -> None:
    path = store.layout.path("uwsgi_spoolfile_on_x")
    content = spool_file((b"a", b"b"), body=b"body")
    write(path, content)
    store.disk.set_mtime(path, 1_600_000_000.0)
    is_real = not isinstance(store.disk, FakeDisk)
    if is_real:
        os.chmod(path, 0o444)  # as root left it
    store.take_over("uwsgi_spoolfile_on_x")
    assert store.contents(path) == content
    assert store.disk.stat(path).mtime == 1_600_000_000.0
    assert not store.disk.entries(store.layout.tmp)
    assert not is_real or os.stat(path).st_mode & 0o777 == 0o600


def test_taking_over_a_file_leaves_it_where_it_is_whatever_fails() -> None:
    for call in range(1, 20):
        disk = FakeDisk(call)
        store = fake_store(disk)
        place, ref = make_one(store, writer(disk), "file")
        before = disk.peek(store.layout.path(str(ref)))
        disk.fail_at(call, errno.EIO)
        with contextlib.suppress(OSError):
            store.take_over(str(ref))
        disk.heal()
        assert place == IN_FILES
        assert disk.peek(store.layout.path(str(ref))) == before
        assert not disk.open_files


# -- aside --


def test_what_is_put_aside_never_replaces_what_was_before(store: Store, write: Write) -> None:
    write(store.layout.path("uwsgi_spoolfile_on_x"), b"first")
    assert store.quarantine("uwsgi_spoolfile_on_x") == "uwsgi_spoolfile_on_x"
    write(store.layout.path("uwsgi_spoolfile_on_x"), b"second")
    second = store.quarantine("uwsgi_spoolfile_on_x")
    contents = {entry.name: store.contents(f"{store.layout.corrupt}/{entry.name}") for entry in
                store.disk.entries(store.layout.corrupt)}  # fmt: skip
    assert contents == {"uwsgi_spoolfile_on_x": b"first", second: b"second"}


def test_damage_is_kept_once(store: Store) -> None:
    store.keep_damage(NUMBER, 40, b"broken")
    store.keep_damage(NUMBER, 40, b"broken")
    (entry,) = store.disk.entries(store.layout.corrupt)
    assert store.contents(f"{store.layout.corrupt}/{entry.name}") == b"broken"


def test_what_is_gone_is_reported_as_gone(store: Store) -> None:
    for job in (
        lambda: IN_FILES.progress(store, "uwsgi_spoolfile_on_x"), lambda: BATCH.bury(store, 72, "r", 1),
        lambda: store.revive("dead/uwsgi_spoolfile_on_x"), lambda: store.quarantine("uwsgi_spoolfile_on_x"),
        lambda: BATCH.settle(store, set(), set(), {}), lambda: BATCH.remove(store, 72),
    ):  # fmt: skip
        with pytest.raises(FileNotFoundError):
            job()
    store.remove_batch(NUMBER)


def fake_store(disk: FakeDisk) -> Store:
    store = Store(disk, Layout("/spool"), NODE)
    for path in store.layout.directories:
        disk.make_directory(path)
    for path in ("/", "/spool"):
        disk.sync_directory(path)
    return store


def writer(disk: Disk) -> Write:
    def write(path: str, data: bytes) -> None:
        descriptor = disk.create(path)
        try:
            disk.write(descriptor, data, 0)
        finally:
            disk.close(descriptor)

    return write
