"""The events of this node, as server-sent events: `GET /api/v1/events`.

All that the story of tasks is told is passed on. While there is a listener, workers also tell which tasks start, and what becomes
of other nodes is looked up a few times a second.
"""

import asyncio
import json
from typing import Any

from aiohttp import web

from spoolnode.node.background import spawn
from spoolnode.node.neighbours import Neighbours
from spoolnode.node.story.broadcast import Broadcast
from spoolnode.node.work.workers import Workers

LOOK_SECONDS = 0.2
"""Seconds between two looks at the other nodes."""
QUIET_SECONDS = 15.0
"""After so many seconds without an event a line without a meaning is sent: whether the client is still there shows then."""


class Events:
    """The events of one node."""

    def __init__(self, broadcast: Broadcast, workers: Workers, neighbours: Neighbours) -> None:
        self._broadcast = broadcast
        self._workers = workers
        self._neighbours = neighbours
        self._is_looking = False

    def __repr__(self) -> str:
        return f"<Events of {self._broadcast!r}>"

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Events from now on, of all tasks and nodes, of one task, or of the tasks of a function; it ends with the client."""
        headers = {"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}  # nginx passes each on at once
        response = web.StreamResponse(headers=headers)
        with self._broadcast.listening(request.query.get("task", ""), request.query.get("function", "")) as listener:
            await response.prepare(request)
            try:
                if not self._is_looking:
                    self._is_looking = True
                    self._workers.watch(self._started)
                    spawn(self._look())
                await response.write(b": from now on\n\n")
                while True:
                    try:
                        async with asyncio.timeout(QUIET_SECONDS):
                            lost, events = await listener.next()
                    except TimeoutError:
                        await response.write(b":\n\n")
                        continue
                    await response.write(b"".join(_encoded(event) for event in ([_lost(lost)] if lost else []) + events))
            except ConnectionError:
                return response  # the client has gone

    async def _look(self) -> None:
        """Tells which nodes change their state, as long as there is a listener."""
        try:
            peers = self._peers()
            while self._broadcast.is_heard:
                await asyncio.sleep(LOOK_SECONDS)
                known, peers = peers, self._peers()
                for identity, (name, state) in peers.items():
                    if known.get(identity) != (name, state):
                        self._broadcast.tell("peer", identity, name=name, state=state)
        finally:
            self._is_looking = False
            self._workers.watch(None)

    def _started(self, identity: str, worker: int, pid: int) -> None:
        self._broadcast.tell("started", identity, self._broadcast.function_of(identity), worker=worker, pid=pid)

    def _peers(self) -> dict[str, tuple[str, str]]:
        """Name and state of each other node, by its id, or by its address as long as no id is known."""
        return {row["id"] or row["address"]: (row["name"], row["state"]) for row in self._neighbours.peers()}


def _lost(count: int) -> dict[str, Any]:
    return {"event": "lost", "events": count}


def _encoded(event: dict[str, Any]) -> bytes:
    return f"event: {event['event']}\ndata: {json.dumps(event)}\n\n".encode()
