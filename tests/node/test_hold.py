"""How long a task has waited for another node: from its acceptance, wherever it was moved since."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

from linked import NODE, Station, task

from spoolnode.node.disk.layout import outbox_ref
from spoolnode.node.outbox.outbox import Outbox
from spoolnode.node.spool import inspect

DAY = 86400.0


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


def expired(outbox: Outbox, oldest: float) -> list[str]:
    """Takes the tasks that were accepted before that time. Returns their ids."""
    return [taken.source.place.id_of(ref, NODE) for _, _, taken in outbox.take_old(oldest, 100) for ref in taken.refs]


def test_a_batch_is_called_by_the_time_of_its_first_task_though_its_file_was_made_ahead() -> None:
    async def story() -> None:
        station = Station()
        station.admit(task(1), link=None)
        await station.rest()
        station.spool.group_commit.close_batch()
        await station.rest()
        before = time.time()
        heard = station.admit(task(2), link=None)
        await station.rest()
        (identity,) = heard.stored_as
        assert before <= int(identity.split("_")[1]) / 1e6 <= time.time()

    run(story())


def test_the_hold_of_a_settled_task_counts_from_its_acceptance_also_after_a_restart() -> None:
    async def story() -> None:
        station = Station()
        accepted = time.time()
        station.admit(task(1, spool_node="beta"), link=None)
        await station.settled()
        for again in (station, station.killed(), station.after_power_cut()):
            assert not expired(again.outbox, accepted - 1)
            assert len(expired(again.outbox, accepted + 1)) == 1

    run(story())


def test_a_task_whose_id_is_old_and_that_was_asked_for_again_waits_its_whole_time_once_more() -> None:
    async def story() -> None:
        station = Station()
        store = station.by_hand
        old = f"{NODE}_{int((time.time() - 9 * DAY) * 1e6)}_80"
        store.put(f"dead/uwsgi_spoolfile_on_{old}", [b"\x11\x00\x00\x00"], time.time() - 9 * DAY)
        store.disk.make_directory(store.layout.path("outbox/beta"))
        ref = store.revive(f"dead/uwsgi_spoolfile_on_{old}", outbox_ref("beta", old, station.outbox.number("beta")))
        station.outbox.accept_file(ref, time.time())
        for again in (station, station.killed()):
            assert not expired(again.outbox, time.time() - 5 * DAY)

    run(story())


def test_a_task_that_is_given_another_destination_has_waited_as_long_as_before() -> None:
    async def story() -> None:
        station = Station()
        accepted = time.time() - 9 * DAY
        station.admit(task(1, spool_node="beta"), link=None)
        await station.settled()
        (name,) = station.files("outbox/beta")
        station.disk.set_mtime(station.journal.layout.path(f"outbox/beta/{name}"), accepted)
        again = station.killed()
        await again.during(again.moving.re_place("beta", 10, lambda _asked: "gamma"))
        for later in (again, again.killed()):
            (info,) = inspect.outbox_tasks(later.journal.store, time.time())
            assert (info.destination, info.accepted) == ("gamma", accepted)
            assert not expired(later.outbox, accepted - 1)
            assert len(expired(later.outbox, accepted + 1)) == 1

    run(story())


def test_a_file_put_into_an_outbox_by_hand_waits_from_when_it_was_noticed_however_old_it_is() -> None:
    async def story() -> None:
        station = Station()
        store = station.by_hand
        store.disk.make_directory(store.layout.path("outbox/beta"))
        store.put("outbox/beta/uwsgi_spoolfile_on_x", [b"\x11\x00\x00\x00"], time.time() - 9 * DAY)
        again = station.killed()
        for later in (again, again.killed()):
            assert not expired(later.outbox, time.time() - 5 * DAY)
            assert later.outbox.total == 1

    run(story())


def test_a_dead_task_from_elsewhere_is_not_said_to_have_been_accepted_when_it_was_given_up() -> None:
    async def story() -> None:
        station = Station()
        station.by_hand.put("dead/uwsgi_spoolfile_on_x", [b"\x11\x00\x00\x00"], time.time())
        (info,) = inspect.dead_tasks(station.journal.store, time.time())
        assert info.accepted is None

    run(story())
