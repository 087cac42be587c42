"""Pings peers when the table says so, each on a connection that is kept: a new one costs ten times as much as a ping."""

import asyncio
from collections.abc import Callable
from typing import Any

from spoolnode.cluster.channel import Channel, ChannelLost, Impostor, read_pong
from spoolnode.cluster.dial import DialError, DialFailure, refusal_of
from spoolnode.cluster.introduction import Introduction
from spoolnode.cluster.liveness import Failure
from spoolnode.cluster.lookup import is_numeric
from spoolnode.cluster.peer import Peer
from spoolnode.cluster.peers import PeerTable
from spoolnode.cluster.sender import Dial
from spoolnode.cluster.timing import Timing
from spoolnode.node.background import spawn
from spoolnode.protocol.errors import BadPacket, Refused

AT_ONCE = 64
"""Pings under way to addresses..."""
NAMES_AT_ONCE = 16
"""...and to host names, which take longer when no name server answers."""

FAILURES = {
    DialFailure.REFUSED: Failure.REFUSED,
    DialFailure.UNREACHABLE: Failure.TIMEOUT,
    DialFailure.UNTRUSTED: Failure.UNTRUSTED,
}

Answered = Callable[[Peer, dict[str, Any], float, str], object]
"""Called with the peer (as the table knows it so far), its answer, the seconds that it took, and the address."""


class Prober:
    """The pings of one node."""

    def __init__(
        self, table: PeerTable, dial: Dial, introduce: Callable[[], Introduction], answered: Answered,
        vouch: Callable[[dict[str, Any], str], None], timing: Timing,
    ) -> None:  # fmt: skip
        self._table = table
        self._timing = timing
        self._vouch = vouch
        self._dial = dial
        self._introduce = introduce
        self._answered = answered
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._channels: dict[str, tuple[Channel, Introduction]] = {}
        self._room = asyncio.Semaphore(AT_ONCE)
        self._room_for_names = asyncio.Semaphore(NAMES_AT_ONCE)
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        state = "not started" if self._task is None else "stopped" if self._task.done() else "pinging"
        return f"<prober {state}, {len(self._channels)} connections>"

    def start(self) -> None:
        """Starts pinging."""
        self._task = self._loop.create_task(self._run())

    def wake(self) -> None:
        """Looks again: the table has changed, and a ping may be due sooner."""
        self._wake.set()

    def stop(self) -> None:
        """Stops pinging."""
        if self._task is not None:
            self._task.cancel()
        for channel, _ in self._channels.values():
            channel.abort("this node is stopping")
        self._channels.clear()

    async def _run(self) -> None:
        while True:
            for peer in self._table.due(self._loop.time()):
                spawn(self._ping(peer))
            due = self._table.next_due()
            self._wake.clear()
            try:
                async with asyncio.timeout_at(due):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _ping(self, peer: Peer) -> None:
        """Sends one ping, with exactly one result for the table."""
        async with self._room if all(map(is_numeric, peer.addresses)) else self._room_for_names:
            kind, reason = Failure.OTHER, "it has no address"
            for address in peer.addresses:
                began = self._loop.time()
                try:
                    status = await self._ask(address, peer.name if peer.status else "")
                except DialError as error:
                    kind, reason = FAILURES[error.kind], error.text
                except Refused as refusal:
                    kind, reason = Failure.UNTRUSTED, refusal.text
                except Impostor as error:
                    kind, reason = Failure.UNTRUSTED, f"{address}: {error}"
                except (ChannelLost, BadPacket, OSError) as error:
                    kind, reason = Failure.TIMEOUT, f"{address}: {error}"
                except Exception as error:  # noqa: BLE001  # a ping without a result would be the last one of its peer
                    kind, reason = Failure.OTHER, f"{address}: {error!r}"
                else:
                    self._answered(peer, status, self._loop.time() - began, address)
                    return
            self._table.failed(peer, kind, self._loop.time(), reason)
            self._wake.set()

    async def _ask(self, address: str, name: str) -> dict[str, Any]:
        channel, introduction = self._channels.get(address, (None, None))
        if channel is None or introduction is None or not channel.is_open:
            dialed = await self._dial(address, Channel, name)
            channel, introduction = self._channels[address] = dialed.protocol, self._introduce()
            channel.certified = dialed.name
        try:
            pong = await channel.ask(introduction.packet(), self._timing.pong)
            status = introduction.hear(read_pong(pong) or {})
            self._vouch(status, channel.certified)
            return status
        except BaseException as error:  # also when it is cancelled: its answer would be taken for that of the next ping
            self._channels.pop(address, None)
            channel.abort("no answer")
            refused = refusal_of(channel.error, address)
            if refused is not None:
                raise refused from error
            raise
