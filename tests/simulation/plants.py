"""Mistakes to plant, to show that the simulation finds them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from random import Random
from typing import Any
from unittest import mock

from spoolnode.node.outbox import envelope, storage
from spoolnode.node.outbox.moving import Moving
from spoolnode.node.spool import recovery
from spoolnode.node.spool.group_commit import GroupCommit
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.place import InBatch, InFiles, Place
from spoolnode.node.spool.sequence import Outstanding, Received
from spoolnode.node.spool.store import Store


def no_fsync() -> Any:
    """Tasks are acknowledged before they are safe."""
    real = GroupCommit._write

    def write(self: GroupCommit, group: Any) -> None:
        self._sync = False
        real(self, group)
        self._sync = True

    return mock.patch.object(GroupCommit, "_write", write)


def no_mark() -> Any:
    """A settled task stays in its batch too."""
    return mock.patch.object(Store, "mark")


def forget_received() -> Any:
    """A node that starts again knows no number that it has taken from others."""
    real = storage.recover

    def recover(*args: Any) -> Any:
        found = real(*args)
        found.received = Received()
        return found

    return mock.patch.object(storage, "recover", recover)


def resend_as_new() -> Any:
    """A task in doubt is sent again under another number."""
    real = envelope.dress

    def dress(block: bytes, identity: str, number: int, body: int) -> bytes:
        return real(block, identity, number + random.randrange(1 << 20), body)

    random = Random(1)
    return mock.patch.object(envelope, "dress", dress)


def re_place_doubts() -> Any:
    """A task in doubt is given to another node, too, when the one that may have it is down."""
    real = Moving.re_place

    async def re_place(self: Moving, to: str, count: int, choose: Any) -> int:
        found = self._outbox.destination(to)
        for queue in found.doubts.values():
            while (taken := queue.take(1 << 20)) is not None:
                found.fresh.give_back(*taken)
        return await real(self, to, count, choose)

    return mock.patch.object(Moving, "re_place", re_place)


def early_watermark() -> Any:
    """Receivers are told to forget numbers whose tasks may still come."""
    return mock.patch.object(Outstanding, "low_watermark", lambda self, following: following)


@contextmanager
def unsafe_move() -> Iterator[None]:
    """A task that moves to the outbox is seen by a link before the move is safe."""

    def unsafe(real: Any) -> Any:
        def hand_over(self: Place, store: Store, targets: Any) -> Any:
            store.sync = False
            try:
                return real(self, store, targets)
            finally:
                store.sync = True

        return hand_over

    with ExitStack() as patches:
        for kind in (InBatch, InFiles):
            patches.enter_context(mock.patch.object(kind, "hand_over", unsafe(kind.hand_over)))
        yield


def lose_proofs() -> Any:
    """The numbers taken are not saved before the records go that prove them."""

    async def save_received(self: Journal) -> None:
        """Nothing."""

    return mock.patch.object(Journal, "save_received", save_received)


def clean_too_soon() -> Any:
    """A batch whose last task has ended is no longer synced, although its removal has not succeeded."""
    real = Journal.drop_if_finished

    def drop(self: Journal, batch: Any) -> None:
        if batch.closed and not batch.live and not batch.frozen and not batch.outbound:
            self._dirty.discard(batch.number)
        real(self, batch)

    return mock.patch.object(Journal, "drop_if_finished", drop)


def dead_and_waiting() -> Any:
    """A start takes a file for a task although the task is dead."""
    return mock.patch.object(recovery, "_has_reason", return_value=False)


PLANTS: dict[str, Callable[[], Any]] = {
    "no_fsync": no_fsync,
    "no_mark": no_mark,
    "forget_received": forget_received,
    "resend_as_new": resend_as_new,
    "re_place_doubts": re_place_doubts,
    "early_watermark": early_watermark,
    "unsafe_move": unsafe_move,
    "lose_proofs": lose_proofs,
    "clean_too_soon": clean_too_soon,
    "dead_and_waiting": dead_and_waiting,
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """While this lasts, that mistake is in the code; the empty name is none."""
    if name:
        with PLANTS[name]():
            yield
    else:
        yield
