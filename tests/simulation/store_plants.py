"""Mistakes about a common store to plant, to show that the simulation finds them."""

from collections.abc import Callable, Sequence
from math import inf
from typing import Any
from unittest import mock

from spoolnode.cluster.store.interface import Lease
from spoolnode.cluster.store.leases import LeaseBook
from spoolnode.cluster.store.publishing import Publisher
from spoolnode.cluster.store.sending import Sending
from spoolnode.cluster.store.telling import Teller
from spoolnode.node.commons import COMMONS, STORE
from spoolnode.node.ingress.shared import Sharing
from spoolnode.node.spool.admissions import Admissions
from spoolnode.node.spool.held import HeldFiles

from .engine import Engine, TimedStore
from .workers import SimPool


def forget_acknowledgements() -> Any:
    """The engine loses tasks that it has acknowledged."""
    return mock.patch.object(Engine, "forgets", 0.02)


def end_without_turn() -> Any:
    """A task is ended for whatever node had it once."""
    real = TimedStore.end

    async def end(self: TimedStore, leases: Sequence[Lease], _results: Any) -> frozenset[Lease]:
        return await real(self, [self.present(lease) for lease in leases])

    return mock.patch.object(TimedStore, "end", end)


def not_look_at_lost_leases() -> Any:
    """A node extends its leases, and does not look at which are lost."""
    real = LeaseBook.extended
    return mock.patch.object(LeaseBook, "extended", lambda self, asked, _lost, since: real(self, asked, (), since))


def trust_leases() -> Any:
    """Workers are not told until when they may start tasks."""
    real = SimPool.hold_leases
    return mock.patch.object(SimPool, "hold_leases", lambda self, _until: real(self, inf))


def extend_late() -> Any:
    """Leases are extended only when they are about to run out."""
    return mock.patch.object(LeaseBook, "extended_at", property(lambda self: self.until - 0.01))


def keep_at_stop() -> Any:
    """A node that stops gives nothing back."""
    return mock.patch.object(HeldFiles, "close", lambda self: setattr(self, "is_open", False))


def tell_once() -> Any:
    """The store is told once of an end, whether it answers or not."""
    real = Teller.tell

    async def tell(self: Teller) -> None:
        ended = dict(self._ended)
        try:
            await real(self)
        finally:
            self._heard(self._ended, ended, (), "ended")

    return mock.patch.object(Teller, "tell", tell)


def end_what_comes_back() -> Any:
    """A task with a key that comes back after its end is ended, although a duplicate may count on it."""
    real = Teller.renew
    return mock.patch.object(Teller, "renew", lambda self, ref, lease, **_: real(self, ref, lease, has_key=False))


def keep_as_new() -> Any:
    """What the store did not take in time, and may have, is kept for it under another id."""
    real = Sharing.keep

    def keep(self: Sharing, task: Any, *args: Any, **options: Any) -> None:
        real(self, task._replace(id=self._storage.journal.new_id(0)), *args, **options)

    return mock.patch.object(Sharing, "keep", keep)


def acknowledge_too_soon() -> Any:
    """A task is acknowledged when it is sent to the store."""
    real = Publisher._publish

    async def publish(self: Publisher, group: Sequence[Any]) -> None:
        for item in group:
            item.sharer.shared(is_duplicate=False)
        await real(self, [item._replace(sharer=mock.Mock()) for item in group])

    return mock.patch.object(Publisher, "_publish", publish)


def remove_too_soon() -> Any:
    """A task is removed from the disk when it is sent to the store."""
    real = Sending._publish

    async def publish(self: Sending, shipment: Any, envelopes: Any) -> None:
        self._storage.shipping.handed(COMMONS, STORE, shipment.rest(envelopes), [one.number for one in envelopes])
        with mock.patch.object(self._storage.shipping, "handed"):
            await real(self, shipment, envelopes)

    return mock.patch.object(Sending, "_publish", publish)


def repeat_for_ever() -> Any:
    """A task that was sent and not answered is sent again, also when the store has forgotten it."""
    return mock.patch.object(Sending, "_is_too_late", return_value=False)


def start_unasked() -> Any:
    """A node goes by the limits of functions by itself."""
    return mock.patch.object(Admissions, "sorted_out", lambda _self, refs, *_: refs)


def count_as_over() -> Any:
    """What runs here counts as over."""
    return mock.patch.object(Admissions, "has_admitted", return_value=False)


STORE_PLANTS: dict[str, Callable[[], Any]] = {
    "acknowledge_too_soon": acknowledge_too_soon,
    "count_as_over": count_as_over,
    "end_what_comes_back": end_what_comes_back,
    "end_without_turn": end_without_turn,
    "extend_late": extend_late,
    "forget_acknowledgements": forget_acknowledgements,
    "keep_as_new": keep_as_new,
    "keep_at_stop": keep_at_stop,
    "not_look_at_lost_leases": not_look_at_lost_leases,
    "remove_too_soon": remove_too_soon,
    "repeat_for_ever": repeat_for_ever,
    "start_unasked": start_unasked,
    "tell_once": tell_once,
    "trust_leases": trust_leases,
}
"""Those for stories about a store."""
