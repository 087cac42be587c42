"""mDNS between hosts: real multicast over a bridge, each node in a process and a network namespace of its own."""

import json
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hearing import new_cluster, pointers
from netns import Hosts
from support import PATIENCE, environment, eventually

CHILD = str(Path(__file__).with_name("mdns_child.py"))
PORT = 3031
SOON = 20.0
"""Seconds for what is heard at once, on a busy machine too. The next announcement comes after 30 s at the earliest."""

TAKE = """
import socket
sock = socket.socket(type=socket.SOCK_DGRAM)
sock.bind(("", 5353))
print("taken", flush=True)
input()
"""

SEND = """
import socket, sys
socket.socket(type=socket.SOCK_DGRAM).sendto(bytes.fromhex(sys.argv[1]), ("224.0.0.251", 5353))
"""


class Child:
    """A node on a host."""

    def __init__(self, hosts: Hosts, host: int, cluster: str, *, id: str = "", **options: Any) -> None:
        self.id = id or secrets.token_hex(6)
        said = {"id": self.id, "cluster": cluster, "port": PORT, **options}
        self.lines: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            hosts.command(host, [sys.executable, CHILD, json.dumps(said)]),
            env=environment(PYTHONDONTWRITEBYTECODE="1"),
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(json.loads(line))

    def wait_for(self, event: str, key: str = "", since: int = 0, **details: Any) -> dict[str, Any]:
        """The first such line after the first `since`."""

        def line() -> dict[str, Any] | None:
            wanted = {"event": event, **({"key": key} if key else {}), **details}
            return next((one for one in self.lines[since:] if wanted.items() <= one.items()), None)

        return eventually(line, f"{event} {key} {details}; said: {self.lines}")  # type: ignore[no-any-return] # a line

    def started(self) -> float:
        """When it began to run, on the clock that all processes share."""
        return float(self.wait_for("started")["at"])

    def kill9(self) -> None:
        self._process.kill()
        self.wait()

    def stop(self) -> dict[str, Any]:
        """SIGTERM; the line that it says when it is closed."""
        self._process.send_signal(signal.SIGTERM)
        assert self.wait() == 0
        return self.wait_for("closed")

    def wait(self) -> int:
        status = self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return status

    def clean_up(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self.wait()


Start = Callable[..., Child]


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with Hosts(5) as made:
        yield made


@pytest.fixture
def start(hosts: Hosts) -> Iterator[Start]:
    """Starts a node on a host, all in one cluster."""
    children: list[Child] = []
    cluster = new_cluster()

    def start_child(host: int, **options: Any) -> Child:
        children.append(Child(hosts, host, cluster, **options))
        return children[-1]

    yield start_child
    for child in children:
        child.clean_up()


@pytest.mark.slow
def test_newcomer_and_four_running_nodes_know_each_other_soon(hosts: Hosts, start: Start) -> None:
    running = [start(host) for host in range(4)]
    for one in running:
        for other in running:
            if other is not one:
                one.wait_for("found", other.id)
    newcomer = start(4)
    began = newcomer.started()
    seen = [one.wait_for("found", newcomer.id) for one in running] + [newcomer.wait_for("found", one.id) for one in running]
    took = max(line["at"] for line in seen) - began
    print(f"newcomer and {len(running)} others: {took:.3f} s")  # noqa: T201  # shown by pytest -s
    assert took < SOON
    assert seen[0]["addresses"] == [f"{hosts.address(4)}:{PORT}"]


@pytest.mark.slow
def test_goodbye_is_heard_on_other_hosts_at_once(start: Start) -> None:
    stays, goes = start(0), start(1)
    stays.wait_for("found", goes.id)
    goes.wait_for("found", stays.id)
    closed = goes.stop()
    assert closed["took"] < SOON
    assert stays.wait_for("leaving", goes.id)["at"] < closed["at"] + SOON


@pytest.mark.slow
def test_partition_at_start_up_heals(hosts: Hosts, start: Start) -> None:
    hosts.cut(0)
    tuning = {"announce": 2.0, "glance": 1000.0}
    cut_off, other = start(0, tuning=tuning), start(1, tuning=tuning)
    # The package itself asks 14 s after its start for the last time; this test is not about what that heals.
    over = max(cut_off.started(), other.started()) + 16
    eventually(lambda: time.monotonic() > over, "the package has asked for the last time")
    assert not [line for line in cut_off.lines + other.lines if line["event"] == "found"]
    hosts.heal(0)
    healed = time.monotonic()
    assert cut_off.wait_for("found", other.id)["at"] < healed + SOON
    assert other.wait_for("found", cut_off.id)["at"] < healed + SOON


@pytest.mark.slow
def test_one_way_cut_heals(hosts: Hosts, start: Start) -> None:
    tuning = {"announce": 1.0, "glance": 1000.0}
    hosts.cut_to(0)
    deaf, other = start(0, tuning=tuning), start(1, tuning=tuning)
    other.wait_for("found", deaf.id)
    assert not [line for line in deaf.lines if line["event"] == "found"]
    hosts.heal(0)
    deaf.wait_for("found", other.id)


@pytest.mark.slow
def test_node_killed_and_started_again_is_found_again_at_once(start: Start) -> None:
    watcher, before = start(0), start(1)
    watcher.wait_for("found", before.id)
    before.kill9()
    since = len(watcher.lines)
    after = start(1, id=before.id)
    assert watcher.wait_for("found", before.id, since=since)["at"] < after.started() + SOON
    assert not [line for line in watcher.lines if line["event"] == "leaving"]


@pytest.mark.slow
def test_node_whose_host_gets_another_address_is_found_there(hosts: Hosts, start: Start) -> None:
    watcher, mover = start(0), start(1, tuning={"look": 0.2})
    watcher.wait_for("found", mover.id)
    mover.wait_for("found", watcher.id)
    since = len(watcher.lines)
    hosts.move(1, "10.77.9.9")
    watcher.wait_for("found", mover.id, since=since, addresses=[f"10.77.9.9:{PORT}"])
    late = start(2)  # it is heard and hears on the new address
    late.wait_for("found", mover.id, addresses=[f"10.77.9.9:{PORT}"])
    mover.wait_for("found", late.id)


@pytest.mark.slow
def test_port_taken_by_another_stack_is_a_warning_and_passes(hosts: Hosts, start: Start) -> None:
    command = hosts.command(0, [sys.executable, "-c", TAKE])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other_stack:
        assert other_stack.stdout is not None
        assert other_stack.stdout.readline() == "taken\n"
        node, peer = start(0, tuning={"retry": 0.2}), start(1)
        failed = node.wait_for("discovery_failed")
        assert "Address already in use" in failed["reason"]
        other_stack.communicate("\n")
    node.wait_for("discovery_works")
    node.wait_for("found", peer.id)
    peer.wait_for("found", node.id)
    assert len([line for line in node.lines if line["event"] == "discovery_failed"]) == 1


@pytest.mark.slow
def test_forged_goodbye_from_another_host_heals(hosts: Hosts, start: Start) -> None:
    watcher, victim = start(0), start(1, tuning={"announce": 1.0})
    watcher.wait_for("found", victim.id)
    victim.wait_for("found", watcher.id)
    since = len(watcher.lines)
    subprocess.run(hosts.command(2, [sys.executable, "-c", SEND, pointers([victim.id], ttl=0).hex()]), check=True)
    leaving = watcher.wait_for("leaving", victim.id, since=since)
    assert watcher.wait_for("found", victim.id, since=since)["at"] < leaving["at"] + SOON


@pytest.mark.slow
def test_hosts_that_have_only_ipv6_find_each_other(hosts: Hosts, start: Start) -> None:
    for host in (0, 1):
        hosts.make_ipv6_only(host, f"fd00:77::{host + 1}")
    one, other = start(0, listen="::"), start(1, listen="::")
    one.wait_for("found", other.id, addresses=[f"[fd00:77::2]:{PORT}"])
    other.wait_for("found", one.id, addresses=[f"[fd00:77::1]:{PORT}"])
