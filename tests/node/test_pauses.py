"""What an operator has paused does not start, is kept over restarts, and is on disk before the operator hears of it."""

import asyncio
import errno
import json
import time
from collections.abc import Coroutine
from typing import Any

import pytest
from life import NODE, Fate, Life, power_back

from spoolnode.node.spool.pauses import Paused
from spoolnode.node.spool.store import Store
from spoolnode.protocol.packet import encode_variables
from spoolnode.protocol.request import PLAIN_TERMS, Terms

Story = Coroutine[Any, Any, None]


async def accepted(life: Life, *functions: str) -> list[str]:
    """The ids of tasks of these functions, in the open batch; "" is none."""
    fates = []
    for function in functions:
        fate = Fate(len(life.fates), life.disk, b"")
        life.fates[fate.n] = fate
        named = [(b"spool_func", function.encode())] if function else []
        terms = Terms(function=function.encode()) if function else PLAIN_TERMS
        life.spool.group_commit.add(encode_variables([(b"n", str(fate.n).encode()), *named]), b"", terms, fate)
        fates.append(fate)
    await life.rest()
    return [fate.identity for fate in fates]


async def during(life: Life, change: Coroutine[Any, Any, Any]) -> Any:
    """The result of a change, with all that the disk threads do for it."""
    changing = asyncio.get_running_loop().create_task(change)
    while not changing.done():
        await life.rest()
    return changing.result()


def taken(life: Life) -> list[str]:
    """The ids of all tasks that may run now, in order; they are given back."""
    found, ids = [], []
    while (some := life.spool.take(10)) is not None:
        found.append(some)
        ids += [life.spool.id_of(some.source, ref) for ref in some.refs]
    for some in reversed(found):
        life.spool.give_back(some)
    return ids


def started() -> Life:
    life = Life(0)
    life.boot()
    return life


def restarted(life: Life) -> Life:
    """The node after a power cut, when its files are no longer so new that they may still be written."""
    life = power_back(life, 1)
    life.boot()
    life.spool.waiting.wake_due(time.time() + 10)
    return life


def test_tasks_of_a_paused_function_wait_until_it_is_resumed_and_others_run() -> None:
    async def story() -> None:
        life = started()
        first, other, second, plain = await accepted(life, "mail", "pay", "mail", "")
        assert await during(life, life.storage.pauses.pause("mail")) == (False, {"mail"})
        assert taken(life) == [other, plain]
        (third,) = await accepted(life, "mail")
        assert taken(life) == [other, plain]
        assert life.spool.starting.count == 2
        await during(life, life.storage.pauses.resume("mail"))
        assert [identity for identity in taken(life) if identity not in (other, plain)] == [first, second, third]

    asyncio.run(story())


def test_everything_waits_while_everything_is_paused_and_tasks_are_accepted() -> None:
    async def story() -> None:
        life = started()
        await during(life, life.storage.pauses.pause("mail"))
        await during(life, life.storage.pauses.pause(""))
        ids = await accepted(life, "mail", "")
        assert taken(life) == []
        assert life.spool.starting.count == 0
        assert await during(life, life.storage.pauses.resume("")) == Paused()
        assert sorted(taken(life)) == sorted(ids)

    asyncio.run(story())


@pytest.mark.parametrize("settles", [False, True], ids=["in batches", "in files"])
def test_a_pause_is_kept_over_a_restart(settles: bool) -> None:
    async def story() -> None:
        life = started()
        mail, pay = await accepted(life, "mail", "pay")
        await during(life, life.storage.pauses.pause("mail"))
        if settles:
            life.close_batch()
            await life.rest()
            life.settle()
            await life.rest()
            assert taken(life) == [pay], "its file is known to be for the paused function"
        life = restarted(life)
        assert life.storage.pauses.now == (False, {"mail"})
        assert taken(life) == ([mail, pay] if settles else [pay]), "of a file a start does not know; a worker looks"

    asyncio.run(story())


def test_a_worker_hears_which_functions_it_must_give_back_only_with_tasks_that_are_not_known() -> None:
    async def story() -> None:
        life = started()
        await accepted(life, "mail", "pay")
        await during(life, life.storage.pauses.pause("mail"))
        known = life.spool.take(9)
        assert known is not None
        assert life.spool.starting.to_return(known) == []
        life.spool.give_back(known)
        life.close_batch()
        await life.rest()
        life.settle()
        await life.rest()
        life = restarted(life)
        unknown = life.spool.take(9)
        assert unknown is not None
        assert life.spool.starting.to_return(unknown) == ["mail"]
        source, (first, *rest), rank = unknown
        life.spool.starting.learn(source, first, rank, "mail")
        assert life.spool.take(9) is None, "it is known now"
        await during(life, life.storage.pauses.resume("mail"))
        again = life.spool.take(9)
        assert again is not None
        assert list(again.refs) == [first]
        assert len(rest) == 1

    asyncio.run(story())


def test_a_change_that_the_disk_does_not_take_is_told_and_changes_nothing() -> None:
    async def story() -> None:
        life = started()
        (mail,) = await accepted(life, "mail")
        life.disk.fail_at(1, errno.ENOSPC)
        with pytest.raises(OSError, match="space"):
            await during(life, life.storage.pauses.pause("mail"))
        assert taken(life) == [mail]
        assert life.storage.pauses.now == Paused()

    asyncio.run(story())


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"\xff", b'{"everything": 1, "functions": []}', b'{"everything": true, "functions": [1]}']
)
def test_a_file_that_makes_no_sense_is_moved_aside_and_reported(data: bytes) -> None:
    async def story() -> None:
        life = started()
        store = Store(life.disk, life.storage.journal.layout, NODE)
        store.replace(store.layout.paused, data)
        life.boot()
        assert life.storage.pauses.now == Paused()
        assert [entry.name for entry in store.disk.entries(store.layout.corrupt)] == ["paused"]

    asyncio.run(story())


def test_the_file_is_json_that_people_can_read() -> None:
    paused = Paused(functions=frozenset({"shop:pay", "shop:mail"}))
    assert json.loads(paused.encode()) == {"everything": False, "functions": ["shop:mail", "shop:pay"]}
    assert Paused.decode(paused.encode()) == paused
