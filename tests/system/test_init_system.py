"""The init system hears how the node is, as sd_notify(3) says, on a real datagram socket."""

import asyncio
import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import PATIENCE, RunningNode
from watch import NOTES, wait_for_note

from spoolnode import send_to_spooler
from spoolnode.node.notify import Notifier

APP = (
    NOTES
    + """
def spooler(env):
    note(*[name for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID") if name in os.environ], "end of list")

uwsgi.spooler = spooler
"""
)


class Init:
    """The end of systemd."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.heard: list[list[str]] = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0"))
        self.socket.settimeout(PATIENCE)

    def wait_for(self, line: str) -> list[str]:
        """The next message with this line."""
        while True:
            self.heard.append(self.socket.recv(4096).decode().split("\n"))
            if line in self.heard[-1]:
                return self.heard[-1]


@pytest.fixture(params=["a path", "an abstract name"])
def init(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Init]:
    found = Init(str(tmp_path / "notify") if request.param == "a path" else f"@spoolnode-{os.getpid()}-{time.monotonic_ns()}")
    yield found
    found.socket.close()


def test_node_says_when_it_is_ready_reloads_and_stops(node: RunningNode, init: Init) -> None:
    node.start(app=APP, NOTIFY_SOCKET=init.address)
    assert init.wait_for("READY=1") == ["READY=1"]
    assert init.wait_for("STATUS=0 running, 0 waiting, 0 due later")
    send_to_spooler({"a": "b"}, via=node.via)
    wait_for_note(node, "end of list")
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    os.kill(node.pid, signal.SIGHUP)
    said = init.wait_for("RELOADING=1")[1]
    assert before <= int(said.removeprefix("MONOTONIC_USEC=")) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    init.wait_for("READY=1")
    node.wait_for_log("reloaded")
    (node.directory / "app.py").write_text("raise ValueError")
    os.kill(node.pid, signal.SIGHUP)
    init.wait_for("RELOADING=1")
    init.wait_for("READY=1")
    assert node.wait_for_log("reload_failed"), "the old workers go on, so it is ready"
    assert node.stop() == 0
    init.wait_for("STOPPING=1")
    assert not [message for message in init.heard if "WATCHDOG=1" in message], "it was not asked for"


def test_node_without_an_application_is_ready_again_at_once(node: RunningNode, init: Init) -> None:
    node.start(NOTIFY_SOCKET=init.address)
    init.wait_for("READY=1")
    os.kill(node.pid, signal.SIGHUP)
    init.wait_for("RELOADING=1")
    init.wait_for("READY=1")


def test_watched_node_gives_signs_of_life_once_it_is_up(node: RunningNode, init: Init) -> None:
    node.start(NOTIFY_SOCKET=init.address, WATCHDOG_USEC="200000")
    init.wait_for("READY=1")
    assert not [message for message in init.heard[:-1] if "WATCHDOG=1" in message]
    for _ in range(3):
        init.wait_for("WATCHDOG=1")


def test_loop_that_hangs_gives_no_sign_of_life(tmp_path: Path) -> None:
    init = Init(str(tmp_path / "notify"))

    async def story() -> None:
        notifier = Notifier.of({"NOTIFY_SOCKET": init.address, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())})
        notifier.ready()
        await asyncio.to_thread(init.wait_for, "WATCHDOG=1")
        await asyncio.to_thread(init.wait_for, "WATCHDOG=1")
        while select.select([init.socket], [], [], 0)[0]:  # sent while the loop still turned
            init.wait_for("WATCHDOG=1")
        assert not select.select([init.socket], [], [], 0.2)[0], "the loop waits here, for ten times as long"
        await asyncio.to_thread(init.wait_for, "WATCHDOG=1")

    asyncio.run(story())
    init.socket.close()


@pytest.mark.parametrize("told", [{}, {"WATCHDOG_USEC": "20000"}, {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"}])
def test_process_that_nobody_watches_says_nothing(told: dict[str, str]) -> None:
    async def story() -> None:
        notifier = Notifier.of(told)
        notifier.ready()
        notifier.reloading(None)
        notifier.status("well")
        notifier.stopping()
        assert not told, "and children do not hear of it"

    asyncio.run(story())


def test_init_system_that_is_gone_costs_nothing(node: RunningNode, tmp_path: Path) -> None:
    node.start(NOTIFY_SOCKET=str(tmp_path / "gone"), WATCHDOG_USEC="200000")
    assert node.stop() == 0
