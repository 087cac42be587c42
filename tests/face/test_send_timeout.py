"""How long a send may take: the limit that people set holds even if a node is stuck."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from spoolnode import SpoolnodeError, Unreachable, asend_to_spooler, send_to_spooler, spool, wire
from spoolnode.node.badconfig import BadConfig


@pytest.fixture(params=["tcp", "unix"])
def stopped_node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a node that the kernel still lets us connect to, and that does nothing: SIGSTOP."""
    path = str(tmp_path / "stopped.sock")
    listening = {
        "tcp": "place = socket.create_server(('127.0.0.1', 0)); print('%s:%d' % place.getsockname(), flush=True)",
        "unix": f"place = socket.socket(socket.AF_UNIX); place.bind({path!r}); place.listen(); print({path!r}, flush=True)",
    }
    program = f"import socket\n{listening[request.param]}\nplace.accept()"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        address = process.stdout.readline().strip()
        os.kill(process.pid, signal.SIGSTOP)
        yield address
        process.kill()


def test_stopped_node_costs_each_of_many_callers_its_timeout(stopped_node: str) -> None:
    def caller(large: bool) -> tuple[float, BaseException | None]:
        started = monotonic()
        try:
            send_to_spooler({"a": "b", "body": bytes(300_000 * large)}, via=stopped_node, send_timeout=1)
        except SpoolnodeError as error:
            return monotonic() - started, error
        return monotonic() - started, None

    async def many() -> list[Any]:
        sending = [asend_to_spooler({"a": "b"}, via=stopped_node, send_timeout=1) for _ in range(30)]
        return await asyncio.gather(*sending, return_exceptions=True)

    with ThreadPoolExecutor(16) as pool:
        ended = list(pool.map(caller, [False] * 12 + [True] * 4))
    assert all(isinstance(error, Unreachable) for _, error in ended)
    assert max(took for took, _ in ended) < 12, "for all together; one after the other it would be 16"
    started = monotonic()
    assert all(isinstance(error, Unreachable) for error in asyncio.run(many()))
    assert monotonic() - started < 20, "and here 30"


def test_timeout_comes_from_the_argument_else_the_environment_else_it_is_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPOOLNODE_SEND_TIMEOUT")
    assert wire.send_timeout(None) == 5.0
    monkeypatch.setenv("SPOOLNODE_SEND_TIMEOUT", "500ms")
    assert wire.send_timeout(None) == 0.5
    assert wire.send_timeout(2) == 2.0
    monkeypatch.setenv("SPOOLNODE_SEND_TIMEOUT", "")
    assert wire.send_timeout(None) == 5.0


def test_spooled_function_has_the_timeout_too(stopped_node: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPOOLNODE_SEND_TIMEOUT", "1h")

    @spool(name="work")
    def work() -> None: ...

    with pytest.raises(Unreachable):  # long before the hour is over
        work.options(via=stopped_node, send_timeout=0.1).spool()


@pytest.mark.parametrize("wrong", [0, -1, "5", True, float("nan"), float("inf"), 10**6])
def test_timeout_that_is_none_is_one_sentence(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadConfig, match=r"`send_timeout` is .*; it must be seconds, more than 0 and at most 86400"):
        send_to_spooler({"a": "b"}, send_timeout=wrong)
    monkeypatch.setenv("SPOOLNODE_SEND_TIMEOUT", f"x{wrong}")
    with pytest.raises(BadConfig, match=f"SPOOLNODE_SEND_TIMEOUT is 'x{wrong}'"):
        send_to_spooler({"a": "b"})
