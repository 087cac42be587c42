"""Mistakes to plant, to show that the simulation finds them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from random import Random
from typing import Any
from unittest import mock

from spoolnode.cluster.cluster import Cluster
from spoolnode.cluster.forgetting import Forgetting
from spoolnode.node import roster, timekeeper
from spoolnode.node.outbox import envelope, storage
from spoolnode.node.outbox.cancellation import Buried, Cancellation
from spoolnode.node.outbox.moving import Moving
from spoolnode.node.roster import LastRun, Roster
from spoolnode.node.spool import recovery
from spoolnode.node.spool.group_commit import GroupCommit
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.place import InBatch, InFiles, Place
from spoolnode.node.spool.sequence import Outstanding, Received
from spoolnode.node.spool.starting import Starting
from spoolnode.node.spool.store import Store
from spoolnode.protocol import forward

from .store_plants import STORE_PLANTS


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
    real = recovery.recover

    def recover(*args: Any) -> Any:
        found = real(*args)
        found.received = Received()
        return found

    return mock.patch.object(storage, "recover", recover)


def resend_as_new() -> Any:
    """A task in doubt is sent again under another number."""
    real = forward.dress

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


def forget_runs() -> Any:
    """A node keeps nothing on disk of what was run."""
    return mock.patch.object(timekeeper, "_encode", return_value=timekeeper._encode({}))


def tell_nothing() -> Any:
    """A node tells the others which timers it has, and not what was run."""
    return mock.patch.object(Roster, "told", lambda self: dict.fromkeys(self.timers, LastRun(0.0, "")))


def lose_patience() -> Any:
    """Each node runs what is due, whose turn it ever is."""
    return mock.patch.object(roster, "PATIENCE", 0.0)


def wait_for_none() -> Any:
    """A node that has just started runs timers before it knows the others."""
    return mock.patch.object(Cluster, "settling", 0.0)


def skip_what_is_late() -> Any:
    """What was due while a node started again is skipped."""
    return mock.patch.object(roster, "LATE", 0.5)


def look_into_no_file() -> Any:
    """A worker runs a file whatever its function, because the node does not know that."""
    return mock.patch.object(Starting, "to_return", return_value=[])


def forget_shares() -> Any:
    """A task of a limited function does not count while it runs."""
    return mock.patch.object(Starting, "_share")


def forget_doubts() -> Any:
    """A node cancels a task that it has perhaps sent, and does not ask whether it arrived."""
    real = Cancellation.cancel

    async def cancel(*args: Any) -> Buried | None:
        return None if await real(*args) is None else Buried()

    return mock.patch.object(Cancellation, "cancel", cancel)


def move_doubts() -> Any:
    """The tasks of a forgotten node are moved, also those that it has perhaps got."""
    real = Forgetting._move

    async def move(self: Forgetting, to: str, move_to: str, meant: Any, *, doubts: bool) -> int:
        return await real(self, to, move_to, meant, doubts=True)

    return mock.patch.object(Forgetting, "_move", move)


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
    "look_into_no_file": look_into_no_file,
    "forget_shares": forget_shares,
    "forget_doubts": forget_doubts,
    "move_doubts": move_doubts,
}


def forget_to_catch_up() -> Any:
    """What was due while no node was up is skipped, although its timer wants it."""
    real = Roster.replace

    def replace(self: Roster, timers: Any, monotonic: float, wall: float) -> None:
        real(self, [timer._replace(catch_up=False) for timer in timers], monotonic, wall)

    return mock.patch.object(Roster, "replace", replace)


TIMER_PLANTS: dict[str, Callable[[], Any]] = {
    "forget_runs": forget_runs,
    "tell_nothing": tell_nothing,
    "lose_patience": lose_patience,
    "wait_for_none": wait_for_none,
    "skip_what_is_late": skip_what_is_late,
    "forget_to_catch_up": forget_to_catch_up,
}
"""Those for stories about timers."""

FOUND_AT = {
    "clean_too_soon": 458, "dead_and_waiting": 67, "early_watermark": 18, "forget_doubts": 48, "forget_received": 18,
    "forget_shares": 2, "look_into_no_file": 0, "lose_proofs": 103, "move_doubts": 39, "no_fsync": 0, "no_mark": 2,
    "re_place_doubts": 2, "resend_as_new": 7, "unsafe_move": 49,
    "forget_runs": 4, "forget_to_catch_up": 23, "lose_patience": 0, "skip_what_is_late": 4, "tell_nothing": 0,
    "wait_for_none": 27,
    "acknowledge_too_soon": 0, "count_as_over": 8, "end_what_comes_back": 143, "end_without_turn": 388, "extend_late": 352,
    "forget_acknowledgements": 0, "keep_as_new": 21, "keep_at_stop": 36, "not_look_at_lost_leases": 608, "remove_too_soon": 1,
    "repeat_for_ever": 105, "start_unasked": 4, "tell_once": 6, "trust_leases": 35,
}  # fmt: skip
"""The first seed that finds each mistake. It is tried before all others, which follow if it does not find the mistake any more:
an old number costs time and nothing else. `failures_of(0, 2000, NAME, 1, stop_at_first=True)` finds a new one.
"""


@contextmanager
def planted(name: str) -> Iterator[None]:
    """While this lasts, that mistake is in the code; the empty name is none."""
    if name:
        with (PLANTS | TIMER_PLANTS | STORE_PLANTS)[name]():
            yield
    else:
        yield
