"""Requests that operators of other nodes make: how many at once."""

import asyncio
from typing import Any

import pytest

from spoolnode.node.config import Config
from spoolnode.node.control.operated import MOST_UNDER_WAY, OperatedByOthers
from spoolnode.node.control.routes import NUMBERS, Route
from spoolnode.node.ingress.caller import Caller
from spoolnode.node.neighbours import Greeting
from spoolnode.protocol.errors import Reason, Refused
from spoolnode.protocol.hello import Hello
from spoolnode.protocol.operate import Operation

ASKED = Operation("GET", "/node", "", "uid 1000")


def caller_alpha() -> Caller:
    """Alpha, which has shown its certificate and has said hello."""
    caller = Caller("192.0.2.1", is_local=False, is_allowed=True, certified="alpha")
    hello = Hello("0123456789ab", "alpha", "default", "")
    caller.introduce(hello, lambda hello, *_: Greeting(hello.id, is_proved=True), lambda *_: None)
    return caller


def test_one_more_than_may_be_under_way_is_told_to_come_later_and_its_place_is_free_again() -> None:
    async def main() -> None:
        go_on = asyncio.Event()

        async def slow(_: Any) -> dict[str, Any]:
            await go_on.wait()
            return {}

        operated = OperatedByOthers(Config(trust_operators_of=["alpha"]), [Route("GET", "/node", NUMBERS, slow)], print)
        alpha = caller_alpha()
        under_way = [asyncio.create_task(operated.answer(ASKED, alpha)) for _ in range(MOST_UNDER_WAY)]
        await asyncio.sleep(0)
        with pytest.raises(Refused, match="ask again") as refused:
            await asyncio.wait_for(operated.answer(ASKED, alpha), 10)
        assert refused.value.reason is Reason.BUSY
        under_way.pop().cancel()
        await asyncio.sleep(0)
        go_on.set()
        assert (await operated.answer(ASKED, alpha)).status == 200
        assert [answer.status for answer in await asyncio.gather(*under_way)] == [200] * (MOST_UNDER_WAY - 1)

    asyncio.run(main())
