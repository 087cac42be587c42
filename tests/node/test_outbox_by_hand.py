"""Removing by hand what waits for another node, while a link wants to send it."""

import asyncio
import errno
import os
from typing import Any

import pytest
from life import Fate, Life

from spoolnode.node.disk.layout import outbox_ref
from spoolnode.node.spool.tasks import Outbound
from spoolnode.protocol.packet import encode_variables
from spoolnode.protocol.request import PLAIN_TERMS

BLOCK = encode_variables([(b"spool_node", b"beta")])


async def waiting_task(life: Life, settled: bool) -> tuple[Any, Any]:
    """A task that waits for beta, in a batch or in a file of its own."""
    life.boot()
    fate = Fate(0, life.disk, b"")
    number = life.outbox.number("beta")
    life.spool.group_commit.add(BLOCK, b"", PLAIN_TERMS, fate, outbound=Outbound("beta", number))
    await life.rest()
    if settled:
        life.close_batch()
        await life.rest()
        life.settle()
        await life.rest()
    found = life.storage.at(outbox_ref("beta", fate.identity, number)) if settled else life.spool.find(fate.identity)
    assert found is not None
    return found


@pytest.mark.parametrize("settled", [False, True])
def test_a_task_that_is_being_removed_is_not_sent(settled: bool) -> None:
    async def story() -> None:
        life = Life(0)
        found = await waiting_task(life, settled)
        removal = asyncio.create_task(life.storage.remove(*found))
        await asyncio.sleep(0)
        assert await life.storage.shipping.take("beta", "", 10, 10) is None
        assert not await life.storage.remove(*found)
        await life.rest()
        assert await removal
        assert (life.outbox.sizes(), life.spool.total) == ({}, 0)
        assert not await life.storage.remove(*found)

    asyncio.run(story())


def test_a_task_that_the_disk_did_not_let_go_waits_as_before() -> None:
    async def story() -> None:
        life = Life(0)
        found = await waiting_task(life, settled=False)

        life.disk.fail_at(1, errno.EIO)
        removal = asyncio.create_task(life.storage.remove(*found))
        await life.rest()
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            await removal
        assert life.outbox.sizes() == {"beta": 1}
        assert life.outbox.where_to(*found) == "beta"
        assert not found[0].in_flight

    asyncio.run(story())


def test_a_task_that_somebody_else_removed_is_gone_for_the_link_too() -> None:
    async def story() -> None:
        life = Life(0)
        found = await waiting_task(life, settled=True)
        life.disk.unlink(life.journal.layout.path(found[1]))
        removal = asyncio.create_task(life.storage.remove(*found))
        await life.rest()
        assert not await removal
        assert life.outbox.sizes() == {}
        assert await life.storage.shipping.take("beta", "", 10, 10) is None

    asyncio.run(story())
