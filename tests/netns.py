"""Several hosts on one machine: network namespaces joined by a bridge that lives in a namespace of its own.

    with Hosts(3) as hosts:
        child = subprocess.Popen(hosts.command(0, [sys.executable, "child.py"]))
        hosts.cut(0)    # the cable is out; heal(0) puts it in again

There is no route out, and no device on the machine's own interfaces. Needs root and iproute2: without them the test is
skipped, in CI it fails.
"""

import atexit
import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import pytest

_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_IP = shutil.which("ip", path=_PATH) or ""
_TC = shutil.which("tc", path=_PATH) or ""
_EVERYTHING = ("protocol", "all", "u32", "match", "u32", "0", "0")
_count = itertools.count()

BRIDGE = "br0"
SINK = "sink0"
"""A cable with a loose end: packets sent there are lost."""


class Hosts:
    """`count` hosts, numbered from 0, each with `eth0` in 10.77.0.0/16. Gone at the end of the `with`, whatever happens."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._prefix = f"snt{os.getpid()}x{next(_count)}n"
        self._switch = f"{self._prefix}br"
        self._addresses = [f"10.77.{index // 250}.{index % 250 + 1}" for index in range(count)]

    def __enter__(self) -> Self:
        require_namespaces()
        remove_what_the_dead_left()
        atexit.register(self._remove)  # a KeyboardInterrupt between here and __exit__
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()
        atexit.unregister(self._remove)

    # -- what tests ask for --

    def address(self, index: int) -> str:
        """The IPv4 address of a host."""
        return self._addresses[index]

    def namespace(self, index: int) -> str:
        """The name of its network namespace."""
        return f"{self._prefix}{index}"

    def namespace_file(self, index: int) -> str:
        """The file that stands for its network namespace."""
        return f"/run/netns/{self.namespace(index)}"

    def command(self, index: int, args: list[str]) -> list[str]:
        """The command line that runs `args` on that host. `ip` becomes it: pid and signals are those of the program."""
        return [_IP, "netns", "exec", self.namespace(index), *args]

    def cut(self, index: int) -> None:
        """Takes the cable out: the host loses its carrier, and nothing passes either way."""
        self._on_switch("link", "set", f"v{index}", "down")

    def heal(self, index: int) -> None:
        """Undoes every kind of cut."""
        self._on_switch("link", "set", f"v{index}", "up")
        _run(_IP, "netns", "exec", self._switch, _TC, "qdisc", "del", "dev", f"v{index}", "clsact", check=False)

    def cut_from(self, index: int) -> None:
        """Loses what this host sends, without a sign; it still receives."""
        self._lose(index, "ingress")

    def cut_to(self, index: int) -> None:
        """Loses what others send to this host, without a sign; it still sends."""
        self._lose(index, "egress")

    def shut(self, index: int, port: int) -> None:
        """Loses what others send to this TCP port of the host, as a firewall does; answers to its own calls arrive."""
        ports = ["match", "ip", "protocol", "6", "0xff", "match", "ip", "dport", str(port), "0xffff"]
        self._lose(index, "egress", ["protocol", "ip", "u32", *ports])

    def move(self, index: int, address: str) -> None:
        """Gives the host another address of 10.77.0.0/16 in place of its own, as a DHCP server may."""
        self._on_host(index, "addr", "del", f"{self._addresses[index]}/16", "dev", "eth0")
        self._addresses[index] = address
        self._on_host(index, "addr", "add", f"{address}/16", "dev", "eth0")
        self._on_host(index, "route", "replace", "default", "dev", "eth0")

    def add_address(self, index: int, address: str) -> None:
        """Gives the host one more address, in a network of its own on the same cable."""
        self._on_host(index, "addr", "add", f"{address}/24", "dev", "eth0")

    def make_ipv6_only(self, index: int, address: str) -> None:
        """Gives the host this IPv6 address in place of its IPv4 one."""
        self._on_host(index, "addr", "del", f"{self._addresses[index]}/16", "dev", "eth0")
        self._on_host(index, "addr", "add", f"{address}/64", "dev", "eth0", "nodad")

    # -- how it is made --

    def _make(self) -> None:
        _run(_IP, "netns", "add", self._switch)
        self._on_switch("link", "set", "lo", "up")
        # No snooping: a bridge forgets groups after minutes of silence, and these tests are not about that.
        self._on_switch("link", "add", BRIDGE, "type", "bridge", "mcast_snooping", "0")
        self._on_switch("link", "set", BRIDGE, "up")
        self._on_switch("link", "add", SINK, "type", "veth", "peer", "name", f"{SINK}b")
        self._on_switch("link", "set", f"{SINK}b", "up")
        self._on_switch("link", "set", SINK, "up")
        for index in range(self.count):
            self._make_host(index)

    def _make_host(self, index: int) -> None:
        _run(_IP, "netns", "add", self.namespace(index))
        self._on_host(index, "link", "set", "lo", "up")
        self._on_host(index, "link", "add", "eth0", "type", "veth", "peer", "name", f"v{index}", "netns", self._switch)
        self._on_switch("link", "set", f"v{index}", "master", BRIDGE, "up")
        self._on_host(index, "addr", "add", f"{self._addresses[index]}/16", "dev", "eth0")
        self._on_host(index, "link", "set", "eth0", "up")
        self._on_host(index, "route", "add", "default", "dev", "eth0")

    def _lose(self, index: int, direction: str, match: Sequence[str] = _EVERYTHING) -> None:
        """Redirects what passes the host's port of the bridge in that direction to the sink.

        netem would do it in one line, but not every kernel has it.
        """
        tc = [_IP, "netns", "exec", self._switch, _TC]
        _run(*tc, "qdisc", "add", "dev", f"v{index}", "clsact", check=False)  # there already when it is cut the other way
        redirect = ["action", "mirred", "egress", "redirect", "dev", SINK]
        _run(*tc, "filter", "add", "dev", f"v{index}", direction, *match, *redirect)

    def _on_switch(self, *args: str) -> None:
        _run(_IP, "-n", self._switch, *args)

    def _on_host(self, index: int, *args: str) -> None:
        _run(_IP, "-n", self.namespace(index), *args)

    def _remove(self) -> None:
        for name in [*(self.namespace(index) for index in range(self.count)), self._switch]:
            _run(_IP, "netns", "del", name, check=False)


def require_namespaces() -> None:
    """Skips the test where namespaces cannot be made; fails it in CI, where they can."""
    why = _why_not()
    if not why:
        return
    if os.environ.get("CI"):
        pytest.fail(f"this test needs network namespaces: {why}")
    pytest.skip(why)


def remove_what_the_dead_left() -> None:
    """Removes the namespaces of processes that were killed before they could."""
    for name in _run(_IP, "netns", "list").split():
        match = re.fullmatch(r"snt(\d+)x\d+n(\d+|br)", name)
        if match and not Path(f"/proc/{match[1]}").exists():
            _run(_IP, "netns", "del", name, check=False)


def _why_not() -> str:
    if not _IP or not _TC:
        return "it needs `ip` and `tc` (iproute2)"
    if os.geteuid() != 0:
        return "it needs root, to make network namespaces"
    name = f"snt{os.getpid()}x{next(_count)}nbr"
    done = subprocess.run([_IP, "netns", "add", name], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"network namespaces cannot be made here: {done.stderr.strip()}"
    _run(_IP, "netns", "del", name)
    return ""


def _run(*args: str, check: bool = True) -> str:
    done = subprocess.run(args, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{' '.join(args)}: {done.stderr.strip()}"
    return done.stdout
