"""Requests that operators of other nodes make: how many at once, and that each is answered in time."""

import asyncio
import json
from typing import Any

import pytest

from spoolnode.node.config import Config
from spoolnode.node.control import operated as module
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


def test_request_that_takes_longer_than_its_caller_waits_is_answered_frees_its_place_and_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        go_on, gone_on = asyncio.Event(), asyncio.Event()

        async def slow(_: Any) -> dict[str, Any]:
            await go_on.wait()
            gone_on.set()
            return {}

        monkeypatch.setattr(module, "ANSWER_SECONDS", 0.01)
        operated = OperatedByOthers(Config(trust_operators_of=["alpha"]), [Route("GET", "/node", NUMBERS, slow)], print)
        alpha = caller_alpha()
        for _ in range(2):
            answers = await asyncio.gather(*(operated.answer(ASKED, alpha) for _ in range(MOST_UNDER_WAY)))
            assert {answer.status for answer in answers} == {504}
        assert "takes longer" in json.loads(answers[0].body)["detail"]
        go_on.set()
        await asyncio.wait_for(gone_on.wait(), 60)

    asyncio.run(main())


def test_mistake_of_a_handler_is_answered_as_over_http_and_reported_in_full() -> None:
    async def main() -> None:
        async def wrong(_: Any) -> dict[str, Any]:
            raise KeyError("nobody thought of this")

        said: list[tuple[str, dict[str, Any]]] = []
        routes = [Route("GET", "/node", NUMBERS, wrong)]
        operated = OperatedByOthers(
            Config(trust_operators_of=["alpha"]), routes, lambda action, **details: said.append((action, details))
        )
        answer = await operated.answer(ASKED, caller_alpha())
        assert (answer.status, json.loads(answer.body)["status"]) == (500, 500)
        ((action, details),) = said
        assert action == "mistake"
        assert "GET /node, asked by uid 1000 on alpha" in details["reason"]
        assert "nobody thought of this" in details["traceback"]

    asyncio.run(main())
