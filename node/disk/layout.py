"""The paths in a spool directory. A task's state is its place: see ARCHITECTURE.md, "On disk"."""

import os
from typing import NamedTuple

from spoolnode.node.disk.disk import Disk
from spoolnode.protocol.names import LAST, LONGEST_ID, MAX_NUMBER, SPOOL_PREFIX, file_name, id_of_file, shortened

BATCH_SUFFIX = ".batch"
_HELD_SUFFIX = ".held"


class Layout(NamedTuple):
    """The paths of one spool directory; `root` is absolute."""

    root: str

    @property
    def incoming(self) -> str:
        """Batches: tasks just accepted, many to a file."""
        return self.path("incoming")

    @property
    def outbox(self) -> str:
        """A directory for each destination, with the tasks that wait for it."""
        return self.path("outbox")

    @property
    def dead(self) -> str:
        """Tasks given up."""
        return self.path("dead")

    @property
    def corrupt(self) -> str:
        """Files that could not be read."""
        return self.path("corrupt")

    @property
    def tmp(self) -> str:
        """Files that are being written; swept at the start."""
        return self.path("tmp")

    @property
    def arriving(self) -> str:
        """Large tasks from peers, until it is safe on disk that their numbers are taken."""
        return self.path("arriving")

    @property
    def taken(self) -> str:
        """The sequence numbers taken from other nodes (see `sequence`)."""
        return self.path("taken")

    @property
    def instance(self) -> str:
        """Marks of the present run of the node, and of runs that were killed (see `strays`)."""
        return self.path("instance")

    @property
    def links(self) -> str:
        """The memory of the sending side (see `outbox`)."""
        return self.path("links")

    @property
    def paused(self) -> str:
        """The functions that an operator has paused (see `pauses`)."""
        return self.path("paused")

    @property
    def known(self) -> str:
        """Which other node has which name (see `cluster.known`)."""
        return self.path("known")

    @property
    def timers(self) -> str:
        """Which due time of each timer of the cluster was run last (see `timekeeper`)."""
        return self.path("timers")

    @property
    def results(self) -> str:
        """The results that are kept (see `kept`)."""
        return self.path("results")

    @property
    def pulled(self) -> str:
        """Tasks that are on their way here from a common store (see `cluster.store.pull`)."""
        return self.path("pulled")

    @property
    def story(self) -> str:
        """The database with the stories of tasks (see `story`)."""
        return self.path("story.db")

    @property
    def node_id(self) -> str:
        """The file with this node's id."""
        return self.path("node.id")

    @property
    def node_key(self) -> str:
        """The file with this node's secret (see `keys`)."""
        return self.path("node.key")

    @property
    def lock(self) -> str:
        """Locked (flock) as long as a node runs here."""
        return self.path("lock")

    @property
    def control(self) -> str:
        """The socket of the control interface."""
        return self.path("control.sock")

    @property
    def socket(self) -> str:
        """The node's own uwsgi socket, for this machine's owner and the workers."""
        return self.path("spool.sock")

    @property
    def directories(self) -> list[str]:
        """Every directory that a node needs."""
        return [self.root, self.incoming, self.outbox, self.arriving, self.dead, self.corrupt, self.tmp]

    def own_names(self) -> set[str]:
        """The names of the directories in the spool that a node makes, now or when it needs them."""
        return {os.path.basename(path) for path in (*self.directories, self.results, self.pulled)}

    def path(self, ref: str) -> str:
        """The path of something below the spool."""
        return f"{self.root}/{ref}"

    def batch(self, number: int) -> str:
        """The path of a batch."""
        return self.path(batch_ref(number))

    def directory_of(self, ref: str) -> str:
        """The directory in which a spool file lies."""
        return os.path.dirname(self.path(ref))


def make_places(disk: Disk, layout: Layout) -> list[str]:
    """Makes missing directories of a spool directory, and returns them. Raises FileNotFoundError if the spool is gone."""
    missing = []
    disk.stat(layout.root)
    for path in layout.directories[1:]:
        try:
            disk.stat(path)
        except FileNotFoundError:
            disk.make_directory(path)
            missing.append(os.path.basename(path))
    if missing:
        disk.sync_directory(layout.root)
    return missing


def create(disk: Disk, layout: Layout, path: str) -> int:
    """A new file in tmp/. Makes its directories again if they were removed."""
    try:
        return disk.create(path)
    except FileNotFoundError:
        make_places(disk, layout)
        return disk.create(path)


def batch_ref(number: int) -> str:
    """The path of a batch below the spool."""
    return f"incoming/{number}{BATCH_SUFFIX}"


class Spot(NamedTuple):
    """Where a task of a common store lies in the batch of a take."""

    batch: str
    """The path of the batch, below the spool."""
    offset: int
    """Of its header."""
    name: str
    """That of the file which it would have."""

    def __str__(self) -> str:
        return f"{self.batch}:{self.offset}/{self.name}"


def spot_of(text: str) -> Spot | None:
    """The spot in a text, `tmp/NUMBER.held:OFFSET/NAME`; None if the text is the path of a file."""
    place, _, name = text.rpartition("/")
    batch, _, offset = place.rpartition(":")
    is_held = batch.startswith("tmp/") and batch.endswith(_HELD_SUFFIX)  # `outbox/10.0.0.2:3031/...` has a colon, too
    return Spot(batch, int(offset), name) if is_held else None


def held_batch(number: int) -> str:
    """The path of the batch of a take, below the spool."""
    return f"tmp/{number}{_HELD_SUFFIX}"


def is_incoming(ref: str) -> bool:
    """Whether something lies where the batches are."""
    return ref.startswith("incoming/")


def batch_number(name: str) -> int | None:
    """The number of the batch in the file of that name; None if it is not a batch."""
    stem = name.removesuffix(BATCH_SUFFIX)
    return int(stem) if stem != name and stem.isdecimal() else None


def is_spool_file(name: str) -> bool:
    """Whether uWSGI and spoolnode take a regular file of that name for a task."""
    return name.startswith(SPOOL_PREFIX)


def is_priority(name: str) -> bool:
    """Whether a directory of that name holds tasks of a priority (uWSGI's convention: digits only)."""
    return name.isascii() and name.isdecimal()


def rank_of(ref: str) -> int:
    """The rank of a spool file: the number of its topmost directory."""
    directory, slash, _ = ref.partition("/")
    return min(int(directory), LAST - 1) if slash else LAST


def ref_id(ref: str) -> str:
    """The id of the task in a spool file."""
    name = ref.rpartition("/")[2]
    return id_of_file(_numbered(name)[0] if is_outbound(ref) else name)


def waiting_ref(identity: str, rank: int) -> str:
    """The ref of a task that waits here."""
    name = file_name(identity)
    return name if rank == LAST else f"{rank}/{name}"


def reason_ref(dead: str) -> str:
    """The ref of the file with the reason of a dead task, if the task's own variables have no room for it."""
    return f"dead/reason_of_{ref_id(dead)}"


def outbox_ref(to: str, identity: str, number: int) -> str:
    """The ref of a task that waits for a peer: its sequence number follows its id."""
    return f"outbox/{to}/{file_name(shortened(identity, LONGEST_ID - 21))}@{number}"


def is_outbound(ref: str) -> bool:
    """Whether a file waits for another node."""
    return ref.startswith("outbox/")


def is_dead(ref: str) -> bool:
    """Whether a file is a task that was given up."""
    return ref.startswith("dead/")


def destination_of(ref: str) -> str:
    """The destination of a ref in outbox/."""
    return ref.split("/")[1]


def number_of(ref: str) -> int:
    """The sequence number of a ref in outbox/; 0 if it has none: the file was put there by hand."""
    return _numbered(ref)[1]


def _numbered(name: str) -> tuple[str, int]:
    """A name in outbox/ without the number at its end, and that number; 0 if it has none."""
    front, at, number = name.rpartition("@")
    is_number = at and number.isascii() and number.isdecimal() and len(number) <= 20 and int(number) <= MAX_NUMBER
    return (front, int(number)) if is_number else (name, 0)
