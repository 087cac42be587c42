"""The history of each task, and whether it was allowed.

    acknowledged   as many copies as the answer told (one, but for `all`) are done, or dead, or on a disk that will run them
    refused        it never runs
    done           it never runs again, except after a power cut what was done in the second before
    running        nowhere else at the same time
    cancelled      it never starts again, and is dead as cancelled
    forgotten      its node was forgotten: it runs where the operator moved it, or is dead; only if it was in doubt it may be both

Each of these is looked at when it could be broken, and `check_disks` counts what lies on all disks.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from spoolnode.node.disk.fakes import FakeDisk
from spoolnode.node.disk.layout import batch_number, is_priority, is_spool_file, ref_id
from spoolnode.protocol import batch as batchfile
from spoolnode.protocol import names, spoolfile
from spoolnode.protocol.cancel import is_cancelled
from spoolnode.protocol.forward import UNDELIVERED
from spoolnode.protocol.packet import HEADER, decode_variables

from .loop import Violation

ROOT = "/var/spool"
HERE, OUTBOX, DEAD = "here", "outbox", "dead"
ALL = "all"
FORGOTTEN, DOUBT = "the node was forgotten", "and may have the task"
"""In the reason of a task whose node was forgotten; and if that node may have it."""

Disks = Mapping[str, tuple[str, FakeDisk]]
"""Id and disk of each node, by its name."""


class Place(NamedTuple):
    """Where a copy of a task lies."""

    machine: str
    kind: str
    local: str
    """Its id there."""
    reason: str = ""
    """Why it is dead."""


@dataclass(eq=False)
class Copy:
    """One thing to run; a task is one, except that of `all`."""

    task: "Task"
    identity: str
    running: str = ""
    """The machine on which it runs now."""
    done: str = ""
    """The machine on which it has ended well."""
    safe: bool = False
    """And that is safe against a power cut."""
    unsure: bool = False
    """It has ended well, but a power cut made that uncertain."""
    machines: list[str] = field(default_factory=list)
    """Where it has started."""

    def __str__(self) -> str:
        return f"{self.task}, copy {self.identity} (started on {self.machines}, done on {self.done or 'none'})"


@dataclass(eq=False)
class Task:
    """One task, from the client that sends it to its end."""

    n: int
    body: bytes = b""
    asked: str = ""
    """The destination that it names."""
    to: frozenset[str] = frozenset()
    """The machines where it may run; empty is any."""
    poison: bool = False
    """It always fails."""
    acknowledged: bool = False
    identity: str = ""
    """The id that the answer told; empty if it told none."""
    told: int = 1
    """How many copies the answer told; 0: it told nothing, in uWSGI's dialect."""
    refusal: str = ""
    answered: bool = False
    copies: dict[str, Copy] = field(default_factory=dict)

    def __str__(self) -> str:
        state = "acknowledged" if self.acknowledged else self.refusal or "not answered"
        return f"task {self.n} for {self.asked or 'here'} ({state})"

    def copy(self, identity: str) -> Copy:
        """The copy of that id. Raises `Violation` when there are too many."""
        found = self.copies.get(identity)
        if found is None:
            found = self.copies[identity] = Copy(self, identity)
            if self.asked != ALL and len(self.copies) > 1:
                raise Violation(f"{self} was stored more than once: {list(self.copies)}")
        return found

    @property
    def is_done(self) -> bool:
        """Whether all copies that are known have ended well."""
        return bool(self.copies) and all(copy.done for copy in self.copies.values())

    @property
    def may_run(self) -> bool:
        """Nothing can be promised about what a broken disk did, or a store that did not answer."""
        return not self.refusal or "failed" in self.refusal or "the common store is away" in self.refusal


class History:
    """All tasks of a run."""

    def __init__(self) -> None:
        self.tasks: dict[int, Task] = {}
        self.moves_allowed = False
        """Tasks may be handed over after they were tried (drain, overflow)."""
        self.cut: set[str] = set()
        """Machines whose power was cut: tasks given up there in the second before may have run once more, and well."""
        self.dead_may_run = False
        """Tasks in doubt may be given up (hold)."""
        self.called_off: set[str] = set()
        """Ids of tasks that somebody has asked a node to cancel: they may be dead on a node that has perhaps sent them before."""
        self.forgetters: set[str] = set()
        """Machines where an operator has forgotten a node: tasks for it may be dead there."""
        self.moved: dict[str, set[str]] = {}
        """Where the tasks for each forgotten node may have been moved; `any` is everywhere."""
        self.cancelled: set[str] = set()
        """Those of which a node has said that they are cancelled."""

    def new(self, **facts: Any) -> Task:
        """A task that a client is going to send."""
        task = Task(len(self.tasks) + 1, **facts)
        self.tasks[task.n] = task
        return task

    def task_of(self, payload: bytes, local: str) -> tuple[Task, str]:
        """The task in a spool file, and its id; `local`: its id at its present place."""
        n, identity = names_of(payload, local)
        return self.tasks[n], identity

    # -- what a client hears --

    def acknowledged(self, n: int, copies: int = 1, identity: str = "") -> None:
        """The client was told that it is stored, so many times, and its id, that of the first copy."""
        task = self._answer(n)
        task.acknowledged = True
        task.identity = identity
        task.told = copies

    def refused(self, n: int, reason: str) -> None:
        """The client was told that it is not."""
        task = self._answer(n)
        task.refusal = reason
        if task.copies and not task.may_run:
            raise Violation(f"{task} has run and is refused")

    def _answer(self, n: int) -> Task:
        task = self.tasks[n]
        if task.answered:
            raise Violation(f"{task} is answered twice")
        task.answered = True
        return task

    # -- what an operator does and hears --

    def forgets(self, machine: str, node: str, move_to: str) -> None:
        """On that machine a node is going to be forgotten. Its tasks go to dead/ if they go nowhere else."""
        self.forgetters.add(machine)
        if move_to:
            self.moved.setdefault(node, set()).add(move_to)

    def _may_be_on(self, machine: str, task: Task) -> bool:
        """Whether it may run there: it was addressed there, or an operator may have moved it there, perhaps in several steps."""
        allowed, pending = set(task.to), list(task.to)
        while pending:
            further = self.moved.get(pending.pop(), set()) - allowed
            allowed |= further
            pending += further
        return not task.to or machine in allowed or "any" in allowed

    def said_cancelled(self, identity: str) -> None:
        """A node says that the task of that id is cancelled."""
        self.cancelled.add(identity)
        for copy in self._copies():
            if copy.identity == identity and (copy.running or (copy.done and not copy.unsure)):
                raise Violation(f"{copy} is said to be cancelled")

    # -- what a worker does --

    def started(self, payload: bytes, local: str, machine: str, *, leased: bool = False) -> Copy:
        """A worker has it. `leased`: from a common store (see `stored`)."""
        task, identity = self.task_of(payload, local)
        copy = task.copy(identity)
        if copy.running:
            raise Violation(f"{copy} runs on {copy.running} and starts on {machine}")
        if identity in self.cancelled:
            raise Violation(f"{copy} is cancelled and starts on {machine}")
        if copy.done and not copy.unsure:
            raise Violation(f"{copy} has ended well and starts on {machine}")
        if not task.may_run:
            raise Violation(f"{task} was refused and starts on {machine}")
        if not self._may_be_on(machine, task):
            raise Violation(f"{copy} starts on {machine}")
        if copy.machines and machine not in copy.machines and (task.asked == ALL or not self.moves_allowed):
            raise Violation(f"{copy} starts on {machine} too")
        if spoolfile.parse(payload).body != task.body:
            raise Violation(f"{task} has not the body that was sent")
        copy.running, copy.done, copy.unsure, copy.safe = machine, "", False, False
        copy.machines.append(machine)
        return copy

    def ended(self, copy: Copy, well: bool, machine: str) -> None:
        """It has stopped running on that machine; `well`: its end is on disk."""
        if well:
            copy.done = machine
        copy.running = ""

    # -- what a machine does --

    def safe(self, copies: Iterable[Copy]) -> None:
        """The ends of these are safe against a power cut."""
        for copy in copies:
            copy.safe = True
            copy.unsure = False

    def killed(self, machine: str) -> None:
        """Its process is gone, and its tasks have stopped."""
        for copy in self._copies():
            if copy.running == machine:
                copy.running = ""

    def came_up(self, machine: str) -> None:
        """Its node is up."""

    def stopped(self, process: str) -> None:
        """A process has come to its orderly end."""

    def power_cut(self, machine: str) -> None:
        """Tasks that ended there and are not safe may run again."""
        self.cut.add(machine)
        for copy in self._copies():
            if copy.done == machine and not copy.safe:
                copy.unsure = True

    def _copies(self) -> Iterable[Copy]:
        return (copy for task in self.tasks.values() for copy in task.copies.values())

    # -- the books --

    def check_disks(self, disks: Disks) -> None:
        """A task that was acknowledged and is not done is on one disk that will run it, and not on two."""
        places = self.places(disks)
        for task in self.tasks.values():
            for copy in task.copies.values():
                found = places.get(copy, ())
                waiting = {place for place in found if place.kind == HERE}
                if len({place.machine for place in waiting}) > 1 or len({place.local for place in waiting}) > 1:
                    raise Violation(f"{copy} waits in several places: {sorted(waiting)}")
                if waiting and not task.may_run:
                    raise Violation(f"{task} was refused and waits: {sorted(waiting)}")
                if waiting and not self._may_be_on(next(iter(waiting)).machine, task):
                    raise Violation(f"{copy} waits where it may not run: {sorted(waiting)}")
            if task.acknowledged:
                kept = sum(bool(copy.done or places.get(copy)) for copy in task.copies.values())
                if kept < max(task.told, 1):
                    raise Violation(
                        f"{task} is lost: {kept} of {task.told} copies are there: {list(map(str, task.copies.values()))}"
                    )

    def check_end(self, disks: Disks) -> None:
        """All have ended: each task is done or dead."""
        places = self.places(disks)
        self._check_cancelled(places)
        for task in self.tasks.values():
            for copy in task.copies.values():
                found = places.get(copy, [])
                dead = [place for place in found if place.kind == DEAD]
                if len(dead) != len(found):
                    raise Violation(f"{copy} still waits: {found}")
                given_up = [place for place in dead if place.reason.startswith(UNDELIVERED.decode())]
                may_run = self.dead_may_run or copy.identity in self.called_off or any(map(self._is_doubt, given_up))
                if not may_run and not all(map(self._is_forgotten, given_up)):
                    raise Violation(f"{copy} was not delivered: {given_up}")
                is_done = bool(copy.done) and not copy.unsure and copy.done not in self.cut
                if len(dead) + is_done > 1 and not may_run:
                    raise Violation(f"{copy} ended more than once: {dead}")
            self._check_copies(task, sum(bool(copy.done or places.get(copy)) for copy in task.copies.values()))

    def _is_forgotten(self, place: Place) -> bool:
        """Whether a task is dead because its node was forgotten there..."""
        return place.machine in self.forgetters and FORGOTTEN in place.reason

    def _is_doubt(self, place: Place) -> bool:
        """...and has perhaps been sent there: only then it may also have run."""
        return self._is_forgotten(place) and DOUBT in place.reason

    def _check_cancelled(self, places: Mapping[Copy, Iterable[Place]]) -> None:
        found = {copy.identity for copy, there in places.items() if any(is_cancelled(place.reason) for place in there)}
        if lost := self.cancelled - found:
            raise Violation(f"{sorted(lost)} were cancelled and are not in dead/")

    def _check_copies(self, task: Task, ended: int) -> None:
        if not task.acknowledged:
            return
        if ended < max(task.told, 1):
            raise Violation(f"{task} is lost: {ended} of {task.told} copies have ended")
        if task.told and ended > task.told:
            raise Violation(f"{task} has {ended} copies, and {task.told} were told")
        first = [copy.machines[0] for copy in task.copies.values() if copy.machines]
        if len(set(first)) < len(first) and not self.moved:
            raise Violation(f"{task} has two copies on one machine: {first}")

    def places(self, disks: Disks) -> dict[Copy, list[Place]]:
        """Every unfinished copy on these disks."""
        found: dict[Copy, list[Place]] = {}
        for machine, (node_id, disk) in disks.items():
            for kind, local, payload in _payloads(disk, node_id):
                task, identity = self.task_of(payload, local)
                reason = variables_of(payload).get(names.REASON, b"").decode() if kind is DEAD else ""
                found.setdefault(task.copy(identity), []).append(Place(machine, kind, local, reason))
        return found


def variables_of(payload: bytes) -> dict[bytes, bytes]:
    """The variables of a task in a spool file."""
    return dict(decode_variables(payload[HEADER.size : HEADER.size + int.from_bytes(payload[1:3], "little")]))


def names_of(payload: bytes, local: str) -> tuple[int, str]:
    """The number and the id of the task in a spool file; `local`: its id at its present place."""
    said = variables_of(payload)
    identity = said.get(names.ID)
    return int(said[b"n"]), identity.decode() if identity else local


def _payloads(disk: FakeDisk, node_id: str) -> Iterable[tuple[str, str, bytes]]:
    for name in _names(disk, f"{ROOT}/incoming"):
        number = batch_number(name)
        data = disk.peek(f"{ROOT}/incoming/{name}") if number is not None else None
        if data is None or number is None or not data.rstrip(b"\0"):
            continue
        for item in batchfile.read_records(data, number):
            if isinstance(item, batchfile.Record) and item.state == spoolfile.WAITING:
                kind = OUTBOX if item.kind == batchfile.OUTBOUND else HERE
                yield kind, names.id_of_record(node_id, number, item.offset), data[item.offset : item.offset + item.length]
    pending = [("", HERE), ("arriving/", HERE), ("dead/", DEAD)]
    pending += [(f"outbox/{name}/", OUTBOX) for name in _names(disk, f"{ROOT}/outbox")]
    while pending:
        directory, kind = pending.pop()
        for name in _names(disk, f"{ROOT}/{directory}"):
            if is_spool_file(name):
                data = disk.peek(f"{ROOT}/{directory}{name}")
                if data and data[0] == spoolfile.WAITING:
                    yield kind, ref_id(f"{directory}{name}"), data
            elif kind is HERE and is_priority(name):
                pending.append((f"{directory}{name}/", HERE))


def _names(disk: FakeDisk, path: str) -> list[str]:
    try:
        return disk.names(path)
    except OSError:
        return []  # nothing has made it yet
