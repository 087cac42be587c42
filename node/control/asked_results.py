"""Answers questions about tasks: from this node's disk, from the story of the task, or by asking the node that has it."""

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from math import inf

from spoolnode.node import commons as common
from spoolnode.node.commons import CommonsAway
from spoolnode.node.control.asked_tasks import AskedTasks
from spoolnode.node.control.in_store import InStore, has_left, is_in_store, names_of
from spoolnode.node.control.stories import Stories
from spoolnode.node.neighbours import Neighbours
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.spool import inspect
from spoolnode.node.spool.kept import expire, read_kept
from spoolnode.node.story.notes import DEAD, DONE, FORWARDED, MERGED, REMOVED, Happened
from spoolnode.protocol import fetch
from spoolnode.protocol.errors import Reason, Refused, SpoolnodeError
from spoolnode.protocol.fetch import STORY, TASK, Fetched, Question, read_fetched

MOST_WAITING = 1000
"""Questions that may wait at once."""
MOVING_SECONDS = 0.05
"""The pause before a task is looked for again that is just changing its place."""
LOOKS = 20
"""How often it is looked for."""
PEER_SECONDS = 1.0
"""The pause before a node that has the task, and did not answer, is asked again."""
ASK_SECONDS = 5.0
"""How long a node may take to answer that perhaps knows about a task of the common store."""
STORE_SECONDS = 0.5
"""The pause before the common store is asked again about a task that has not ended."""
EXPIRY_SECONDS = 60.0
"""How often expired results are removed."""
_NOT_IN_STORE = (
    "it has ended well on {}, and the common store has no result: none was kept (@spool(keep_result=True)), or it has more than "
    "256 KiB and is on that node"
)
_REMOVED = "it was removed by hand"
_MERGED = "it was not run: another task, which waited with the same key, did its work"
_UNKNOWN = Fetched(missing="it is unknown here: it has never been here, or its story is not kept (--history)", kind=fetch.UNKNOWN)


class AskedResults:
    """The results of one node's tasks, and all else about them, for those who ask."""

    def __init__(
        self, storage: Storage, neighbours: Neighbours, stories: Stories, tasks: AskedTasks, in_store: InStore,
        keep_results: float,
    ) -> None:  # fmt: skip
        """`keep_results`: seconds."""
        self._storage = storage
        self._journal = storage.journal
        self._neighbours = neighbours
        self._stories = stories
        self._tasks = tasks
        self._in_store = in_store
        self._keep_results = keep_results
        self._waiting = 0
        self._expired = 0.0

    def __repr__(self) -> str:
        return f"<AskedResults, {self._waiting} questions wait>"

    async def answer(self, question: Question) -> Fetched:
        """The answer: at once if the task has ended, else when it ends, or after the question's time. Raises `Refused`."""
        if question.about == STORY:
            return Fetched.of(json.dumps(await self._stories.own(question.identity)).encode(), question.start)
        if self._waiting >= MOST_WAITING:
            raise Refused(Reason.BUSY, f"{self._waiting} callers wait for results here already; ask again")
        self._waiting += 1
        try:
            if question.about == TASK:
                return await self._tell(question)
            return await self._answer(question, time.monotonic() + question.wait)
        finally:
            self._waiting -= 1

    async def _tell(self, question: Question) -> Fetched:
        """Tells about a task, or has the node tell that it was forwarded to. Raises `Refused`."""
        identity = question.identity
        for _ in range(LOOKS):
            steps = await self._journal.story.steps(identity)
            if (told := await self._tasks.told(identity, steps)) is not None:
                return Fetched.of(told, question.start)
            if not has_left(steps):
                stored = await self._stored(names_of(steps, identity), question)
                if stored is not None and not stored.is_pending:
                    return stored
            if not steps:
                return _UNKNOWN
            if steps[-1].kind == FORWARDED and not is_in_store(steps[-1]):
                found = await self._ask(steps[-1], question, 0.0)
                if found.is_pending:
                    raise Refused(Reason.BUSY, f"it was forwarded to {steps[-1].detail['to']}, which does not answer now")
                return found
            if steps[-1].kind in (DONE, REMOVED, MERGED):
                return self._why(steps)
            await asyncio.sleep(MOVING_SECONDS)
        return Fetched(missing="its file was removed by hand", kind=fetch.REMOVED)

    async def _answer(self, question: Question, deadline: float) -> Fetched:
        identity = question.identity
        while True:
            known = {identity, *(step.id for step in await self._journal.story.steps(identity))}
            with self._journal.watchers.watching(known) as happened:
                found, pause = await self._look(question, deadline)
                left = deadline - time.monotonic()
                if not found.is_pending or left <= 0:
                    return found
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(left, pause)):
                        await happened.wait()

    async def _look(self, question: Question, deadline: float) -> tuple[Fetched, float]:
        """The answer as of now, and after how many seconds there may be another one although nothing has happened here."""
        identity, layout = question.identity, self._journal.layout
        steps = await self._journal.story.steps(identity)
        if not steps:
            return await self._without_story(question)
        for name in names_of(steps, identity):
            if (kept := await self._journal.moves.run(partial(read_kept, layout, name))) is not None:
                return Fetched.of(kept, question.start), inf
        ends = [step for step in steps if step.kind in (DONE, DEAD, REMOVED, FORWARDED, MERGED) and not is_in_store(step)]
        if ends and ends[-1].kind == FORWARDED:
            return await self._ask(ends[-1], question, deadline), 0.0
        if ends and ends[-1] is steps[-1] and not (ends[-1].kind == DEAD and self._in_store.is_there):
            return self._why(steps), inf
        if (stored := await self._stored(names_of(steps, identity), question)) is not None:
            return stored, STORE_SECONDS
        if ends and ends[-1] is steps[-1]:
            return self._why(steps), inf
        return Fetched(), STORE_SECONDS if self._in_store.is_there else inf

    async def _stored(self, known: Sequence[str], question: Question) -> Fetched | None:
        """The answer of the common store about a task; None if it does not know it."""
        try:
            found = await self._in_store.look_up(known)
        except CommonsAway:
            return Fetched()  # it may know later
        if found is None:
            return None
        if found.state == common.DEAD:
            return _given_up(found.reason)
        if found.state != common.ENDED:
            return Fetched()
        if found.result:
            return Fetched.of(found.result, question.start)
        if found.ending == REMOVED:
            return Fetched(missing=_REMOVED, kind=fetch.REMOVED)
        if found.ending == MERGED:
            return Fetched(missing=_MERGED, kind=fetch.MERGED)
        return await self._from(found.node_id, question) or Fetched(
            missing=_NOT_IN_STORE.format(found.node or "a node"), kind=fetch.NOT_KEPT
        )

    async def _from(self, node_id: str, question: Question) -> Fetched | None:
        """The answer of a node that may know about a task; None if it does not tell or know."""
        if not self._neighbours.knows(node_id):
            return None
        with suppress(SpoolnodeError, OSError):
            told = await self._neighbours.ask(node_id, question._replace(wait=0.0).encode(), ASK_SECONDS)
            answer = read_fetched(*told[1:])
            return None if answer.is_pending or answer.kind == fetch.UNKNOWN else answer
        return None

    async def _ask(self, forwarded: Happened, question: Question, deadline: float) -> Fetched:
        """Asks the node that got the task."""
        left, peer = max(deadline - time.monotonic(), 0.0), forwarded.detail["peer"]
        if not self._neighbours.knows(peer):
            gone = f"it went to {forwarded.detail['to']}, and that node ({peer}) is not known here any more"
            return Fetched(missing=f"{gone}: it was forgotten, or has never told who it is", kind=fetch.UNKNOWN)
        try:
            answer = await self._neighbours.ask(peer, question._replace(wait=left).encode(), left + 5.0)
            return read_fetched(*answer[1:])
        except (SpoolnodeError, OSError):
            await asyncio.sleep(min(left, PEER_SECONDS))
            return Fetched()

    def _why(self, steps: Sequence[Happened]) -> Fetched:
        """Why a task that ended here has no result."""
        last = steps[-1]
        if last.kind == DEAD:
            reasons = [step.detail["reason"] for step in steps if step.detail.get("reason")]
            return _given_up(reasons[-1] if reasons else "its reason is not known any more")
        if last.kind == REMOVED:
            return Fetched(missing=_REMOVED, kind=fetch.REMOVED)
        if last.kind == MERGED:
            merged = f"it was not run: the task {last.detail['into']}, which waited with the same key, did its work"
            return Fetched(missing=merged, kind=fetch.MERGED)
        if why := last.detail.get("reason"):
            return Fetched(missing=str(why), kind=fetch.NOT_KEPT)
        if last.detail.get("kept"):
            expired = f"its result has expired: results are kept for {self._keep_results:g} s (--keep-results)"
            return Fetched(missing=expired, kind=fetch.EXPIRED)
        return Fetched(missing="its result was not kept: that takes @spool(keep_result=True)", kind=fetch.NOT_KEPT)

    async def _without_story(self, question: Question) -> tuple[Fetched, float]:
        """The answer about a task without a story: by its file, or by its result, which is kept before the file goes."""
        identity, reader = question.identity, self._journal.reader
        found = await self._journal.moves.run(lambda: inspect.find_place(reader, identity))
        if (kept := await self._journal.moves.run(partial(read_kept, reader.layout, identity))) is not None:
            return Fetched.of(kept, question.start), inf
        if found is None:
            stored = await self._stored([identity], question)
            return stored or await self._from(identity[:12], question) or _UNKNOWN, STORE_SECONDS
        if found[0].state == inspect.DEAD:
            shown = await self._journal.moves.run(lambda: inspect.contents(reader, found[1]))
            return _given_up(shown.get("spool_reason", "its reason is not known")), inf
        return Fetched(), inf

    async def tidy(self) -> None:
        """Removes expired results, now and then."""
        if time.monotonic() - self._expired > EXPIRY_SECONDS:
            self._expired = time.monotonic()
            layout, seconds = self._journal.layout, self._keep_results
            await self._journal.moves.run(lambda: expire(layout, seconds))


def _given_up(reason: str) -> Fetched:
    return Fetched(missing=f"it was given up: {reason}", kind=fetch.GIVEN_UP)
