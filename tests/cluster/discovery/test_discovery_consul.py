"""The source consul://, against a small fake of Consul (tests/cluster/discovery/fake_consul.py). It has not seen a real one."""

import random

import pytest
from aiohttp import web
from fake_consul import FakeConsul
from hearing import Heard, check, running, until

from spoolnode.cluster.discovery.consul import Catalogued, addresses_in, instances_of, next_index
from spoolnode.cluster.discovery.followed import Followed, RetryPauses

QUICK = RetryPauses(0.002, 0.01)
INDEX = {"X-Consul-Index": "7"}


def source(consul: FakeConsul, heard: Heard, *, token: str = "", service: str = "spoolnode") -> Followed:
    follow = instances_of(Catalogued(consul.address, service, token), lambda: 0.002)
    return Followed("consul://", follow, heard.report, rng=random.Random(1), pauses=QUICK)


async def asked_again(consul: FakeConsul, times: int = 2) -> None:
    """Returns when the agent has been asked again, so that what it answered before is known."""
    enough = len(consul.asked) + times
    await until(lambda: len(consul.asked) >= enough, "the next query")


def test_instances_that_pass_are_candidates_at_their_own_address_or_that_of_their_machine() -> None:
    async def test() -> None:
        heard = Heard()
        async with FakeConsul() as consul:
            consul.put("a", 3031, address="10.0.0.7")
            consul.put("b", 3032, machine="10.0.0.8")
            consul.put("c", 3031, address="fd00::7")
            consul.put("d", 3031, address="d.example.org")
            consul.put("e", 3031, address="10.0.0.9", status="critical")
            async with running(source(consul, heard), heard=heard):
                await until(lambda: heard.found_)
                there = ["10.0.0.7:3031", "10.0.0.8:3032", "[fd00::7]:3031", "d.example.org:3031"]
                assert heard.addresses == {address: (address,) for address in there}
                assert not heard.reports

    check(test())


def test_a_change_is_told_by_the_query_that_waits_for_it_and_a_failing_check_withdraws() -> None:
    async def test() -> None:
        heard = Heard()
        async with FakeConsul() as consul:
            consul.put("a", 3031)
            async with running(source(consul, heard), heard=heard):
                await until(lambda: len(consul.asked) == 2)
                assert consul.asked == [{"passing": "true"}, {"passing": "true", "index": "11", "wait": "60s"}]
                consul.put("b", 3032)
                await until(lambda: "10.0.0.1:3032" in heard.addresses)
                consul.put("a", 3031, status="critical")
                await until(lambda: heard.gone_ == ["10.0.0.1:3031"])
                consul.remove("b")
                await until(lambda: len(heard.gone_) == 2)
                await until(lambda: consul.asked[-1].get("index") == str(consul.index))
                assert not heard.reports, "a service without instances is no failure"

    check(test())


def test_an_index_that_goes_backwards_is_forgotten_and_changes_after_it_are_heard() -> None:
    async def test() -> None:
        heard = Heard()
        async with FakeConsul() as consul:
            consul.put("a", 3031)
            async with running(source(consul, heard), heard=heard):
                await until(lambda: consul.asked and "index" in consul.asked[-1])
                before = len(consul.asked)
                consul.restore()
                await until(lambda: len(consul.asked) >= before + 2)
                assert "index" not in consul.asked[before]
                assert consul.asked[before + 1]["index"] == "1"
                consul.put("b", 3032)
                await until(lambda: "10.0.0.1:3032" in heard.addresses)
                assert not heard.reports

    check(test())


@pytest.mark.parametrize(("last", "told", "following"), [(0, "9", 9), (9, "9", 9), (9, "12", 12), (9, "3", 0), (0, "0", 1)])
def test_the_next_index_is_what_the_manual_says(last: int, told: str, following: int) -> None:
    assert next_index(last, {"X-Consul-Index": told}) == following


def test_an_agent_that_goes_away_is_said_once_keeps_the_list_and_is_found_again() -> None:
    async def test() -> None:
        heard = Heard()
        async with FakeConsul() as consul:
            consul.put("a", 3031)
            async with running(source(consul, heard), heard=heard):
                await until(lambda: heard.found_)
                await consul.stop()
                await until(lambda: heard.reports)
                assert heard.actions == ["discovery_failed"]
                assert "the last list stays" in heard.reports[0][1]
                assert not heard.gone_
                consul.put("b", 3032)
                await consul.start()
                await until(lambda: "10.0.0.1:3032" in heard.addresses)
                assert heard.actions == ["discovery_failed", "discovery_works"]
                assert not heard.gone_

    check(test())


def test_a_wrong_token_is_said_once_in_the_words_of_consul_and_the_right_one_is_used() -> None:
    async def test() -> None:
        wrong, right = Heard(), Heard()
        async with FakeConsul(token="s3cret") as consul:
            consul.put("a", 3031)
            async with running(source(consul, wrong, token="other"), heard=wrong):
                await asked_again(consul, 4)
                assert wrong.reports == [
                    ("discovery_failed", "no answer: it answers 403: ACL not found; no peers from it until there is one")
                ]
            async with running(source(consul, right, token="s3cret"), heard=right):
                await until(lambda: right.found_)
                assert not right.reports

    check(test())


def test_a_token_that_may_read_nothing_is_told_from_a_service_without_instances() -> None:
    async def test() -> None:
        heard = Heard()
        async with FakeConsul() as consul:
            consul.is_filtering = True
            async with running(source(consul, heard), heard=heard):
                await until(lambda: heard.reports)
                assert "needs service:read and node:read" in heard.reports[0][1]

    check(test())


@pytest.mark.parametrize(
    ("instead", "said"),
    [
        (web.Response(text="<html>", headers=INDEX), "not JSON"),
        (web.Response(text="[" * 100_000, headers=INDEX), "not JSON"),
        (web.Response(text='{"a": 1}', headers=INDEX), "not as it should be"),
        (web.Response(text='[{"Service": {}}, 7]', headers=INDEX), "has an address and a port"),
        (web.Response(text='[{"Service": {"Address": 5, "Port": 1}}]', headers=INDEX), "has an address and a port"),
        (web.Response(text='[{"Service": {"Address": "a", "Port": 0}}]', headers=INDEX), "has an address and a port"),
        (web.Response(text="[]"), "is it Consul?"),
        (web.Response(text="[]", headers={"X-Consul-Index": "x"}), "is it Consul?"),
        (web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}), "it answers 302"),
        (web.Response(status=500, text="a\nb\x1b[31m"), "it answers 500: a b\\x1b[31m"),
        (web.Response(body=b" " * ((8 << 20) + 1), headers=INDEX), "more than 8388608 bytes"),
    ],
)
def test_an_answer_that_makes_no_sense_is_said_once_in_one_line_and_keeps_the_list(instead: web.Response, said: str) -> None:
    async def test() -> None:
        heard = Heard()
        async with FakeConsul() as consul:
            consul.put("a", 3031)
            async with running(source(consul, heard), heard=heard):
                await until(lambda: heard.found_)
                consul.instead = instead
                consul.put("b", 3032)  # ends the query that waits
                await until(lambda: heard.reports)
                await asked_again(consul, 3)
                assert heard.actions == ["discovery_failed"]
                assert said in heard.reports[0][1]
                assert heard.reports[0][1].isprintable()
                assert "10.0.0.1:3031" not in heard.gone_
                consul.instead = None
                await until(lambda: len(heard.actions) == 2)
                assert heard.actions[1] == "discovery_works"

    check(test())


def test_an_instance_without_an_address_costs_no_other_instance_its_place() -> None:
    good = {"Service": {"Address": "10.0.0.7", "Port": 3031}}
    bad = [{"Service": {}}, {}, None, 7, [], {"Service": {"Address": "", "Port": 1}, "Node": None}]
    assert addresses_in([*bad, good, *bad]) == ["10.0.0.7:3031"]
