"""Writes a task into a spool directory, as a uWSGI application does, while no node listens there.

The file gets its name only when it is whole and on the disk. The node finds it at its start, or at once if it runs after all.
"""

import itertools
import os
import re
import secrets
import socket
import stat
import time

from spoolnode.errors import Unanswered, Unreachable
from spoolnode.node.disk.disk import RealDisk, discard
from spoolnode.node.disk.layout import Layout, waiting_ref
from spoolnode.protocol import answer, names, spoolfile
from spoolnode.protocol.answer import Answer, AnswerReader
from spoolnode.protocol.errors import Reason, Refused
from spoolnode.protocol.packet import HEADER
from spoolnode.protocol.request import Terms, read_terms
from spoolnode.wire import MAY_BE_STORED, NOT_STORED, Message

_ALSO_GROUP = 0o660
"""The mode of a file in the spool of another user; otherwise only its owner may read it, as the files of uWSGI."""
_counter = itertools.count(1)


def store(root: str, message: Message) -> Answer:
    """Stores a task in a spool directory, fsynced, and answers as its node does.

    Raises:
        Unreachable: the directory is not there, or does not take the file. Nothing was stored.
        Unanswered: the file is there, but may be lost in a power cut.
    """
    block = message.head[HEADER.size :]
    try:
        terms = read_terms(block, local=True)
        _check(terms, root)
    except Refused as refusal:
        return _as_it_arrives(answer.refused(refusal))
    identity, layout = new_id(terms), Layout(root)
    try:
        ref = _write(layout, identity, terms, spoolfile.head(block) + message.body)
    except OSError as error:
        raise Unreachable(f"dir:{root}: the directory cannot be written: {error.strerror or error}; {NOT_STORED}") from error
    try:
        RealDisk().sync_directory(layout.directory_of(ref))
    except OSError as error:
        raise Unanswered(f"dir:{root}: cannot be synced: {error.strerror or error}; {MAY_BE_STORED}") from error
    return _as_it_arrives(answer.stored(identity))


def _check(terms: Terms, root: str) -> None:
    """Raises `Refused` if the file of this task would not mean what the request means."""
    if terms.destination:
        raise Refused(Reason.BUSY, f"it is for {terms.destination!r}, only a node can send it there, and none listens here")
    if terms.spooler and os.path.realpath(terms.spooler) != os.path.realpath(os.fsencode(root)):
        shown = terms.spooler[:200].decode("utf-8", "backslashreplace")
        raise Refused(Reason.MALFORMED, f"`spooler` is {shown!r}, which is another directory")


def new_id(terms: Terms) -> str:
    """A new id, in the form of uWSGI's file names: host, process, counter, random number, time. It tells whether the task has a
    key."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:64] or "-"
    seconds, rest = divmod(time.time_ns() // 1000, 1_000_000)
    keyed = names.KEYED if terms.key else ""
    return f"{host}_{os.getpid()}_{next(_counter)}_{secrets.randbits(31)}_{seconds}_{rest}{keyed}"


def _write(layout: Layout, identity: str, terms: Terms, data: bytes) -> str:
    """Writes the file of a task, and returns its ref. Raises OSError."""
    try:
        return _write_once(layout, identity, terms, data)
    except FileNotFoundError:  # unless the whole spool is gone: a node that starts just now has swept tmp/
        return _write_once(layout, identity, terms, data)


def _write_once(layout: Layout, identity: str, terms: Terms, data: bytes) -> str:
    disk, owner = RealDisk(), os.stat(layout.root)
    ref = waiting_ref(identity, terms.rank)
    # In tmp/ what a killed client leaves is swept. A directory of a uWSGI has none, and that of another user's node is closed.
    place = layout.tmp if os.access(layout.tmp, os.W_OK | os.X_OK) else layout.root
    unfinished = os.path.join(place, f".{identity}")
    descriptor = disk.create(unfinished)
    try:
        _give(descriptor, owner, os.fstat(descriptor))
        disk.write(descriptor, data, 0)
        if terms.due > time.time():
            os.utime(descriptor, (terms.due, terms.due))
        os.fsync(descriptor)  # not only the data: the time and the mode are a part of the task
        _make_directory(disk, layout.directory_of(ref), owner)
        disk.rename(unfinished, layout.path(ref))
    except BaseException:  # also Ctrl-C: what was not stored leaves nothing
        discard(disk, unfinished)
        raise
    finally:
        disk.close(descriptor)
    return ref


def _give(descriptor: int, owner: os.stat_result, mine: os.stat_result) -> None:
    """Lets the owner of the spool read and write a new file. Raises OSError if that is impossible."""
    if os.geteuid() == 0:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    elif mine.st_uid != owner.st_uid:
        if mine.st_gid != owner.st_gid:
            os.fchown(descriptor, -1, owner.st_gid)
        os.fchmod(descriptor, _ALSO_GROUP)


def _make_directory(disk: RealDisk, path: str, owner: os.stat_result) -> None:
    """Makes the directory of a priority, unless it is there, for the same users as the spool."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _give(descriptor, owner, os.fstat(descriptor))
        os.fchmod(descriptor, stat.S_IMODE(owner.st_mode) & 0o777)  # a hardened service may not set the other bits
    finally:
        os.close(descriptor)
    disk.sync_directory(os.path.dirname(path))


def _as_it_arrives(packet: bytes) -> Answer:
    """An answer as a client reads it from a connection."""
    [read] = AnswerReader().answers(packet)
    return read
