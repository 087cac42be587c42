"""`result` and `aresult`: the value that a task returned, from any node of its story. And all else that a node tells of a task.

They ask on a connection of their own, and `result` waits there for the end of the task.
"""

import time
from typing import Any

from spoolnode.client.asking import PIECE_READ, SILENCE, aconnect, connect, first
from spoolnode.client.inside import INSIDE
from spoolnode.errors import ResultMissing, Unreachable
from spoolnode.protocol.answer import Answer, AnswerReader, read_answer
from spoolnode.protocol.errors import BadPacket, Refused
from spoolnode.protocol.fetch import MOST_WAIT, RESULT, TASK, UNKNOWN, Question, read_fetched
from spoolnode.protocol.names import is_task_id
from spoolnode.protocol.values import unpack
from spoolnode.wire import Address, resolve


def result(task_id: str, timeout: float | None = None, *, via: str | None = None) -> Any:
    """Waits for the end of a task with `keep_result=True`, and returns what its function returned.

    Args:
        task_id: its id, as `spool` returned it.
        timeout: seconds to wait; None: without limit. With 0 it returns at once.
        via: the node to ask: any that has had the task. Without it, the environment's SPOOLNODE_VIA.

    Raises:
        ResultMissing: it has none, and the text says why.
        TimeoutError: the task has not ended in time.
        Unreachable: the node cannot be asked.
        Refused: it declined to answer.
    """
    fetch = _Fetch(task_id, timeout)
    address = resolve(via)
    if (receiver := INSIDE.receiver(address)) is not None:
        return receiver.result(task_id)
    return unpack(_fetched(fetch, address), "the result").get("result")


def ask_about(task_id: str, *, via: str | None = None) -> dict[str, Any]:
    """All that a node tells of a task now, as docs/wire-format.md has it. Raises as `result` does, and does not wait."""
    fetch = _Fetch(task_id, 0.0, TASK)
    address = resolve(via)
    if (receiver := INSIDE.receiver(address)) is not None:
        return receiver.told(task_id)
    return _read_told(_fetched(fetch, address))


def _fetched(fetch: "_Fetch", address: Address) -> bytes:
    with connect(address) as connected:
        reader = AnswerReader()
        while not fetch.is_over:
            connected.settimeout(fetch.patience)
            try:
                connected.sendall(fetch.question())
                while (answer := first(reader, connected.recv(PIECE_READ))) is None:
                    pass
            except (OSError, BadPacket) as error:
                raise Unreachable(f"{address}: no answer about the task {fetch.task_id}: {error}") from error
            fetch.hear(address, answer)
    return fetch.data


async def aresult(task_id: str, timeout: float | None = None, *, via: str | None = None) -> Any:  # noqa: ASYNC109  # as `result`
    """As `result`, without blocking the loop."""
    fetch = _Fetch(task_id, timeout)
    address = resolve(via)
    if (receiver := INSIDE.receiver(address)) is not None:
        return receiver.result(task_id)
    return unpack(await _afetched(fetch, address), "the result").get("result")


async def aask_about(task_id: str, *, via: str | None = None) -> dict[str, Any]:
    """As `ask_about`, without blocking the loop."""
    fetch = _Fetch(task_id, 0.0, TASK)
    address = resolve(via)
    if (receiver := INSIDE.receiver(address)) is not None:
        return receiver.told(task_id)
    return _read_told(await _afetched(fetch, address))


async def _afetched(fetch: "_Fetch", address: Address) -> bytes:
    import asyncio

    incoming, outgoing = await aconnect(address)
    try:
        reader = AnswerReader()
        while not fetch.is_over:
            try:
                outgoing.write(fetch.question())
                async with asyncio.timeout(fetch.patience):
                    while (answer := first(reader, await incoming.read(PIECE_READ))) is None:
                        pass
            except (OSError, BadPacket) as error:
                raise Unreachable(f"{address}: no answer about the task {fetch.task_id}: {error}") from error
            fetch.hear(address, answer)
    finally:
        outgoing.close()
    return fetch.data


class _Fetch:
    """The questions about one task, and what the answers say. It touches no connection."""

    def __init__(self, task_id: str, timeout: float | None, about: bytes = RESULT) -> None:
        if not is_task_id(task_id):
            raise ResultMissing(f"{task_id[:80]!r} is not the id of a task", UNKNOWN)
        self.task_id = task_id
        self._timeout = timeout
        self._deadline = float("inf") if timeout is None else time.monotonic() + timeout
        self._about = about
        self._size = 0
        self.data = b""
        """The answer, as far as it has come."""
        self.is_over = False
        """Whether all of it is there."""

    @property
    def _wait(self) -> float:
        return min(max(self._deadline - time.monotonic(), 0.0), MOST_WAIT)

    @property
    def patience(self) -> float:
        """Seconds that the answer to the next question may take."""
        return self._wait + SILENCE

    def question(self) -> bytes:
        """The next question."""
        return Question(self.task_id, self._wait, len(self.data), self._about).encode()

    def hear(self, address: Address, answer: Answer) -> None:
        """Takes its answer. Raises as `result` does."""
        _, modifier2, block = answer
        if modifier2 == 0:
            try:
                read_answer(modifier2, block)
            except Refused as refusal:
                raise Refused(refusal.reason, f"{address}: declined to answer about the task: {refusal.text}") from None
        try:
            found = read_fetched(modifier2, block)
        except BadPacket as error:
            raise Unreachable(f"{address}: {error}") from error
        if found.missing:
            raise ResultMissing(f"the task {self.task_id} has no result: {found.missing}", found.kind)
        if found.is_pending and not self._deadline - time.monotonic() > 0:
            raise TimeoutError(f"the task {self.task_id} has not ended in {self._timeout:g} s")
        if self.data and found.size != self._size:
            self.data = b""  # the task has changed since the first piece: once more from its beginning
            return
        self._size = found.size
        self.data += found.piece
        self.is_over = found.size > 0 and (len(self.data) >= found.size or not found.piece)


def _read_told(data: bytes) -> dict[str, Any]:
    import json

    told = unpack(data, "what a node tells of a task")
    return {**told, "story": json.loads(told["story"])}
