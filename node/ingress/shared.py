"""Requests whose tasks go into the common store: to which destination there, and what becomes of them while it is away."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from spoolnode.node.commons import COMMONS, Commons, SharedBody, SharedTask, Sharer, Unsure
from spoolnode.node.ingress.waiters import Leaving
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.spool.group_commit import PromptWaiter, Waiter
from spoolnode.node.spool.tasks import Outbound
from spoolnode.protocol import names
from spoolnode.protocol.errors import Reason, Refused
from spoolnode.protocol.forward import LINK_ROOM, tells_the_way, without_way
from spoolnode.protocol.packet import MAX_BLOCK, decode_variables, encode_variables
from spoolnode.protocol.request import Terms

ALL, TAG = "all", "tag:"
_COMMON = frozenset(["", COMMONS])
"""The destinations of most tasks."""
MOMENT = 0.1
"""Seconds by which the time in the id of a task may be earlier than its acceptance."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a node shares its tasks."""

    commons: Commons
    route: Callable[[Terms], list[str]]
    """The nodes that a task for `all` goes to."""
    is_apart: Callable[[str], bool]
    """Whether a destination is a node that is known to have no store."""
    node_id: str
    names: frozenset[str]
    """The destinations that mean this node."""
    keeps: bool
    """Whether tasks that come while the store is away are kept on the disk."""


@dataclass(slots=True)
class _Shared:
    """Tasks for one destination that the store has taken in the same moment."""

    refs: list[str] = field(default_factory=list)
    callers: list[str] = field(default_factory=list)
    functions: dict[str, bytes] = field(default_factory=dict)


class Sharing:
    """The way of requests into the common store of one node."""

    def __init__(self, storage: Storage, way: Way) -> None:
        self._storage = storage
        self._way = way
        self._moment = 0
        self._prefix = ""
        """The ids of the tasks that came in this moment begin with it: together they are a few rows of the stories."""
        self._serial = 0
        self._shared: dict[str, _Shared] = {}
        """Tasks of which the stories have not heard yet, by destination. Many come in one turn, and a note of each is dear."""

    def takes(self, terms: Terms) -> bool:
        """Whether a task goes into the store. Pickles, and files that their senders may remove, stay on this disk."""
        return not (terms.pickled or terms.own_file or self.is_apart(terms.destination))

    def places(self, terms: Terms, *, is_linked: bool = False) -> list[str]:
        """The destinations of a task, each with a copy; some may be apart. `is_linked`: it came over a link."""
        asked, way = terms.destination, self._way
        if asked in ("", COMMONS) or asked.startswith(TAG):
            return [asked or COMMONS]
        if is_linked:  # whatever its sender called this node, it is for this node
            return [asked if asked in way.names else way.node_id]
        if asked == ALL:
            return [to or way.node_id for to in way.route(terms)]
        return [way.node_id if ":" in asked and asked in way.names else asked]

    def is_apart(self, to: str) -> bool:
        """Whether a destination is reached only by a link."""
        return to not in _COMMON and self._way.is_apart(to)

    def share(
        self, to: str, block: bytes, body: bytes, terms: Terms, waiter: Waiter, caller: str, *, is_linked: bool = False,
        prompt: PromptWaiter | None = None,
    ) -> None:  # fmt: skip
        """Shares a task, or a copy of one. Raises `Refused`."""
        task = self.task(shared_block(block), body, terms, to, self.new_id(terms))
        self._way.commons.share(task, _Waiting(self, task, terms, waiter, caller, prompt, is_linked))

    def begin(self, task: SharedTask, sharer: Sharer) -> None:
        """Shares a task whose fate the caller waits for."""
        self._way.commons.share(task, sharer)

    def new_id(self, terms: Terms) -> str:
        """The id of a task: one that came over a link keeps its own, so that a repeat is known."""
        return terms.origin_id.decode("ascii", "replace") if terms.origin_id else self._fresh_id()

    def _fresh_id(self) -> str:
        moment = int(time.time() / MOMENT)
        if moment != self._moment:
            journal = self._storage.journal
            self._moment, self._prefix, self._serial = moment, names.before_offset(journal.node_id, journal.number()), 0
        self._serial += 1
        return f"{self._prefix}{self._serial}"

    def task(self, block: bytes, body: bytes | SharedBody, terms: Terms, to: str, identity: str) -> SharedTask:
        """A task as the store gets it."""
        due = terms.due if terms.due and terms.due > time.time() else 0.0
        return SharedTask(identity, block, to, terms.rank, due, terms.key, terms.hops, body)

    def tell(self, task: SharedTask, function: bytes, caller: str) -> None:
        """Notes that the store has a new task."""
        journal, ref = self._storage.journal, names.file_name(task.id)
        journal.counts.accepted += 1
        if not self._shared:
            asyncio.get_running_loop().call_soon(self._tell_stories)
        if (shared := self._shared.get(task.to)) is None:
            shared = self._shared[task.to] = _Shared()
        shared.refs.append(ref)
        shared.callers.append(caller)
        if function:
            shared.functions[ref] = function
        if journal.trace:
            journal.trace("accepted", id=task.id, origin_id=task.id, function=function.decode("utf-8", "replace"), to=task.to)

    def _tell_stories(self) -> None:
        told, self._shared = self._shared, {}
        for to, shared in told.items():
            self._storage.journal.story.accepted(None, shared.refs, shared.callers, {}, shared.functions, to=to)

    def refusal(self, reason: str, *, is_linked: bool, may_have_it: bool) -> Refused | None:
        """Why a task that the store did not take is refused; None: this disk keeps it. A node that sent it keeps it itself."""
        if self._way.keeps and not is_linked:
            return None
        kind = Unsure if may_have_it else Refused
        return kind(Reason.BUSY, f"the common store is away, and without it this node takes no tasks ({reason}); ask again later")

    def keep(
        self, task: SharedTask, terms: Terms, waiter: Waiter, caller: str, prompt: PromptWaiter | None, *, may_have_it: bool
    ) -> None:  # fmt: skip
        """Keeps a task on the disk until the store is back."""
        assert isinstance(task.body, bytes)  # noqa: S101  # a larger one has a file (see `shared_upload`)
        number = self._storage.outbox.number(COMMONS)
        # Its variables have no id yet: no client may give one, and what came over a link is not kept.
        said = [(names.TO, COMMONS.encode()), (names.ID, task.id.encode()), *asked_now(may_have_it)]
        block = self._named(task, terms) + encode_variables(said)
        leaving = Leaving(self._storage, COMMONS, number, _Renamed(task.id, waiter))
        terms = terms._replace(origin_id=task.id.encode())  # its story is found under the id that its sender is told
        self._storage.spool.group_commit.add(
            block, task.body, terms, leaving, caller, prompt, outbound=Outbound(COMMONS, number)
        )  # fmt: skip

    def _named(self, task: SharedTask, terms: Terms) -> bytes:
        """The variables of a task, of which one of the copies for all nodes says for which of them it is."""
        if terms.destination != ALL:
            return task.block
        kept = [item for item in decode_variables(task.block) if item[0] != names.NODE]
        return encode_variables([*kept, (names.NODE, task.to.encode())])


class _Waiting:
    """Waits for what the store says to one task."""

    __slots__ = ("_caller", "_is_linked", "_prompt", "_sharing", "_task", "_terms", "_waiter")

    def __init__(
        self, sharing: Sharing, task: SharedTask, terms: Terms, waiter: Waiter, caller: str, prompt: PromptWaiter | None,
        is_linked: bool,
    ) -> None:  # fmt: skip
        self._sharing = sharing
        self._task = task
        self._terms = terms
        self._waiter = waiter
        self._caller = caller
        self._prompt = prompt
        self._is_linked = is_linked

    def __repr__(self) -> str:
        return f"<waits for the store to take {self._task.id}>"

    def shared(self, *, is_duplicate: bool) -> None:
        """The store has it."""
        if not is_duplicate:
            self._sharing.tell(self._task, self._terms.function, self._caller)
        if self._prompt is not None:
            self._prompt.safe()
        self._waiter.stored(self._task.id, 0 if is_duplicate else 1)

    def not_shared(self, reason: str, *, may_have_it: bool) -> None:
        """The store is away."""
        refusal = self._sharing.refusal(reason, is_linked=self._is_linked, may_have_it=may_have_it)
        if refusal is None:
            self._sharing.keep(self._task, self._terms, self._waiter, self._caller, self._prompt, may_have_it=may_have_it)
        else:
            self._waiter.refused(refusal)


class _Renamed:
    """Tells the id that a task has in the store, where it lies in a batch meanwhile."""

    __slots__ = ("_identity", "_waiter")

    def __init__(self, identity: str, waiter: Waiter) -> None:
        self._identity = identity
        self._waiter = waiter

    def __repr__(self) -> str:
        return f"<waits for the disk to keep {self._identity}>"

    def stored(self, task_id: str, copies: int = 1) -> None:
        """It is safe."""
        del task_id
        self._waiter.stored(self._identity, copies)

    def refused(self, refusal: Refused) -> None:
        """The disk did not take it."""
        self._waiter.refused(refusal)


def asked_now(may_have_it: bool) -> list[tuple[bytes, bytes]]:
    """The variables that say that the store was asked for a task just now, and may have it."""
    return [(names.ASKED, f"{time.time():.0f}".encode())] if may_have_it else []


def shared_block(block: bytes) -> bytes:
    """Variables as the store gets them. Raises `Refused` if they are too many."""
    if tells_the_way(block):
        block = without_way(decode_variables(block))
    if len(block) > MAX_BLOCK - LINK_ROOM:
        raise Refused(
            Reason.TOO_LARGE,
            f"the variables take {len(block)} bytes; those of a task in a common store may take {MAX_BLOCK - LINK_ROOM}",
        )
    return block
