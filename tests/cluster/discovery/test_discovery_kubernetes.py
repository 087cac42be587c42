"""The source k8s://, against a small fake of the API (tests/cluster/discovery/fake_kubernetes.py). It has not seen a real one."""

import random
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from fake_kubernetes import FakeKubernetes, certified, endpoint
from hearing import Heard, check, running, until

from spoolnode.cluster.discovery.followed import Followed, RetryPauses, pause_after
from spoolnode.cluster.discovery.kubernetes import ClusterApi, ServicePort, endpoints_of, from_inside
from spoolnode.node.badconfig import BadConfig

QUICK = RetryPauses(0.002, 0.01)


def source(api: FakeKubernetes, heard: Heard, *, port: str = "", namespace: str = "") -> Followed:
    wanted = ServicePort("spoolnode", namespace, port)
    follow = endpoints_of(ClusterApi(api.address, api.account), wanted, lambda: 0.002)
    return Followed("k8s://", follow, heard.report, rng=random.Random(1), pauses=QUICK)


def watches(api: FakeKubernetes) -> list[dict[str, str]]:
    return [query for query in api.asked if "watch" in query]


def lists(api: FakeKubernetes) -> list[dict[str, str]]:
    return [query for query in api.asked if "watch" not in query]


def test_ready_endpoints_of_all_slices_are_candidates_and_others_are_not(tmp_path: Path) -> None:
    async def test() -> None:
        heard = Heard()
        async with FakeKubernetes(tmp_path) as api:
            api.put("one", endpoint("10.1.0.1", pod="a"), endpoint("10.1.0.2", ready=False, pod="b"))
            api.put("two", endpoint("10.1.0.3", ready=None, pod="c"), endpoint("10.1.0.4"))
            api.put("six", endpoint("fd00::1", pod="a"), endpoint("fd00::9", ready=False, pod="b"))
            api.put("others", endpoint("10.9.9.9"), service="web")
            api.put("empty")
            async with running(source(api, heard), heard=heard):
                await until(lambda: heard.found_)
                assert heard.addresses == {
                    "a": ("10.1.0.1:3031", "[fd00::1]:3031"),
                    "c": ("10.1.0.3:3031",),
                    "10.1.0.4:3031": ("10.1.0.4:3031",),
                }
                assert not heard.reports

    check(test())


def test_each_change_is_heard_from_the_watch_without_another_list(tmp_path: Path) -> None:
    async def test() -> None:
        heard = Heard()
        async with FakeKubernetes(tmp_path) as api, running(source(api, heard), heard=heard):
            await until(lambda: watches(api), "a service without slices is watched, too")
            api.put("one", endpoint("10.1.0.1", pod="a"))
            await until(lambda: "a" in heard.addresses)
            api.put("one", endpoint("10.1.0.1", ready=False, pod="a"), endpoint("10.1.0.2", pod="b"))
            await until(lambda: heard.gone_ == ["a"] and "b" in heard.addresses)
            api.remove("one")
            await until(lambda: heard.gone_ == ["a", "b"])
            assert len(lists(api)) == 1
            assert not heard.reports

    check(test())


def test_a_watch_that_ends_goes_on_where_it_was_and_a_bookmark_moves_that(tmp_path: Path) -> None:
    async def test() -> None:
        heard = Heard()
        async with FakeKubernetes(tmp_path) as api:
            api.put("one", endpoint("10.1.0.1", pod="a"))
            async with running(source(api, heard), heard=heard):
                await until(lambda: watches(api))
                api.bookmark()
                api.cut()
                await until(lambda: len(watches(api)) >= 2)
                if watches(api)[-1]["resourceVersion"] == "101":  # cut before the bookmark came
                    api.cut()
                await until(lambda: watches(api)[-1]["resourceVersion"] == "102")
                assert watches(api)[0]["resourceVersion"] == "101"
                assert watches(api)[0]["timeoutSeconds"] == "60"
                assert len(lists(api)) == 1
                api.put("two", endpoint("10.1.0.2", pod="b"))
                await until(lambda: "b" in heard.addresses)
                assert not heard.reports

    check(test())


@pytest.mark.parametrize("in_stream", [True, False])
def test_410_gone_reads_the_list_again_and_misses_nothing(tmp_path: Path, *, in_stream: bool) -> None:
    async def test() -> None:
        heard = Heard()
        async with FakeKubernetes(tmp_path) as api:
            api.says_gone_in_stream = in_stream
            api.put("one", endpoint("10.1.0.1", pod="a"))
            api.put("two", endpoint("10.1.0.2", pod="b"))
            async with running(source(api, heard), heard=heard):
                await until(lambda: len(watches(api)) == 1)
                await api.stop()  # so that the changes that follow come in no watch
                await until(lambda: heard.reports)
                api.remove("one")
                api.put("three", endpoint("10.1.0.3", pod="c"))
                api.compact()
                await api.start()
                await until(lambda: "c" in heard.addresses and heard.gone_ == ["a"])
                api.compact()
                api.cut()
                listed = len(lists(api))
                await until(lambda: len(lists(api)) > listed, "the list is read again")
                api.put("four", endpoint("10.1.0.4", pod="d"))
                await until(lambda: "d" in heard.addresses)
                assert heard.actions == ["discovery_failed", "discovery_works"], "410 is no failure"

    check(test())


def test_a_server_that_goes_away_is_said_once_keeps_the_list_and_is_found_again(tmp_path: Path) -> None:
    async def test() -> None:
        heard = Heard()
        async with FakeKubernetes(tmp_path) as api:
            api.put("one", endpoint("10.1.0.1", pod="a"))
            async with running(source(api, heard), heard=heard):
                await until(lambda: heard.found_)
                await api.stop()
                await until(lambda: heard.reports)
                assert not heard.gone_
                api.put("one", endpoint("10.1.0.2", pod="b"))
                await api.start()
                await until(lambda: heard.gone_ == ["a"] and "b" in heard.addresses)
                assert heard.actions == ["discovery_failed", "discovery_works"]
                assert "the last list stays" in heard.reports[0][1]

    check(test())


def test_a_token_that_is_not_taken_is_said_once_and_a_new_one_in_the_file_is_used(tmp_path: Path) -> None:
    async def test() -> None:
        heard = Heard()
        async with FakeKubernetes(tmp_path) as api:
            api.put("one", endpoint("10.1.0.1", pod="a"))
            api.tell_pod("old")
            async with running(source(api, heard), heard=heard):
                await until(lambda: len(api.asked) > 3)
                expected = "no answer: it answers 401: Unauthorized; no peers from it until there is one"
                assert heard.reports == [("discovery_failed", expected)]
                api.tell_pod("a-token")
                await until(lambda: heard.found_)
                assert heard.actions == ["discovery_failed", "discovery_works"]

    check(test())


def test_an_account_without_the_right_is_said_in_the_words_of_kubernetes(tmp_path: Path) -> None:
    async def test() -> None:
        heard = Heard()
        async with FakeKubernetes(tmp_path) as api, running(source(api, heard, namespace="secret"), heard=heard):
            await until(lambda: heard.reports)
            assert 'it answers 403: endpointslices is forbidden: User "pod" cannot list' in heard.reports[0][1]

    check(test())


def test_an_account_that_may_only_list_is_said_once_not_at_each_attempt(tmp_path: Path) -> None:
    async def test() -> None:
        heard = Heard()
        async with FakeKubernetes(tmp_path) as api:
            api.may_watch = False
            async with running(source(api, heard), heard=heard):
                await until(lambda: len(lists(api)) > 3)
                assert heard.actions == ["discovery_failed"]
                assert "cannot watch" in heard.reports[0][1]

    check(test())


def test_a_server_of_another_authority_gets_no_token(tmp_path: Path) -> None:
    async def test() -> None:
        heard = Heard()
        async with FakeKubernetes(tmp_path) as api:
            certified(tmp_path)  # another ca.crt
            async with running(source(api, heard), heard=heard):
                await until(lambda: heard.reports)
                assert "certificate" in heard.reports[0][1].lower()
                assert not api.asked

    check(test())


def test_a_pod_without_credentials_is_said_once(tmp_path: Path) -> None:
    async def test() -> None:
        heard = Heard()
        async with FakeKubernetes(tmp_path) as api:
            (tmp_path / "token").unlink()
            async with running(source(api, heard), heard=heard):
                await until(lambda: heard.reports)
                assert "No such file" in heard.reports[0][1]

    check(test())


TWO = [{"name": "uwsgi", "port": 3031}, {"name": "http", "port": 9031}]


@pytest.mark.parametrize(
    ("ports", "wanted", "found"),
    [
        (TWO, "uwsgi", 3031),
        (TWO, "9031", 9031),
        ([{"name": "", "port": 4031}], "", 4031),
        (TWO, "", "its ports are uwsgi, http: name one of them"),
        (TWO, "grpc", "its ports are uwsgi, http: name one of them"),
        ([], "", "its ports are none"),
        ([{"name": "uwsgi", "port": None}], "uwsgi", "its ports are none"),
    ],
)
def test_the_port_is_the_one_of_that_name_or_number_or_the_only_one(
    tmp_path: Path, ports: Any, wanted: str, found: int | str
) -> None:
    async def test() -> None:
        heard = Heard()
        async with FakeKubernetes(tmp_path) as api:
            api.put("one", endpoint("10.1.0.1", pod="a"), ports=ports)
            async with running(source(api, heard, port=wanted), heard=heard):
                await until(lambda: heard.found_ or heard.reports)
                if isinstance(found, int):
                    assert heard.addresses == {"a": (f"10.1.0.1:{found}",)}
                else:
                    assert found in heard.reports[0][1]

    check(test())


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"type": "ERROR", "object": {"code": 500, "message": "etcd is away"}}, "it answers 500: etcd is away"),
        ({"type": "ERROR", "object": {}}, "not as it should be"),
        ({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": 7}}}, "not as it should be"),
    ],
)
def test_an_event_that_makes_no_sense_reads_the_list_again(tmp_path: Path, event: Any, said: str) -> None:
    async def test() -> None:
        heard = Heard()
        async with FakeKubernetes(tmp_path) as api:
            api.put("one", endpoint("10.1.0.1", pod="a"))
            async with running(source(api, heard), heard=heard):
                await until(lambda: watches(api))
                api.send(event)
                await until(lambda: len(lists(api)) == 2 and len(heard.reports) == 2)
                assert heard.actions == ["discovery_failed", "discovery_works"]
                assert said in heard.reports[0][1]
                assert not heard.gone_

    check(test())


@pytest.mark.parametrize("text", ["<html>", "[]", "{}", '{"metadata": {"resourceVersion": "1"}, "items": [{}]}', "[" * 100_000])
def test_an_answer_that_makes_no_sense_is_said_once(tmp_path: Path, text: str) -> None:
    async def test() -> None:
        heard = Heard()
        async with FakeKubernetes(tmp_path) as api:
            api.instead = web.Response(text=text)
            api.put("one", endpoint("10.1.0.1", pod="a"))
            async with running(source(api, heard), heard=heard):
                await until(lambda: len(api.asked) > 3)
                assert heard.actions == ["discovery_failed"]
                api.instead = None
                await until(lambda: heard.found_)

    check(test())


def test_a_slice_with_a_thousand_endpoints_fits_into_one_event(tmp_path: Path) -> None:
    async def test() -> None:
        heard = Heard()
        async with FakeKubernetes(tmp_path) as api, running(source(api, heard), heard=heard):
            await until(lambda: watches(api))
            endpoints = [endpoint(f"10.1.{number >> 8}.{number & 255}", pod=f"pod-{number}{'x' * 300}") for number in range(1000)]
            api.put("one", *endpoints)
            await until(lambda: len(heard.found_) == 1000)
            assert not heard.reports

    check(test())


def test_the_api_is_where_the_pod_is_told_and_outside_of_a_pod_that_is_said() -> None:
    assert from_inside({"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "6443"}).address == "10.96.0.1:6443"
    assert from_inside({"KUBERNETES_SERVICE_HOST": "fd00::1"}).address == "[fd00::1]:443"
    with pytest.raises(BadConfig, match="only in a pod"):
        from_inside({})


def test_pauses_double_up_to_a_limit_and_are_never_zero() -> None:
    rng, pauses = random.Random(1), RetryPauses(1.0, 60.0)
    for failures, bound in [(0, 1.0), (1, 1.0), (2, 2.0), (3, 4.0), (7, 60.0), (10_000, 60.0)]:
        drawn = [pause_after(failures, pauses, rng) for _ in range(50)]
        assert all(bound / 2 <= pause <= bound for pause in drawn)
        assert len(set(drawn)) > 1
