"""A pool gives workers no more tasks of a function than its limits let run, and those of others overtake them."""

import asyncio
from collections import Counter

import pytest
from hands import Hands, HandWorker, run
from linked import task

from spoolnode.node.outcome import Limit
from spoolnode.node.work import messages

Patch = pytest.MonkeyPatch


async def admit(hands: Hands, *functions: str) -> None:
    for function in functions:
        hands.station.admit(task(len(functions), spool_func=function), link=None)
    await hands.station.rest()
    hands.pool.dispatch()
    await hands.turn()


def held(hands: Hands) -> Counter[str]:
    """The functions of the tasks that workers have."""
    starting = hands.station.spool.starting
    chunks = [chunk for worker in hands.workers for chunk in worker.chunks.values()]
    return Counter(
        starting.functions.name(chunk.source.alike(chunk.refs, position, 1)[0]) for chunk in chunks for position in chunk.open
    )


def busy(hands: Hands) -> HandWorker:
    return next(worker for worker in hands.workers if worker.held)


def limited(hands: Hands, **limits: Limit) -> None:
    hands.station.spool.starting.throttle.limit(limits)
    hands.station.spool.waiting.when_changed(hands.pool.dispatch)  # as housekeeping does


def test_a_mail_starts_at_once_beside_a_hundred_slow_ones_of_which_one_may_run(monkeypatch: Patch) -> None:
    async def story(hands: Hands) -> None:
        await hands.load()
        limited(hands, slow=Limit(1))
        await admit(hands, *["slow"] * 100, "mail")
        assert held(hands) == {"slow": 1, "mail": 1}
        assert hands.station.spool.starting.held_back() == {"slow": 99}
        await admit(hands, "mail", "mail")
        assert sum(held(hands).values()) <= 4
        assert held(hands)["slow"] == 1

    run(monkeypatch, story, workers=2)


def test_the_next_starts_when_one_ends_in_their_order(monkeypatch: Patch) -> None:
    async def story(hands: Hands) -> None:
        await hands.load()
        limited(hands, slow=Limit(1))
        await admit(hands, *["slow"] * 5)
        ran = []
        for _ in range(5):
            worker = busy(hands)
            (chunk,) = worker.chunks.values()
            assert held(hands) == {"slow": 1}
            ran.append(chunk.refs[0])
            worker.finish(len(worker.tasks()) - 1)
            await hands.turn()
        assert ran == sorted(ran)
        assert hands.station.spool.total == 0

    run(monkeypatch, story, workers=2)


@pytest.mark.parametrize("how", ["fails", "dies", "dies unstarted", "is given back"])
def test_however_a_task_leaves_its_worker_its_share_is_free(monkeypatch: Patch, how: str) -> None:
    async def story(hands: Hands) -> None:
        await hands.load()
        limited(hands, slow=Limit(1))
        await admit(hands, "slow", "slow")
        worker = busy(hands)
        if how == "fails":
            worker.fail(0, "failed")
        elif how == "is given back":
            worker.say("returned", worker.tasks()[0][0], messages.pack_positions([0]))
        else:
            if how == "dies":
                worker.begin()
            worker.die(-9)
        await hands.turn()
        await hands.turn()
        assert held(hands) == {"slow": 1}

    run(monkeypatch, story, workers=2)


def test_a_rate_lets_more_start_exactly_when_its_time_is_over(monkeypatch: Patch) -> None:
    async def story(hands: Hands) -> None:
        await hands.load()
        limited(hands, mail=Limit(starts=2, seconds=60.0))
        await admit(hands, *["mail"] * 3)
        worker = hands.workers[0]
        while len(worker.tasks()) < 2:
            worker.finish(len(worker.tasks()) - 1)
            await hands.turn()
        worker.finish(1)
        await asyncio.sleep(59.0)
        assert len(worker.tasks()) == 2
        await asyncio.sleep(1.1)
        assert len(worker.tasks()) == 3

    run(monkeypatch, story)


def test_a_reload_brings_the_limits_of_the_new_application(monkeypatch: Patch) -> None:
    async def story(hands: Hands) -> None:
        await hands.load()
        limited(hands, slow=Limit(1))
        await admit(hands, "slow", "slow", "slow")
        assert held(hands) == {"slow": 1}
        await hands.load()
        assert held(hands)["slow"] == 3, "the new one has none"

    run(monkeypatch, story, workers=2)


def test_workers_tell_the_limits_when_they_are_up(monkeypatch: Patch) -> None:
    async def story(hands: Hands) -> None:
        await hands.load()
        hands.workers[0].up(slow=Limit(1, 5, 60.0))
        await hands.turn()
        throttle = hands.station.spool.starting.throttle
        assert throttle.governed == ["slow"]
        assert throttle.allowance(hands.station.spool.starting.functions.note("slow")) == 1

    run(monkeypatch, story)
