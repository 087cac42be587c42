"""Every move of a task on disk, on both disks; and on the fake one, every call of every move failing."""

import contextlib
import errno
import os
from collections.abc import Callable

import pytest

from spoolnode.node.disk.disk import Disk
from spoolnode.node.disk.fakes import FakeDisk
from spoolnode.node.disk.layout import Layout, outbox_ref
from spoolnode.node.spool import inspect
from spoolnode.node.spool.keeper import Keeper
from spoolnode.node.spool.reader import Place, Progress
from spoolnode.protocol import batch, names, spoolfile
from spoolnode.protocol.forward import LINK_ROOM, undeliverable, undelivered
from spoolnode.protocol.packet import MAX_BLOCK, encode_variables

NODE = "0123456789ab"
NUMBER = 1_700_000_000_000_000
Write = Callable[[str, bytes], None]
Task = tuple[str, bytes, float, int]


def make_batch(keeper: Keeper, tasks: list[Task]) -> list[int]:
    """A batch with tasks as (name, body, due, rank); their offsets."""
    data, offsets = bytearray(batch.encode_header(NUMBER)), []
    for name, body, due, rank in tasks:
        offsets.append(len(data) + batch.RECORD_SIZE)
        data += batch.encode_record(NUMBER, encode_variables([(b"n", name.encode())]), body, 1e9, due, rank)
    descriptor = keeper.disk.create(keeper.layout.batch(NUMBER))
    keeper.disk.allocate(descriptor, 64 << 10)
    keeper.disk.write(descriptor, bytes(data), 0)
    keeper.disk.sync(descriptor)
    keeper.disk.close(descriptor)
    keeper.disk.sync_directory(keeper.layout.incoming)
    return offsets


def task(name: str = "a", *, body: bytes = b"", due: float = 0.0, rank: int = names.LAST) -> Task:
    return name, body, due, rank


def ref_of(offset: int, rank: int | None = None) -> str:
    name = names.file_name(names.task_id(NODE, NUMBER, offset))
    return name if rank is None else f"{rank}/{name}"


def read(keeper: Keeper, ref: str) -> spoolfile.SpoolFile:
    return inspect.read_file(keeper, Place(keeper.layout.path(ref)))


def listing(keeper: Keeper, directory: str = "") -> list[str]:
    entries = keeper.disk.entries(keeper.layout.path(directory))
    return sorted(entry.name for entry in entries if entry.name.startswith(names.SPOOL_PREFIX))


def spool_file(*variables: tuple[bytes, bytes], body: bytes = b"", attempts: int = 0) -> bytes:
    return spoolfile.head(encode_variables(variables), attempts) + body


# -- marks --


def test_progress_is_read_and_written_in_place(keeper: Keeper, write: Write) -> None:
    first, second = make_batch(keeper, [task(), task()])
    write(keeper.layout.path("uwsgi_spoolfile_on_x"), spool_file((b"a", b"b")))
    keeper.mark(NUMBER, [first])
    keeper.set_attempts(NUMBER, second, 7)
    keeper.set_attempts(None, "uwsgi_spoolfile_on_x", 1000)
    assert keeper.progresses(NUMBER, [first, second]) == {
        first: Progress(spoolfile.FINISHED, 0),
        second: Progress(spoolfile.WAITING, 7),
    }
    assert keeper.progress(NUMBER, second) == Progress(spoolfile.WAITING, 7)
    assert keeper.progress(None, "uwsgi_spoolfile_on_x") == Progress(spoolfile.WAITING, spoolfile.MAX_ATTEMPTS)


def test_only_a_task_that_waits_is_finished_by_hand_and_no_other_byte_is_touched(keeper: Keeper) -> None:
    first, second = make_batch(keeper, [task(), task()])
    before = keeper.contents(keeper.layout.batch(NUMBER))
    for offset in (0, 1, first + 1, second - 1, 1 << 20):
        assert not keeper.finish_waiting(NUMBER, offset)
    assert keeper.contents(keeper.layout.batch(NUMBER)) == before
    assert keeper.finish_waiting(NUMBER, first)
    assert not keeper.finish_waiting(NUMBER, first)
    assert [record.state for record in keeper.records(NUMBER)] == [spoolfile.FINISHED, spoolfile.WAITING]


def test_syncing_what_is_gone_is_no_error(keeper: Keeper) -> None:
    keeper.sync_marks([1, 2], [keeper.layout.path("5"), keeper.layout.root])


def test_a_sync_that_fails_keeps_no_other_from_it() -> None:
    disk = FakeDisk()
    keeper = fake_keeper(disk)
    make_batch(keeper, [task()])
    keeper.put("uwsgi_spoolfile_on_x", [spool_file((b"a", b"b"))], None)
    disk.unlink(keeper.layout.path("uwsgi_spoolfile_on_x"))
    disk.fail_at(2, errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        keeper.sync_marks([NUMBER], [keeper.layout.root])
    disk.crash()
    assert listing(keeper) == []


# -- settle --


def test_settling_gives_each_waiting_task_a_file_of_its_own(keeper: Keeper) -> None:
    plain, ranked, later, flying, void, done = make_batch(
        keeper,
        [task("plain", body=b"b" * 3000), task("ranked", rank=3), task("later"), task("f"), task("v"), task("d")],
    )
    keeper.set_attempts(NUMBER, later, 2)
    keeper.mark(NUMBER, [done])
    moved = keeper.settle(NUMBER, {flying}, {void}, {later: 2e9})
    assert moved == {plain: ref_of(plain), ranked: ref_of(ranked, 3), later: ref_of(later)}
    assert read(keeper, ref_of(plain)) == (spoolfile.WAITING, 0, [(b"n", b"plain")], b"b" * 3000)
    assert read(keeper, ref_of(ranked, 3)).variables == [(b"n", b"ranked")]
    assert read(keeper, ref_of(later)).attempts == 2
    assert keeper.disk.stat(keeper.layout.path(ref_of(plain))).mtime == 1e9
    assert keeper.disk.stat(keeper.layout.path(ref_of(later))).mtime == 2e9
    waiting = [record.offset for record in keeper.records(NUMBER) if record.state == spoolfile.WAITING]
    assert waiting == [flying]
    assert listing(keeper, "tmp") == []


def test_settling_again_moves_nothing_again(keeper: Keeper) -> None:
    (offset,) = make_batch(keeper, [task()])
    assert keeper.settle(NUMBER, set(), set(), {}) == {offset: ref_of(offset)}
    assert keeper.settle(NUMBER, set(), set(), {}) == {}


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_settlement_that_fails_at_any_call_leaves_no_task_in_two_places_for_the_running_node(error: int) -> None:
    tasks = [task("a"), task("b", rank=4), task("c", body=b"x" * 2000)]
    for call in range(1, 60):
        disk = FakeDisk(call)
        keeper = fake_keeper(disk)
        offsets = make_batch(keeper, tasks)
        disk.fail_at(call, error)
        try:
            moved = keeper.settle(NUMBER, set(), set(), {})
        except OSError:
            moved = {}
        disk.heal()
        files = {*listing(keeper), *(f"4/{name}" for name in listing(keeper, "4"))}
        assert files == set(moved.values())
        waiting = {record.offset for record in keeper.records(NUMBER) if record.state == spoolfile.WAITING}
        assert waiting == set(offsets) - set(moved)
        assert listing(keeper, "tmp") == []
        assert not disk.open_files


def test_a_task_that_was_made_ready_by_hand_stays_ready_when_it_settles(keeper: Keeper) -> None:
    (offset,) = make_batch(keeper, [task(due=4e9)])
    keeper.settle(NUMBER, set(), set(), {})  # nothing is due later
    assert keeper.disk.stat(keeper.layout.path(ref_of(offset))).mtime == 1e9


def test_a_settled_task_survives_every_power_cut_once_its_record_is_marked() -> None:
    for seed in range(60):
        disk = FakeDisk(seed)
        keeper = fake_keeper(disk)
        (offset,) = make_batch(keeper, [task(rank=4, due=2e9)])
        keeper.settle(NUMBER, set(), set(), {offset: 2e9})
        keeper.sync_marks([NUMBER], [])
        disk.crash()
        assert [record.state for record in keeper.records(NUMBER)] == [spoolfile.FINISHED]
        assert read(keeper, ref_of(offset, 4)).variables == [(b"n", b"a")]
        assert disk.stat(keeper.layout.path(ref_of(offset, 4))).mtime == 2e9


# -- dead and back --


@pytest.mark.parametrize("kind", ["record", "file"])
def test_the_dead_keep_everything_and_the_reason(keeper: Keeper, write: Write, kind: str) -> None:
    where = bury_one(keeper, write, kind, "because")
    found = read(keeper, where)
    assert found.variables == [
        (b"n", b"a"), (b"priority", b"5"), (names.REASON, b"because"), (names.ATTEMPTS, b"20")
    ]  # fmt: skip
    assert (found.state, found.attempts, found.body) == (spoolfile.WAITING, 20, b"body")
    assert listing(keeper) == []
    assert not list(inspect.waiting_tasks(keeper, 0.0))


@pytest.mark.parametrize("kind", ["record", "file"])
def test_the_revived_are_as_they_were_before_they_died(keeper: Keeper, write: Write, kind: str) -> None:
    where = bury_one(keeper, write, kind, "because")
    ref = keeper.revive(where)
    assert ref == f"5/{where.removeprefix('dead/')}"
    assert read(keeper, ref) == (spoolfile.WAITING, 0, [(b"n", b"a"), (b"priority", b"5")], b"body")
    assert listing(keeper, "dead") == []


def bury_one(keeper: Keeper, write: Write, kind: str, reason: str) -> str:
    """Buries a task; where it lies then."""
    number, ref = make_one(keeper, write, kind)
    keeper.bury(number, ref, reason, 20)
    if number is not None:
        assert keeper.progress(number, ref).state == spoolfile.FINISHED
    return f"dead/{ref}" if number is None else f"dead/{ref_of(int(ref))}"


def make_one(keeper: Keeper, write: Write, kind: str) -> tuple[int | None, int | str]:
    """A task, in a batch or in a file of its own."""
    block = encode_variables([(b"n", b"a"), (b"priority", b"5")])
    if kind == "file":
        write(keeper.layout.path("uwsgi_spoolfile_on_x"), spoolfile.head(block) + b"body")
        return None, "uwsgi_spoolfile_on_x"
    offset = batch.HEADER_SIZE + batch.RECORD_SIZE
    write(
        keeper.layout.batch(NUMBER),
        batch.encode_header(NUMBER) + batch.encode_record(NUMBER, block, b"body", 1.0, 0.0, 5),
    )
    return NUMBER, offset


def test_a_reason_that_does_not_fit_beside_the_variables_lies_beside_the_task(keeper: Keeper, write: Write) -> None:
    write(keeper.layout.path("uwsgi_spoolfile_on_x"), spool_file((b"k", b"v" * (MAX_BLOCK - 20))))
    keeper.bury(None, "uwsgi_spoolfile_on_x", "because", 20)
    where = "dead/uwsgi_spoolfile_on_x"
    assert read(keeper, where).variables == [(b"k", b"v" * (MAX_BLOCK - 20))]
    shown = inspect.contents(keeper, Place(keeper.layout.path(where)))
    assert (shown["spool_reason"], shown["spool_attempts"]) == ("because", "20")
    assert inspect.count_files(keeper, "dead") == 1
    keeper.revive(where)
    assert [entry.name for entry in keeper.disk.entries(keeper.layout.dead)] == []


def test_what_a_link_can_carry_has_always_room_for_where_it_was_not_delivered(keeper: Keeper, write: Write) -> None:
    write(keeper.layout.path("uwsgi_spoolfile_on_x"), spool_file((b"k", b"v" * (MAX_BLOCK - LINK_ROOM - 5))))
    to = "x" * 249 + ":65535"
    keeper.bury(None, "uwsgi_spoolfile_on_x", undeliverable(to, "because " * 1000), 0)
    assert undelivered(keeper.block_of("dead/uwsgi_spoolfile_on_x")) == (to, "")


def test_the_undeliverable_go_back_to_their_outbox_as_they_were(keeper: Keeper, write: Write) -> None:
    write(keeper.layout.path("uwsgi_spoolfile_on_x"), spool_file((names.NODE, b"[::1]:3031")))
    keeper.bury(None, "uwsgi_spoolfile_on_x", undeliverable("[::1]:3031", "nobody: there"), 0)
    assert undelivered(keeper.block_of("dead/uwsgi_spoolfile_on_x")) == ("[::1]:3031", "[::1]:3031")
    target = outbox_ref("[::1]:3031", "x", 7)
    assert keeper.revive("dead/uwsgi_spoolfile_on_x", target) == target
    assert read(keeper, target) == (spoolfile.WAITING, 0, [(names.NODE, b"[::1]:3031")], b"")
    assert listing(keeper, "dead") == []


@pytest.mark.parametrize("reason", ["RuntimeError: not delivered to beta: x", "", "not delivered to ../beta: x"])
def test_what_has_run_here_is_not_undeliverable(keeper: Keeper, write: Write, reason: str) -> None:
    write(keeper.layout.path("uwsgi_spoolfile_on_x"), spool_file((names.TO, b"alpha")))
    keeper.bury(None, "uwsgi_spoolfile_on_x", reason, 3)
    assert undelivered(keeper.block_of("dead/uwsgi_spoolfile_on_x")) is None


def test_a_long_reason_is_kept_with_its_beginning_and_its_end(keeper: Keeper, write: Write) -> None:
    write(keeper.layout.path("uwsgi_spoolfile_on_x"), spool_file((b"a", b"b")))
    keeper.bury(None, "uwsgi_spoolfile_on_x", "begin" + "\udcff" * 9000 + "end", 20)
    reason = dict(read(keeper, "dead/uwsgi_spoolfile_on_x").variables)[names.REASON]
    assert reason.startswith(b"begin")
    assert reason.endswith(b"end")
    assert len(reason) < 5000


def test_a_priority_that_only_uwsgi_would_take_does_not_keep_a_task_dead(keeper: Keeper, write: Write) -> None:
    write(keeper.layout.path("dead/uwsgi_spoolfile_on_x"), spool_file((b"priority", b"high"), (b"a", b"b")))
    assert keeper.revive("dead/uwsgi_spoolfile_on_x") == "uwsgi_spoolfile_on_x"


def test_a_file_with_the_longest_name_can_die_rise_and_be_put_aside(keeper: Keeper, write: Write) -> None:
    name = names.SPOOL_PREFIX + "x" * (255 - len(names.SPOOL_PREFIX))
    keeper.disk.make_directory(keeper.layout.path("7"))
    write(keeper.layout.path(f"7/{name}"), spool_file((b"a", b"b")))
    keeper.bury(None, f"7/{name}", "because", 3)
    assert keeper.revive(f"dead/{name}") == name
    keeper.disk.rename(keeper.layout.path(name), keeper.layout.path(f"7/{name}"))
    target = keeper.quarantine(f"7/{name}")
    assert [entry.name for entry in keeper.disk.entries(keeper.layout.corrupt)] == [target]


@pytest.mark.parametrize("kind", ["record", "file"])
def test_a_burial_that_fails_at_any_call_leaves_the_task_where_it_was_and_only_there(kind: str) -> None:
    for call in range(1, 30):
        disk = FakeDisk(call)
        keeper = fake_keeper(disk)
        number, ref = make_one(keeper, writer(disk), kind)
        disk.fail_at(call, errno.EIO)
        try:
            keeper.bury(number, ref, "because", 20)
            places = (1, 0)
        except OSError:
            places = (0, 1)
        disk.heal()
        assert (len(listing(keeper, "dead")), len(list(inspect.waiting_tasks(keeper, 0.0)))) == places
        assert not disk.open_files


def test_a_revival_that_fails_at_any_call_leaves_the_task_dead_or_waiting_and_not_both() -> None:
    for call in range(1, 30):
        disk = FakeDisk(call)
        keeper = fake_keeper(disk)
        writer(disk)(keeper.layout.path("dead/uwsgi_spoolfile_on_x"), spool_file((b"priority", b"5")))
        disk.fail_at(call, errno.EIO)
        try:
            keeper.revive("dead/uwsgi_spoolfile_on_x")
            places: tuple[list[str], list[str]] = ([], ["uwsgi_spoolfile_on_x"])
        except OSError:
            places = (["uwsgi_spoolfile_on_x"], [])
        disk.heal()
        assert (listing(keeper, "dead"), listing(keeper, "5")) == places
        assert not disk.open_files


# -- files of others --


def test_a_file_that_is_somebody_elses_becomes_ours_as_it_was(keeper: Keeper, write: Write) -> None:
    path = keeper.layout.path("uwsgi_spoolfile_on_x")
    content = spool_file((b"a", b"b"), body=b"body")
    write(path, content)
    keeper.disk.set_mtime(path, 1_600_000_000.0)
    is_real = not isinstance(keeper.disk, FakeDisk)
    if is_real:
        os.chmod(path, 0o444)  # as root left it
    keeper.take_over("uwsgi_spoolfile_on_x")
    assert keeper.contents(path) == content
    assert keeper.disk.stat(path).mtime == 1_600_000_000.0
    assert not keeper.disk.entries(keeper.layout.tmp)
    assert not is_real or os.stat(path).st_mode & 0o777 == 0o600


def test_taking_over_a_file_leaves_it_where_it_is_whatever_fails() -> None:
    for call in range(1, 20):
        disk = FakeDisk(call)
        keeper = fake_keeper(disk)
        number, ref = make_one(keeper, writer(disk), "file")
        before = disk.peek(keeper.layout.path(str(ref)))
        disk.fail_at(call, errno.EIO)
        with contextlib.suppress(OSError):
            keeper.take_over(str(ref))
        disk.heal()
        assert number is None
        assert disk.peek(keeper.layout.path(str(ref))) == before
        assert not disk.open_files


# -- aside --


def test_what_is_put_aside_never_replaces_what_was_before(keeper: Keeper, write: Write) -> None:
    write(keeper.layout.path("uwsgi_spoolfile_on_x"), b"first")
    assert keeper.quarantine("uwsgi_spoolfile_on_x") == "uwsgi_spoolfile_on_x"
    write(keeper.layout.path("uwsgi_spoolfile_on_x"), b"second")
    second = keeper.quarantine("uwsgi_spoolfile_on_x")
    contents = {entry.name: keeper.contents(f"{keeper.layout.corrupt}/{entry.name}") for entry in
                keeper.disk.entries(keeper.layout.corrupt)}  # fmt: skip
    assert contents == {"uwsgi_spoolfile_on_x": b"first", second: b"second"}


def test_damage_is_kept_once(keeper: Keeper) -> None:
    keeper.keep_damage(NUMBER, 40, b"broken")
    keeper.keep_damage(NUMBER, 40, b"broken")
    (entry,) = keeper.disk.entries(keeper.layout.corrupt)
    assert keeper.contents(f"{keeper.layout.corrupt}/{entry.name}") == b"broken"


def test_what_is_gone_is_reported_as_gone(keeper: Keeper) -> None:
    for job in (
        lambda: keeper.progress(None, "uwsgi_spoolfile_on_x"), lambda: keeper.bury(NUMBER, 72, "r", 1),
        lambda: keeper.revive("dead/uwsgi_spoolfile_on_x"), lambda: keeper.quarantine("uwsgi_spoolfile_on_x"),
        lambda: keeper.settle(NUMBER, set(), set(), {}), lambda: keeper.finish_waiting(NUMBER, 72),
    ):  # fmt: skip
        with pytest.raises(FileNotFoundError):
            job()
    keeper.remove_batch(NUMBER)


def fake_keeper(disk: FakeDisk) -> Keeper:
    keeper = Keeper(disk, Layout("/spool"), NODE)
    for path in keeper.layout.directories:
        disk.make_directory(path)
    for path in ("/", "/spool"):
        disk.sync_directory(path)
    return keeper


def writer(disk: Disk) -> Write:
    def write(path: str, data: bytes) -> None:
        descriptor = disk.create(path)
        try:
            disk.write(descriptor, data, 0)
        finally:
            disk.close(descriptor)

    return write
