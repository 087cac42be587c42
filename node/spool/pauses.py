"""The functions that an operator has paused, kept over restarts in the file `paused`."""

import asyncio
import json
from typing import NamedTuple

from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.recovery import move_aside, read_small
from spoolnode.node.spool.throttle import Throttle


class Paused(NamedTuple):
    """The pauses of a node."""

    everything: bool = False
    functions: frozenset[str] = frozenset()

    def encode(self) -> bytes:
        """The contents of the file."""
        return json.dumps({"everything": self.everything, "functions": sorted(self.functions)}).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> "Paused":
        """The reverse. Raises ValueError for anything else."""
        try:
            said = json.loads(data)
            everything, functions = said["everything"], said["functions"]
            if isinstance(everything, bool) and all(isinstance(name, str) for name in functions):
                return cls(everything, frozenset(functions))
        except (KeyError, TypeError, ValueError):
            pass
        raise ValueError('it must be {"everything": true or false, "functions": [names]}')


class Pauses:
    """The pauses of this node. A change is on disk before it counts."""

    def __init__(self, journal: Journal, throttle: Throttle) -> None:
        self._journal = journal
        self._throttle = throttle
        self._changing = asyncio.Lock()
        self.now = Paused()

    def __repr__(self) -> str:
        return f"<Pauses: {self.now}>"

    def load(self) -> None:
        """Reads the file, at the start. Raises OSError if it cannot be read: what is paused must not run."""
        store, path = self._journal.store, self._journal.layout.paused
        data = read_small(store, path, self._journal.report)
        if data is None:
            return
        try:
            self._set(Paused.decode(data))
        except ValueError as error:
            move_aside(store, "paused", f"{error}; nothing is paused", self._journal.report)

    async def pause(self, function: str) -> Paused:
        """Pauses a function; everything, if it is empty. Returns what is paused then. Raises OSError, and changes nothing."""
        async with self._changing:
            if function:
                return await self._change(self.now._replace(functions=self.now.functions | {function}))
            return await self._change(self.now._replace(everything=True))

    async def resume(self, function: str) -> Paused:
        """Ends the pause of a function; every pause, if it is empty. Returns and raises as `pause` does."""
        async with self._changing:
            if function:
                return await self._change(self.now._replace(functions=self.now.functions - {function}))
            return await self._change(Paused())

    async def _change(self, paused: Paused) -> Paused:
        if paused != self.now:
            data, path = paused.encode(), self._journal.layout.paused
            await self._journal.moves.run(lambda: self._journal.store.replace(path, data))
            self._set(paused)
            self._journal.report("paused", everything=paused.everything, functions=sorted(paused.functions))
        return paused

    def _set(self, paused: Paused) -> None:
        self.now = paused
        self._throttle.pause(paused.functions, everything=paused.everything)
