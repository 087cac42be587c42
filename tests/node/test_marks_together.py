"""Marks of many tasks with one write: not a byte of a neighbour changes, which another thread may be writing."""

import random

from hypothesis import given
from hypothesis import strategies as st

from spoolnode.node.disk.fakes import FakeDisk
from spoolnode.node.disk.layout import Layout
from spoolnode.node.spool.store import Store
from spoolnode.protocol import batch, spoolfile
from spoolnode.protocol.answer import is_stored, refused, stored, stored_copies
from spoolnode.protocol.errors import Reason, Refused
from spoolnode.protocol.packet import encode_variables

NUMBER = 7
SIZES = [0, 1, 7, 8, 40, 300]


class Counting(FakeDisk):
    """Notes where bytes were written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[range] = []

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        super().write(descriptor, data, offset)
        self.written.append(range(offset, offset + len(data)))


def new_store() -> tuple[Store, Counting]:
    disk, layout = Counting(), Layout("/spool")
    disk.make_directory(layout.incoming)
    return Store(disk, layout, "0123456789ab"), disk


def make_batch(store: Store, count: int) -> tuple[list[int], bytes]:
    data, offsets = batch.encode_header(NUMBER), []
    for index in range(count):
        offsets.append(len(data) + batch.RECORD_SIZE)
        block = encode_variables([(b"a", b"x" * SIZES[index % len(SIZES)])])
        data += batch.encode_record(batch.seed_of(NUMBER, 0), block, b"", 1.0, 0.0, 1, batch.Transit(batch.OUTBOUND, index + 1))
    descriptor = store.disk.create(store.layout.batch(NUMBER))
    store.disk.write(descriptor, data, 0)
    store.disk.close(descriptor)
    return offsets, data


@given(chosen=st.lists(st.booleans(), min_size=12, max_size=12).filter(any), shuffled=st.randoms())
def test_exactly_the_tasks_asked_for_are_marked_and_nothing_between_them_is_written(
    chosen: list[bool], shuffled: random.Random
) -> None:
    store, disk = new_store()
    offsets, before = make_batch(store, len(chosen))
    marked = [offset for offset, is_chosen in zip(offsets, chosen, strict=True) if is_chosen]
    disk.written.clear()
    shuffled.shuffle(marked)
    store.mark_own(NUMBER, marked)
    expected = bytearray(before)
    for offset in marked:
        expected[offset + spoolfile.STATE_AT] = spoolfile.FINISHED
    assert store.contents(store.layout.batch(NUMBER)) == bytes(expected)
    others = [offset + spoolfile.STATE_AT for offset in offsets if offset not in marked]
    assert not any(place in written for place in others for written in disk.written)


def test_tasks_that_lie_side_by_side_are_marked_with_one_write() -> None:
    store, disk = new_store()
    offsets, _ = make_batch(store, 30)
    disk.written.clear()
    store.mark_own(NUMBER, offsets[3:20])
    assert len(disk.written) == 1


def test_only_a_plain_stored_is_told_quickly() -> None:
    good = stored("0123456789ab_7_40")
    assert is_stored(1, good[4:])
    assert not is_stored(0, good[4:])
    assert not is_stored(1, good[4:] + b"x")
    assert not is_stored(1, good[4:-1])
    assert not is_stored(1, stored_copies("0123456789ab_7_40", 2)[4:])
    assert not is_stored(0, refused(Refused(Reason.BUSY, "no"))[4:])
    assert not is_stored(1, b"")
