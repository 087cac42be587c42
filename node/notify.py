"""Tells the init system how the node is: sd_notify(3). It does nothing unless systemd has said where it listens.

The watchdog's signs of life come from the event loop, so systemd notices a loop that hangs.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import MutableMapping
from typing import Self


class Notifier:
    """The way to the init system that has started this process."""

    def __init__(self, address: str, watchdog: float = 0.0) -> None:
        """
        Args:
            address: the path of a socket, or `@` and an abstract name; empty: there is none.
            watchdog: seconds without a sign of life after which the process is killed; 0.0: never.
        """
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog = watchdog
        self._reloads = 0
        """Reloads under way."""
        self._is_up = False
        self._status = ""

    @classmethod
    def of(cls, environment: MutableMapping[str, str]) -> Self:
        """The one that the environment names. The variables are removed: workers are not the node."""
        address = environment.pop("NOTIFY_SOCKET", "")
        microseconds, for_pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        is_watched = microseconds.isdecimal() and for_pid in ("", str(os.getpid()))
        return cls(address, int(microseconds) / 1e6 if is_watched else 0.0)

    def __repr__(self) -> str:
        return f"<Notifier of {self._address!r}, watchdog {self._watchdog:g} s>"

    def ready(self) -> None:
        """Says that the node is up. From now on it gives signs of life."""
        self._is_up = True
        self._tell("READY=1")
        if self._watchdog:
            self._live(asyncio.get_running_loop())

    def reloading(self, answer: "asyncio.Future[str] | None") -> None:
        """Says that the node reloads its application, until the answer comes. None: it has none, and is done."""
        if not self._is_up:
            return
        self._reloads += 1
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        if answer is None:
            self._reloaded(answer)
        else:
            answer.add_done_callback(self._reloaded)

    def _reloaded(self, _: object) -> None:
        self._reloads -= 1
        if not self._reloads and self._is_up:
            self._tell("READY=1")

    def stopping(self) -> None:
        """Says that the node is stopping."""
        self._is_up = False
        self._tell("STOPPING=1")

    def status(self, text: str) -> None:
        """Says in words what the node does, if that has changed."""
        if text != self._status:
            self._status = text
            self._tell(f"STATUS={text}")

    def _live(self, loop: asyncio.AbstractEventLoop) -> None:
        self._tell("WATCHDOG=1")
        loop.call_later(self._watchdog / 2, self._live, loop)

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock, contextlib.suppress(OSError):
            # Suppressed: systemd is restarting, or has much to read. The next message counts.
            sock.sendto("\n".join(lines).encode(), self._address)
