"""Host names are looked up where nothing else waits for them."""

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from spoolnode.cluster import lookup
from spoolnode.cluster.dial import DialError, dial
from spoolnode.cluster.lookup import LookUps, is_numeric

SHORT = 0.05


@contextmanager
def silent_for(*names: str) -> Iterator[Callable[[str], list[str]]]:
    """A resolver that does not answer for these names, and finds all others at 192.0.2.1."""
    ended = threading.Event()

    def resolve(host: str) -> list[str]:
        if host in names or "*" in names:
            ended.wait(60)
        return ["192.0.2.1"]

    yield resolve
    ended.set()


def test_a_name_that_nobody_answers_for_has_a_limit_and_delays_no_other() -> None:
    async def life() -> None:
        names = LookUps(resolve)
        with pytest.raises(OSError, match=r"no name server answered within 0\.05 s"):
            await names.addresses("silent.example", SHORT)
        assert await names.addresses("well.example", 30) == ["192.0.2.1"]

    with silent_for("silent.example") as resolve:
        asyncio.run(life())


def test_names_that_nobody_answers_for_leave_room_for_those_found_before() -> None:
    async def life() -> None:
        names = LookUps(resolve, most=4, kept=1)
        await names.addresses("well.example", 30)
        for number in range(3):
            with pytest.raises(OSError, match="no name server answered"):
                await names.addresses(f"silent{number}.example", SHORT)
        with pytest.raises(OSError, match="3 look-ups of names are under way already"):
            await names.addresses("another.example", 30)
        assert await names.addresses("well.example", 30) == ["192.0.2.1"]

    with silent_for(*(f"silent{number}.example" for number in range(3))) as resolve:
        asyncio.run(life())


def test_all_who_ask_for_one_name_share_one_look_up() -> None:
    asked = []
    go = threading.Event()

    def resolve(host: str) -> list[str]:
        asked.append(host)
        go.wait(30)
        return ["192.0.2.1"]

    async def life() -> None:
        names = LookUps(resolve)
        waiting = [asyncio.create_task(names.addresses("one.example", 30)) for _ in range(5)]
        await asyncio.sleep(0)
        go.set()
        assert await asyncio.gather(*waiting) == [["192.0.2.1"]] * 5

    asyncio.run(life())
    assert asked == ["one.example"]


def test_a_name_server_that_falls_silent_is_made_up_for_with_what_it_said_last() -> None:
    silent = threading.Event()
    ended = threading.Event()

    def resolve(host: str) -> list[str]:
        del host
        if silent.is_set():
            ended.wait(60)
        return ["192.0.2.7"]

    async def life() -> None:
        names = LookUps(resolve)
        await names.addresses("well.example", 30)
        silent.set()
        assert await names.addresses("well.example", SHORT) == ["192.0.2.7"]

    asyncio.run(life())
    ended.set()


def test_an_error_is_told_and_what_was_found_before_is_no_answer_to_it() -> None:
    answers: list[list[str]] = [["192.0.2.1"]]

    def resolve(host: str) -> list[str]:
        if not answers:
            raise socket.gaierror(-2, f"{host} is not known")
        return answers.pop()

    async def life() -> None:
        names = LookUps(resolve)
        await names.addresses("gone.example", 30)
        with pytest.raises(OSError, match="is not known"):
            await names.addresses("gone.example", 30)

    asyncio.run(life())


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1"])
def test_an_address_is_never_looked_up(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: str) -> list[str]:
        raise AssertionError(host)

    monkeypatch.setattr(lookup, "_process", LookUps(resolve))
    with pytest.raises(DialError, match=r"nothing listens|cannot be reached"):
        asyncio.run(dial(address, asyncio.Protocol, None))


def test_a_connection_to_a_name_says_that_no_name_server_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    with silent_for("*") as resolve:
        monkeypatch.setattr(lookup, "_process", LookUps(resolve))
        monkeypatch.setattr(lookup.look_up, "__defaults__", (SHORT,))
        with pytest.raises(DialError, match=r"the host of peer\.example:1 has no address: no name server answered within"):
            asyncio.run(dial("peer.example:1", asyncio.Protocol, None))


@pytest.mark.parametrize(
    ("address", "numeric"),
    [("127.0.0.1:1", True), ("[::1]:1", True), ("[fe80::1]:1", True), ("localhost:1", False), ("a.example:1", False)],
)
def test_which_addresses_are_numeric(address: str, numeric: bool) -> None:
    assert is_numeric(address) is numeric


END_WHILE_LOOKING_UP = """
import asyncio, threading, time
from spoolnode.cluster.lookup import LookUps

async def life():
    names = LookUps(lambda host: time.sleep(600))
    try:
        await names.addresses("silent.example", 0.01)
    except OSError as error:
        print(error)

asyncio.run(life())
"""


def test_a_look_up_under_way_keeps_no_process_from_ending() -> None:
    ended = subprocess.run([sys.executable, "-c", END_WHILE_LOOKING_UP], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "no name server answered within 0.01 s\n", "")
