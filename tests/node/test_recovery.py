"""A node that starts finds every waiting task once; it keeps and reports what it cannot read."""

import errno
import os
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from spoolnode.node.disk.disk import Disk, RealDisk
from spoolnode.node.disk.fakes import FakeDisk, PowerCut
from spoolnode.node.disk.layout import Layout
from spoolnode.node.spool.group_commit import BATCH_SIZE
from spoolnode.node.spool.place import InBatch
from spoolnode.node.spool.recovery import Found, recover
from spoolnode.node.spool.store import Store
from spoolnode.protocol import batch, names, spoolfile
from spoolnode.protocol.packet import encode_variables

NODE = "0123456789ab"
NUMBER = 1_700_000_000_000_000
NOW = 1.8e9
BLOCK = encode_variables([(b"a", b"b")])
Write = Callable[[str, bytes], None]


class Log(list[tuple[str, dict[str, Any]]]):
    """The reports."""

    def __call__(self, action: str, **details: Any) -> None:
        self.append((action, details))


def record(*, due: float = 0.0, rank: int = names.LAST, body: bytes = b"", accepted: float = 1e9) -> bytes:
    return batch.encode_record(NUMBER, BLOCK, body, accepted, due, rank)


def batch_of(*records: bytes, number: int = NUMBER) -> bytes:
    return batch.encode_header(number) + b"".join(records)


def allocated(data: bytes) -> bytes:
    """A batch as the node makes it: all of its space is there from the beginning."""
    return data.ljust(BATCH_SIZE, b"\0")


def offsets_of(*records: bytes) -> list[int]:
    offsets, at = [], batch.HEADER_SIZE
    for item in records:
        offsets.append(at + batch.RECORD_SIZE)
        at += len(item)
    return offsets


def found_offsets(found: Found) -> list[int]:
    return sorted(
        [offset for item in found.batches for refs in item.ready.values() for offset in refs]
        + [offset for item in found.batches for _, offset, _ in item.later]
        + [offset for item in found.batches for offset, *_ in item.tried]
    )


def listing(store: Store, directory: str) -> list[str]:
    return sorted(entry.name for entry in store.disk.entries(store.layout.path(directory)))


def test_an_empty_directory_becomes_a_spool(disk: Disk, root: str) -> None:
    store = Store(disk, Layout(f"{root}/new"), NODE)
    log = Log()
    found = recover(store, NOW, log)
    assert (found.batches, found.files, found.outbox, found.last_number) == ([], [], [], 0)
    assert {"incoming", "outbox", "arriving", "dead", "corrupt", "tmp"} == set(listing(store, ""))
    assert log == []


def test_ready_later_and_tried_tasks_are_told_apart_and_the_finished_left_out(store: Store, write: Write) -> None:
    records = [record(), record(rank=3), record(due=NOW + 9), record(due=NOW - 9), record(), record()]
    plain, ranked, later, past, tried, done = offsets_of(*records)
    write(store.layout.batch(NUMBER), batch_of(*records))
    InBatch(NUMBER).set_attempts(store, tried, 4)
    store.mark(NUMBER, [done])
    (found,) = recover(store, NOW, Log()).batches
    assert {rank: list(refs) for rank, refs in found.ready.items()} == {names.LAST: [plain, past], 3: [ranked]}
    assert found.later == [(NOW + 9, later, names.LAST)]
    assert found.tried == [(tried, names.LAST, 4, b"")]
    assert (found.batch.live, found.batch.closed, found.batch.accepted) == (5, True, 1e9)


def test_spool_files_are_found_at_the_top_and_in_numeric_directories_that_nest(store: Store, write: Write) -> None:
    for directory in ("5/7", "abc", "12"):
        store.disk.make_directory(store.layout.path(directory))
    for ref in ("uwsgi_spoolfile_on_a", "5/uwsgi_spoolfile_on_b", "5/7/uwsgi_spoolfile_on_c", "abc/uwsgi_spoolfile_on_d", "12/x"):
        write(store.layout.path(ref), b"")
    found = recover(store, NOW, Log())
    assert {(file.ref, file.rank) for file in found.files} == {
        ("uwsgi_spoolfile_on_a", names.LAST), ("5/uwsgi_spoolfile_on_b", 5), ("5/7/uwsgi_spoolfile_on_c", 5)
    }  # fmt: skip


def test_a_batch_whose_tasks_are_all_finished_goes(store: Store, write: Write) -> None:
    write(store.layout.batch(NUMBER), batch_of(record()) + bytes(5000))
    store.mark(NUMBER, offsets_of(record()))
    assert recover(store, NOW, Log()).batches == []
    assert listing(store, "incoming") == []


def test_a_batch_that_was_made_and_never_written_goes(store: Store, write: Write) -> None:
    write(store.layout.batch(NUMBER), bytes(BATCH_SIZE))
    log = Log()
    assert recover(store, NOW, log).batches == []
    assert listing(store, "incoming") == []
    assert log == []


@pytest.mark.parametrize("cut", range(1, 48))
def test_a_torn_tail_is_passed_over(store: Store, write: Write, cut: int) -> None:
    whole, torn = record(), record(body=b"1234567")
    write(store.layout.batch(NUMBER), allocated(batch_of(whole, torn[:-cut])))
    log = Log()
    expected = offsets_of(whole, torn) if not any(torn[-cut:]) else offsets_of(whole)
    assert found_offsets(recover(store, NOW, log)) == expected
    assert log == []


def test_a_damaged_middle_goes_to_corrupt_and_the_rest_is_run(store: Store, write: Write) -> None:
    first, second, third = record(body=b"1"), record(body=b"two"), record(body=b"3")
    damaged = second[:-12] + b"X" + second[-11:]
    write(store.layout.batch(NUMBER), allocated(batch_of(first, damaged, third)))
    log = Log()
    offsets = offsets_of(first, second, third)
    assert found_offsets(recover(store, NOW, log)) == [offsets[0], offsets[2]]
    assert [action for action, _ in log] == ["quarantined"]
    (name,) = listing(store, "corrupt")
    assert store.contents(f"{store.layout.corrupt}/{name}") == damaged
    recover(store, NOW, Log())
    assert listing(store, "corrupt") == [name]


@pytest.mark.parametrize(
    "data",
    [b"garbage", batch_of(record(), number=NUMBER + 1), b"X" + batch_of(record())[1:], batch_of()[:20]],
    ids=["garbage", "another batch", "no magic", "cut"],
)
def test_a_file_that_is_no_batch_is_put_aside_whole(store: Store, write: Write, data: bytes) -> None:
    write(store.layout.batch(NUMBER), data)
    log = Log()
    found = recover(store, NOW, log)
    assert found.batches == []
    assert [action for action, _ in log] == ["quarantined"]
    (name,) = listing(store, "corrupt")
    assert store.contents(f"{store.layout.corrupt}/{name}") == data


def test_what_is_much_larger_than_any_file_of_ours_is_put_aside_unread(tmp_path: Path) -> None:
    store = Store(RealDisk(), Layout(str(tmp_path)), NODE)
    (tmp_path / "incoming").mkdir()
    for path in (store.layout.taken, store.layout.batch(NUMBER)):
        with open(path, "wb") as file:
            file.truncate(1 << 40)
    log = Log()
    found = recover(store, NOW, log)
    assert found.batches == []
    assert found.last_number == NUMBER, "its number must not be given again"
    assert [action for action, _ in log] == ["quarantined", "quarantined"]
    assert all(str(1 << 40) in details["reason"] for _, details in log)
    assert sorted(listing(store, "corrupt")) == [f"incoming_{NUMBER}.batch", "taken"]


def test_a_batch_of_another_version_stays_where_it_is_with_a_clear_line(store: Store, write: Write) -> None:
    front = batch_of(record())[:8] + (batch.VERSION + 1).to_bytes(2, "little") + batch_of(record())[10 : batch.HEADER_SIZE - 8]
    data = front + zlib.crc32(front).to_bytes(4, "little") + bytes(4) + record()
    write(store.layout.batch(NUMBER), data)
    log = Log()
    found = recover(store, NOW, log)
    assert found.batches == []
    assert found.last_number == NUMBER, "its number must not be given again"
    ((action, details),) = log
    assert action == "not_scanned"
    assert f"version {batch.VERSION + 1}" in details["reason"]
    assert store.contents(store.layout.batch(NUMBER)) == data


def test_a_batch_of_the_version_before_is_found_with_all_its_tasks(store: Store, write: Write) -> None:
    front = batch_of()[:8] + (batch.VERSION - 1).to_bytes(2, "little") + batch_of()[10 : batch.HEADER_SIZE - 8]
    items = [record(), record(body=b"2", rank=3)]
    write(store.layout.batch(NUMBER), allocated(front + zlib.crc32(front).to_bytes(4, "little") + bytes(4) + b"".join(items)))
    log = Log()
    assert found_offsets(recover(store, NOW, log)) == offsets_of(*items)
    assert not log


@pytest.mark.parametrize("call", range(1, 40))
def test_whatever_fails_during_recovery_the_other_batches_run_and_the_next_start_finds_all(call: int) -> None:
    disk = FakeDisk(call)
    store = Store(disk, Layout("/spool"), NODE)
    recover(store, NOW, Log())
    first, second = record(body=b"1"), record(body=b"2")
    for number in (NUMBER, NUMBER + 1, NUMBER + 2):
        items = [batch.encode_record(number, BLOCK, body, 1e9, 0.0, names.LAST) for body in (b"1", b"2")]
        descriptor = disk.create(store.layout.batch(number))
        disk.write(descriptor, batch_of(*items, number=number), 0)
        disk.close(descriptor)
    disk.fail_at(call, errno.EIO)
    log = Log()
    try:
        found = recover(store, NOW, log)
    except OSError:
        found = Found()  # the spool itself cannot be read: the node does not start, and says why
    else:
        assert len(found.batches) >= 2
        assert len(found.batches) == 3 or log
        assert found.last_number == NUMBER + 2
    disk.heal()
    assert found_offsets(recover(store, NOW, Log())) == sorted(offsets_of(first, second) * 3)
    assert not disk.open_files


def test_a_settlement_cut_short_at_any_call_leaves_no_task_twice() -> None:
    for call in range(1, 60):
        for cut in range(4):
            disk = FakeDisk(call)
            store = Store(disk, Layout("/spool"), NODE)
            recover(store, NOW, Log())
            records = [record(body=b"1"), record(rank=4), record(body=b"3" * 700)]
            descriptor = disk.create(store.layout.batch(NUMBER))
            disk.write(descriptor, batch_of(*records), 0)
            disk.sync(descriptor)
            disk.sync_directory(store.layout.incoming)
            disk.cut_power_at(call)
            with suppress(PowerCut):
                InBatch(NUMBER).settle(store, set(), set(), {})
            disk.random.seed(cut)
            disk.crash()
            found = recover(store, NOW, Log())
            names_found = [file.ref.rpartition("/")[2] for file in found.files]
            expected = {names.file_name(names.id_of_record(NODE, NUMBER, offset)) for offset in offsets_of(*records)}
            names_found += [names.file_name(names.id_of_record(NODE, NUMBER, offset)) for offset in found_offsets(found)]
            assert sorted(names_found) == sorted(expected)


def test_a_record_whose_file_was_found_never_comes_back_once_that_file_ran() -> None:
    for seed in range(40):
        disk = FakeDisk(seed)
        store = Store(disk, Layout("/spool"), NODE)
        recover(store, NOW, Log())
        offset, other = offsets_of(record(), record())
        descriptor = disk.create(store.layout.batch(NUMBER))
        disk.write(descriptor, batch_of(record(), record()), 0)
        disk.sync(descriptor)
        disk.sync_directory(store.layout.incoming)
        ref = names.file_name(names.id_of_record(NODE, NUMBER, offset))
        store.put(ref, [spoolfile.head(BLOCK)], None)
        assert found_offsets(recover(store, NOW, Log())) == [other]
        disk.unlink(store.layout.path(ref))
        disk.sync_directory(store.layout.root)
        disk.crash()
        found = recover(store, NOW, Log())
        assert (found_offsets(found), found.files) == ([other], [])


def test_a_new_spool_survives_a_power_cut_right_after_its_first_task() -> None:
    for seed in range(30):
        disk = FakeDisk(seed)
        disk.make_directory("/var")
        disk.sync_directory("/")
        store = Store(disk, Layout("/var/spool"), NODE)
        recover(store, NOW, Log())
        store.put("uwsgi_spoolfile_on_x", [spoolfile.head(BLOCK)], None)
        disk.crash()
        assert [file.ref for file in recover(store, NOW, Log()).files] == ["uwsgi_spoolfile_on_x"]


def test_what_was_being_written_is_swept_and_directories_there_are_let_alone(store: Store, write: Write) -> None:
    write(store.layout.path("tmp/half"), b"x")
    store.disk.make_directory(store.layout.path("tmp/somebodys"))
    recover(store, NOW, Log())
    assert listing(store, "tmp") == ["somebodys"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_priority_that_is_closed_to_us_does_not_stop_the_node(tmp_path: Path) -> None:
    store = Store(RealDisk(), Layout(str(tmp_path)), NODE)
    (tmp_path / "5").mkdir(mode=0)
    log = Log()
    recover(store, NOW, log)
    assert [action for action, _ in log] == ["not_scanned"]


def test_batches_come_oldest_first_and_strangers_in_incoming_are_let_alone(store: Store, write: Write) -> None:
    for number, accepted in ((9, 3.0), (10, 1.0), (11, 2.0)):
        item = batch.encode_record(number, BLOCK, b"", accepted, 0.0, names.LAST)
        write(store.layout.batch(number), batch_of(item, number=number))
    write(f"{store.layout.incoming}/notes.txt", b"hello")
    store.disk.make_directory(store.layout.batch(12))
    found = recover(store, NOW, Log())
    assert [item.batch.number for item in found.batches] == [10, 11, 9]
    assert "notes.txt" in listing(store, "incoming")


@pytest.mark.slow
def test_a_hundred_thousand_tasks_are_found_in_seconds(tmp_path: Path) -> None:
    store = Store(RealDisk(), Layout(str(tmp_path)), NODE)
    recover(store, NOW, Log())
    one = 2000
    for number in range(NUMBER, NUMBER + 50):
        records = [batch.encode_record(number, BLOCK, b"body", 1e9, 0.0, names.LAST) for _ in range(one)]
        Path(store.layout.batch(number)).write_bytes(batch_of(*records, number=number) + bytes(1 << 16))
    started = time.process_time()
    found = recover(store, NOW, Log())
    assert sum(item.batch.live for item in found.batches) == 100_000
    assert time.process_time() - started < 30


# -- what only a mischief, a failing disk, or an earlier version leaves --


def linked(number: int, name: str = "beta") -> bytes:
    """The variables of a task that came over a link, with that number."""
    return encode_variables([(b"spool_seq", str(number).encode()), (names.ORIGIN, b"a" * 12), (names.TO, name.encode())])


def test_a_record_with_a_number_that_no_link_gives_any_more_is_a_task_and_proves_nothing(store: Store, write: Write) -> None:
    block = linked(2**64 - 1)
    data = batch.encode_record(NUMBER, block, b"", 1e9, 0.0, names.LAST, batch.Transit(batch.ARRIVED, 2**64 - 1))
    write(store.layout.batch(NUMBER), allocated(batch_of(data)))
    found = recover(store, NOW, Log())
    assert found_offsets(found) == offsets_of(data)
    found.received.encode()


def test_a_large_arrival_is_published_later_when_the_disk_is_full_and_nothing_keeps_the_node_from_starting(
    store: Store, write: Write
) -> None:
    write(f"{store.layout.arriving}/uwsgi_spoolfile_on_x", spoolfile.head(linked(7)) + b"body")
    found = recover(store, NOW, Log())
    assert list(found.arrived) == ["arriving/uwsgi_spoolfile_on_x"]
    assert listing(store, "arriving") == ["uwsgi_spoolfile_on_x"]


@pytest.mark.parametrize("data", [b"", b"\x11\xff\x00\x00abc", b"\x11\x03\x00\x00abc"], ids=["empty", "cut", "malformed"])
def test_what_cannot_be_read_in_arriving_is_kept_in_corrupt(store: Store, write: Write, data: bytes) -> None:
    write(f"{store.layout.arriving}/uwsgi_spoolfile_on_x", data)
    log = Log()
    assert not recover(store, NOW, log).arrived
    assert [action for action, _ in log] == ["quarantined"]
    assert listing(store, "corrupt") == ["arriving_uwsgi_spoolfile_on_x"]


def test_a_batch_that_was_emptied_is_reported_and_kept(store: Store, write: Write) -> None:
    write(store.layout.batch(NUMBER), b"")
    log = Log()
    assert recover(store, NOW, log).batches == []
    assert [action for action, _ in log] == ["quarantined"]
    assert len(listing(store, "corrupt")) == 1


def test_damaged_numbers_are_put_aside_and_told(store: Store, write: Write) -> None:
    write(store.layout.taken, b"garbage")
    log = Log()
    recover(store, NOW, log)
    ((action, details),) = log
    assert action == "quarantined"
    assert "taken twice" in details["reason"]
    assert listing(store, "corrupt") == ["taken"]


@pytest.mark.parametrize("where", ["outbox/beta/uwsgi_spoolfile_on_x", "arriving/uwsgi_spoolfile_on_x"])
@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
def test_a_file_that_cannot_be_read_now_stays_and_is_reported(where: str, code: int) -> None:
    class Closed(FakeDisk):
        def open(self, path: str) -> int:
            if path.endswith(where):
                raise OSError(code, os.strerror(code), path)
            return super().open(path)

    disk = Closed()
    store = Store(disk, Layout("/spool"), NODE)
    recover(store, NOW, Log())
    disk.make_directory("/spool/outbox/beta")
    disk.close(disk.create(f"/spool/{where}"))
    log = Log()
    found = recover(store, NOW, log)
    assert [action for action, _ in log] == ["unreadable"]
    assert not found.outbox
    assert not found.arrived
    assert disk.peek(f"/spool/{where}") is not None


def test_numbers_that_cannot_be_read_now_are_not_forgotten(write: Write) -> None:
    class Closed(FakeDisk):
        def open(self, path: str) -> int:
            if path.endswith("taken"):
                raise OSError(errno.EACCES, "Permission denied", path)
            return super().open(path)

    disk = Closed()
    disk.make_directory("/spool")
    disk.close(disk.create("/spool/taken"))
    with pytest.raises(PermissionError):
        recover(Store(disk, Layout("/spool"), NODE), NOW, Log())


def test_files_of_one_time_run_in_the_order_of_their_offsets(store: Store, write: Write) -> None:
    names_of = [f"uwsgi_spoolfile_on_{NODE}_{NUMBER}_{offset}" for offset in (80, 1000, 9, 16384)]
    for name in names_of:
        write(store.layout.path(name), spoolfile.head(BLOCK))
        store.disk.set_mtime(store.layout.path(name), 1e9)
    found = sorted(recover(store, NOW, Log()).files, key=lambda file: file.order)
    assert [int(file.ref.rpartition("_")[2]) for file in found] == [9, 80, 1000, 16384]
