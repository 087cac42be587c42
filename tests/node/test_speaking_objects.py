"""Long-lived objects say in one line what they are about to do, for debuggers and logs."""

import asyncio

from linked import Station, task


def test_each_says_what_it_holds() -> None:
    async def story() -> None:
        station = Station()
        station.admit(task(1), link=None)
        station.admit(task(2, spool_node="beta"), link=None)
        await station.rest()
        taken = station.spool.take(1)
        assert taken is not None
        assert repr(station.spool) == "<spool /var/spool: 1 tasks, <waiting: 0 ready, 0 later>>"
        assert repr(station.outbox) == "<outbox: 1 tasks for 1 of 1 destinations>"
        assert repr(station.outbox.destination("beta")) == ("<destination beta: 1 tasks, 1 unsent, in doubt {}, peer ''>")
        assert repr(taken.source) == f"<batch {taken.source.number}, open: 2 live, 1 in flight, 0 settled>"
        assert repr(station.spool.files) == "<files: 0, 0 in flight>"
        assert repr(station.journal).startswith("<journal /var/spool: 1 batches, ")
        assert repr(station.moving) == f"<moves between {station.spool!r} and {station.outbox!r}>"

    asyncio.run(story())
