"""The spool directory and the disk below it."""

import os
import tempfile
import time
from collections.abc import Iterator
from statistics import median

from spoolnode.doctor.finding import FAIL, OK, WARN, Finding
from spoolnode.node.disk.disk import RealDisk
from spoolnode.node.disk.layout import Layout, is_priority
from spoolnode.node.spool.reader import Reader

NETWORK_FILE_SYSTEMS = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "9p",
        "afs",
        "ceph",
        "glusterfs",
        "fuse.glusterfs",
        "fuse.sshfs",
        "lustre",
        "ocfs2",
        "gfs2",
    }
)
MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs"})
SYNCS = 15
SLOW_SYNC = 0.010
"""Seconds of one fdatasync that single senders notice."""


def usable(layout: Layout) -> Finding:
    """Whether the spool directory exists and is ours."""
    check, root = "spool directory", layout.root
    if not os.path.exists(root):
        parent = os.path.dirname(root)
        while not os.path.exists(parent):
            parent = os.path.dirname(parent)
        if os.access(parent, os.W_OK | os.X_OK):
            return Finding(check, OK, f"{root} does not exist; a node makes it when it starts")
        return Finding(check, FAIL, f"{root} does not exist, and {parent} is not writable for this user: make it first")
    if not os.path.isdir(root):
        return Finding(check, FAIL, f"{root} is not a directory")
    if not os.access(root, os.R_OK | os.W_OK | os.X_OK):
        return Finding(check, FAIL, f"{root} is not readable and writable for this user: change its owner or mode")
    found = os.stat(root)
    if found.st_uid != os.geteuid():
        return Finding(
            check, WARN, f"{root} belongs to uid {found.st_uid}, this is uid {os.geteuid()}: run the node as its owner"
        )
    if found.st_mode & 0o002:
        return Finding(check, WARN, f"{root} is writable for all users, so any user can enqueue: chmod o-w")
    return Finding(check, OK, f"{root} is there, and writable")


def file_system(root: str) -> Finding:
    """Whether the file system of the spool is a good one."""
    check, kind = "file system", file_system_type(root)
    if kind in NETWORK_FILE_SYSTEMS:
        return Finding(
            check, WARN, f"{kind}, a network file system: files that other machines drop here are noticed by the slow scan only, "
            "and locks and fsync are as good as the server's; a local disk is better",
        )  # fmt: skip
    if kind in MEMORY_FILE_SYSTEMS:
        return Finding(check, WARN, f"{kind} lies in memory: every task is lost when the machine stops")
    if kind == "overlay":
        return Finding(check, WARN, "overlay, a container's own layer: it goes away with the container; use a volume")
    return Finding(check, OK, kind or "unknown")


def file_system_type(path: str) -> str:
    """The type of the file system of a path; empty if it is unknown."""
    real, best, kind = os.path.realpath(path), "", ""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            lines = mounts.read().splitlines()
    except OSError:
        return ""
    for line in lines:
        before, _, after = line.partition(" - ")
        mount = before.split()[4].encode("utf-8", "surrogateescape").decode("unicode_escape")
        inside = real == mount or real.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, after.split()[0]
    return kind


def sync_cost(layout: Layout) -> Finding:
    """The cost of one commit: the median of a few writes with fdatasync."""
    check = "fsync"
    place = layout.tmp if os.path.isdir(layout.tmp) else layout.root
    times = []
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            for _ in range(SYNCS):
                started = time.monotonic()
                os.pwrite(file.fileno(), b"spoolnode" * 20, os.fstat(file.fileno()).st_size)
                os.fdatasync(file.fileno())
                times.append(time.monotonic() - started)
    except OSError as error:
        return Finding(check, FAIL, f"a file cannot be written and synced in {place}: {error.strerror}")
    cost = median(times)
    text = f"{cost * 1000:.2f} ms each, so about {1 / cost:.0f} tasks a second for one sender that waits; many senders share one"
    if cost > SLOW_SYNC:
        return Finding(check, WARN, f"{text}. That is slow: a disk with a write cache that is safe against power loss helps")
    return Finding(check, OK, text)


def free_space(root: str, floor: int) -> Finding:
    """Whether there is room for new tasks."""
    free = RealDisk().free(root)
    text = f"{free >> 20} MiB free, intake stops below {floor >> 20} MiB (--min-free)"
    inodes = os.statvfs(root)
    if free < floor:
        return Finding("free space", FAIL, f"{text}: new tasks are refused until there is room")
    if inodes.f_files and inodes.f_favail < 10_000:
        return Finding("free space", WARN, f"{text}, but only {inodes.f_favail} inodes: each task that waits long needs one")
    return Finding("free space", WARN if free < 2 * floor else OK, text)


def leftovers(layout: Layout) -> Iterator[Finding]:
    """Files in the directory that need a look."""
    reader, ours = Reader(RealDisk(), layout, "-"), layout.own_names()
    try:
        entries = reader.disk.entries(layout.root)
    except OSError as error:
        yield Finding("contents", FAIL, f"the directory cannot be read: {error.strerror}")
        return
    strange = [entry.name for entry in entries if entry.is_directory and entry.name not in ours and not is_priority(entry.name)]
    if strange:
        yield Finding(
            "priorities", WARN, f"tasks below {', '.join(sorted(strange)[:5])} never run, not even under uWSGI: only directories "
            "with numbers as names hold priorities; move the files to the top",
        )  # fmt: skip
    dead = _count(reader, layout.dead)
    yield Finding("dead", WARN if dead else OK, f"{dead} given up: see `spoolnode dead ls`" if dead else "no task was given up")
    corrupt = _count(reader, layout.corrupt)
    text = f"{corrupt} files in {layout.corrupt} could not be read; they are kept for you to look at"
    yield Finding("corrupt", WARN if corrupt else OK, text if corrupt else "no file was unreadable")


def _count(reader: Reader, path: str) -> int:
    try:
        return len(reader.disk.entries(path))
    except OSError:
        return 0
