"""Cancels a task, wherever it is: here, or on the node that it went to, which is asked."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from spoolnode.node.commons import CommonTask
from spoolnode.node.control.counting import Counting
from spoolnode.node.control.in_store import InStore, held_by, is_in_store
from spoolnode.node.control.operator_errors import unknown
from spoolnode.node.ingress.caller import Caller
from spoolnode.node.neighbours import Neighbours
from spoolnode.node.outbox.cancellation import Buried
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.spool import inspect
from spoolnode.node.spool.sequence import Key, Verdict
from spoolnode.node.spool.tasks import Source
from spoolnode.node.story.notes import DEAD, DONE, FORWARDED, REMOVED
from spoolnode.node.work.workers import Workers
from spoolnode.protocol import cancel, names
from spoolnode.protocol.answer import read_answer
from spoolnode.protocol.cancel import CancelAnswer, CancelOutcome, CancelRequest
from spoolnode.protocol.errors import BadPacket, Reason, Refused, SpoolnodeError
from spoolnode.protocol.forward import undelivered
from spoolnode.protocol.packet import decode_variables

MOVING_SECONDS = 0.05
"""The pause before a task of the common store is looked for again that a node is just taking, or giving back."""
LOOKS = 20
"""How often it is looked for."""
SENDING_SECONDS = 5.0
"""Seconds that cancelling waits, besides its grace, for the answer of another node about a task that is being sent."""
MARGIN_SECONDS = 1.0
"""How much sooner a node that is asked has to answer than the one that asks it."""
MOST_UNDER_WAY = 100
"""Requests at once: for an unknown id, each looks into every task."""


class _Moves(Exception):
    """A node is just taking a task from the common store, or giving it back: it will be found in a moment."""


KeepOut = Callable[[Key, int], Verdict]
"""Has a sequence number of a link count as taken. Returns the judgement of it before; raises `Refused`."""


class Cancels:
    """Cancels the tasks of one node, and those that it has handed on."""

    def __init__(
        self, storage: Storage, neighbours: Neighbours, workers: Workers, aside: Counting, keep_out: KeepOut,
        in_store: InStore,
    ) -> None:  # fmt: skip
        self._storage = storage
        self._journal = storage.journal
        self._neighbours = neighbours
        self._workers = workers
        self._aside = aside
        self._keep_out = keep_out
        self._in_store = in_store
        self._under_way = 0

    def __repr__(self) -> str:
        return f"<Cancels, {self._under_way} under way>"

    async def answer(self, request: CancelRequest, caller: Caller) -> CancelAnswer:
        """The answer to a request that came over a connection. Raises `Refused`."""
        if self._under_way >= MOST_UNDER_WAY:
            raise Refused(Reason.BUSY, f"this node is cancelling {self._under_way} tasks already; ask again")
        self._under_way += 1
        try:
            if caller.link is not None and request.number:
                return await self._over_link(request, caller.link)
            if request.follow == cancel.MOST_NODES and caller.address != "unix":
                request = request._replace(by=f"{request.by} from {caller.address}")
            return await self.cancel(request)
        finally:
            self._under_way -= 1

    async def _over_link(self, request: CancelRequest, link: Key) -> CancelAnswer:
        """The answer to a node that has perhaps sent the task here."""
        until, arrivals = time.monotonic() + request.wait, self._storage.spool.arrivals
        while (verdict := self._keep_out(link, request.number)) is Verdict.PENDING:
            if time.monotonic() > until:
                return _unsure(f"this node is storing the task {request.identity} right now")
            await asyncio.sleep(0.01)
        if verdict is Verdict.NEW:
            return CancelAnswer(CancelOutcome.KEPT_OUT)
        while len(arrivals) and time.monotonic() < until:  # a large one is found when it has been published
            await arrivals.publish_all()
            await asyncio.sleep(0.02)
        answer = await self.cancel(request)
        if answer.outcome is CancelOutcome.UNKNOWN:
            return _unsure(f"this node has taken the task {request.identity}, and does not know what became of it")
        return answer

    async def cancel(self, request: CancelRequest) -> CancelAnswer:
        """Ends a task for good, wherever it is: it goes to dead/ as cancelled, and is not tried again."""
        until, problem = time.monotonic() + request.wait, ""
        for _ in range(LOOKS):
            try:
                return await self._cancel(request, until)
            except _Moves as error:
                problem = str(error)
            except (OSError, BadPacket) as error:
                return _not(f"the task {request.identity} cannot be moved to dead/: {error}")
            await asyncio.sleep(MOVING_SECONDS)
        return _unsure(problem)

    async def _cancel(self, request: CancelRequest, until: float) -> CancelAnswer:
        """Does so with a task where it is now. Raises `_Moves`, OSError, BadPacket."""
        identity = await self._id_here(request.identity)
        if identity is None:
            asked = partial(self._of_holder, request, until)
            return await self._in_store.cancel(request, asked) or await self._follow(request, until)
        return await self._end(identity, request, until)

    async def _id_here(self, identity: str) -> str | None:
        """The id under which a task lies here; None if it does not (any more). It has come back if it has several."""
        found = self._storage.find_here(identity)
        if found is not None and found[1] in found[0].in_flight:
            return identity  # a worker may have marked its end a moment ago
        steps = await self._journal.story.steps(identity)
        for known in dict.fromkeys([*(step.id for step in reversed(steps)), identity]):
            if await self._storage.look_up(known) is not None:
                return str(known)
        if steps:
            return None
        arrived: tuple[inspect.Info, Any] | None = await _read(lambda: inspect.find_arrived(self._journal.reader, identity))
        return str(arrived[0].id) if arrived is not None else None

    # -- here --

    async def _end(self, identity: str, request: CancelRequest, until: float) -> CancelAnswer:
        """Ends a task that is here, or follows it if it goes on meanwhile."""
        grace, to = request.grace, ""
        patience = min(until, time.monotonic() + grace + SENDING_SECONDS)
        while (found := await self._storage.find(identity)) is not None:
            source, ref = found
            if source.frozen:
                await asyncio.sleep(0.01)  # it is moving to a file of its own
            elif ref not in source.in_flight:
                if (buried := await self._storage.cancellation.cancel(source, ref, request.by)) is not None:
                    self._aside.expire()
                    return await self._of_other(buried, identity, request, until) if buried.number else CANCELLED
                break  # its record is there, but it has ended
            elif time.monotonic() > patience:
                return _not(f"the task {identity} is {holder(source, ref)}, and has not come back for {grace:g} s")
            else:
                if source.sequence_number(ref):
                    info = await self._storage.look_up(identity)
                    to = (info.destination if info is not None else None) or to
                await self._workers.cancel(source, ref, cancel.cancelled_by(request.by), grace)
                await self._journal.moves.run(lambda: None)  # then it is decided what becomes of it
                if ref in source.in_flight:  # with a link: until it is answered
                    await asyncio.sleep(0.02)
        if reason := self._storage.held.why_given_up(identity):
            self._aside.expire()
            if not cancel.is_cancelled(reason):
                return _not(f"the task {identity} was given up, and not cancelled")
            return CANCELLED if await self._is_told(identity, patience) else _not_told(identity, self._in_store.why_away)
        info = await self._storage.look_up(identity)
        if info is None:
            return await self._follow(request, until, CancelAnswer(CancelOutcome.DONE, _ended_well(identity)), to)
        if info.state == inspect.DEAD:
            return await self._dead(info.where, identity, request, until)
        return _not(f"the task {identity} is {info.state}, and cannot be cancelled now")

    async def _is_told(self, identity: str, until: float) -> bool:
        """Whether the common store has heard of a task that was given up here, which it is waited for until then."""
        while not self._storage.held.is_told(identity):
            if self._in_store.why_away or time.monotonic() > until:
                return False
            await asyncio.sleep(0.02)
        return True

    async def _dead(self, where: str, identity: str, request: CancelRequest, until: float) -> CancelAnswer:
        """The answer about a task that is in dead/ already."""
        reader = self._journal.reader
        block = await _read(lambda: reader.block_of(where))
        said = dict(decode_variables(block) + await _read(lambda: reader.reason_beside(where)))
        reason = said.get(names.REASON, b"").decode("utf-8", "replace")
        if not cancel.is_cancelled(reason):
            return _not(f"the task {identity} is dead; it has ended, and was not cancelled")
        self._aside.expire()
        to, number = undelivered(block), cancel.number_in(reason)
        if to is None or not number:
            return CANCELLED
        return await self._of_other(Buried(to[0], number=number), identity, request, until)

    async def _of_other(self, buried: Buried, identity: str, request: CancelRequest, until: float) -> CancelAnswer:
        """The answer about a task that is in dead/ here, and that another node may have. If that has it, ours is removed."""
        answer = await self._ask(buried.owner or buried.to, request, until, number=buried.number, link=buried.to)
        if answer.outcome is CancelOutcome.KEPT_OUT:
            return CANCELLED
        if answer.outcome in (CancelOutcome.UNSURE, CancelOutcome.UNKNOWN):
            text = f"the task {identity} is not sent any more, but {buried.to} may have taken it before: {answer.text}"
            return CancelAnswer(CancelOutcome.UNSURE, text)
        name = names.file_name(identity)
        await self._journal.moves.run(lambda: self._journal.store.remove(f"dead/{name}"))
        self._journal.story.note(FORWARDED, None, [name], to=buried.to, peer=buried.owner or buried.to)
        self._aside.expire()
        return answer

    # -- elsewhere --

    async def _of_holder(self, request: CancelRequest, until: float, was: CommonTask) -> CancelAnswer:
        """The answer of the node that holds a task of the common store. Raises `_Moves`."""
        identity = request.identity
        if was.node_id == self._journal.node_id:
            raise _Moves(f"the task {identity} is just on its way here from the common store, or back; ask again")
        if not self._neighbours.knows(was.node_id):
            return _unsure(f"the task {identity} {held_by(was)}; `spoolnode cancel` on that node ends it")
        answer = await self._ask(was.node_id, request, until, was.node)
        if answer.outcome is CancelOutcome.UNKNOWN:
            raise _Moves(f"the task {identity} is not with {was.node} any more; ask again")
        return answer

    async def _follow(
        self, request: CancelRequest, until: float, otherwise: CancelAnswer | None = None, to: str = ""
    ) -> CancelAnswer:  # fmt: skip
        """The answer about a task that is not here (any more), from its story.

        Args:
            otherwise: the answer if no story is kept.
            to: the destination to which it was being sent.
        """
        identity = request.identity
        steps = await self._journal.story.steps(identity)
        ends = [step for step in steps if step.kind in (DONE, DEAD, REMOVED, FORWARDED) and not is_in_store(step)]
        last = ends[-1] if ends else None
        if last is not None and last.kind == FORWARDED:
            return await self._ask(last.detail["peer"], request, until, last.detail["to"])
        if last is not None and last.kind == DONE:
            return CancelAnswer(CancelOutcome.DONE, _ended_well(identity))
        if last is not None:
            return _not(f"the task {identity} was {'given up' if last.kind == DEAD else 'removed'} before, and not cancelled")
        if to:
            return await self._ask(to, request, until)
        first = identity[:12]  # an id begins with that of the node that gave it
        if otherwise is None and request.follow == cancel.MOST_NODES and first != self._journal.node_id:
            link = self._neighbours.link(first) if names.is_node_id(first) else None
            if link is not None and link["known"]:
                return await self._ask(first, request, until)
        return otherwise or CancelAnswer(CancelOutcome.UNKNOWN, unknown(identity))

    async def _ask(
        self, node: str, request: CancelRequest, until: float, called: str = "", *, number: int = 0, link: str = ""
    ) -> CancelAnswer:  # fmt: skip
        """The answer of another node. `called`: its name, for people. `number`, `link`: of a task that was perhaps sent."""
        if not request.follow:
            return _unsure(f"the task {request.identity} was handed on by {cancel.MOST_NODES} nodes, and is not followed further")
        left = max(until - time.monotonic(), 0.0)
        asked = request._replace(wait=max(left - MARGIN_SECONDS, 0.0), follow=request.follow - 1, number=number)
        try:
            _, modifier2, block = await self._neighbours.ask(node, asked.encode(), left, link)
            if modifier2 == 0:
                read_answer(modifier2, block)  # raises the refusal
            return cancel.read_cancel_answer(modifier2, block)
        except Refused as refusal:
            too_old = "it runs a version of spoolnode that cannot cancel for other nodes; cancel the task there"
            why = too_old if cancel.is_of_older_version(refusal) else refusal.text
        except (SpoolnodeError, OSError) as error:
            why = str(error)
        known = self._neighbours.link(node)
        name = (known["name"] if known is not None else "") or called or node
        return _unsure(f"the task {request.identity} went to {name}, which does not cancel it: {why}")


CANCELLED = CancelAnswer(CancelOutcome.CANCELLED)


def holder(source: Source, ref: Any) -> str:
    """Says where a task in flight is."""
    return "being sent to another node right now" if source.sequence_number(ref) else "with a worker"


def _not(text: str) -> CancelAnswer:
    return CancelAnswer(CancelOutcome.NOT_CANCELLED, text)


def _not_told(identity: str, reason: str) -> CancelAnswer:
    return _unsure(
        f"the task {identity} has ended here, but the common store has not heard it: if it is not back before the lease runs "
        f"out, the task runs again on another node ({reason or 'it does not answer'})"
    )


def _unsure(text: str) -> CancelAnswer:
    return CancelAnswer(CancelOutcome.UNSURE, text)


def _ended_well(identity: str) -> str:
    return f"the task {identity} had ended well before it could be cancelled"


async def _read(job: Callable[[], Any]) -> Any:
    """Runs a long read in a thread of its own, so that tasks do not wait for it."""
    return await asyncio.get_running_loop().run_in_executor(None, job)
