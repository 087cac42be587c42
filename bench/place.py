"""The place for the spools of a run: a temporary directory on the disk as it is, or on a fresh ext4 in an image file."""

import array
import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from load import BenchError

FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, EXT4_TOPDIR_FL = 0x80086601, 0x40086602, 0x00020000
IMAGE_BYTES = 24 << 30
"""Sparse: a run writes a few GB. So large because ext4 has one inode for 16 KiB, and uWSGI wants one a task."""


@contextlib.contextmanager
def temporary_directory(parent: str | None, *, image: bool) -> Iterator[Path]:
    """A directory that is removed at the end, with all spools in it."""
    path = Path(tempfile.mkdtemp(prefix="spoolnode-bench-", dir=parent))
    path.chmod(0o711)  # a PostgreSQL that root starts runs as another user, and goes through here
    try:
        with _mounted(path) if image else contextlib.nullcontext(path) as directory:
            _spread(directory)
            yield directory
    finally:
        print("removing the temporary directory", file=sys.stderr)
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _mounted(path: Path) -> Iterator[Path]:
    """A new ext4 with a journal, as a server has it, whatever the disk below is; needs root."""
    image, mount = path / "image", path / "mount"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    # Without lazy_*_init=0 the kernel would write inode tables in the background during the first minutes.
    _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image))
    _run("mount", "-o", "loop", str(image), str(mount))
    try:
        yield mount
    finally:
        _run("umount", "--lazy", str(mount))


def _run(*command: str) -> None:
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    program = shutil.which(command[0], path=path)
    if not program:
        raise BenchError(f"--image needs {command[0]}")
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"--image needs root and loop devices: {' '.join(command)}: {done.stderr.strip()}")


def _spread(directory: Path) -> None:
    """Sets ext4's "top of a directory hierarchy" flag, if the file system has it.

    Each spool then begins in another part of the disk, and none pays for the inodes that another has just freed.
    """
    handle = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            flags = array.array("i", [0])
            fcntl.ioctl(handle, FS_IOC_GETFLAGS, flags, True)
            flags[0] |= EXT4_TOPDIR_FL
            fcntl.ioctl(handle, FS_IOC_SETFLAGS, flags)
    finally:
        os.close(handle)


def file_system(directory: Path) -> str:
    """Its kind, device and options."""
    command = ["findmnt", "--noheadings", "--output", "FSTYPE,SOURCE,OPTIONS", "--target", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return " ".join(done.stdout.split()) or "unknown"


def warning(directory: Path) -> str:
    """The reason why this place is a bad one for a comparison; empty if none is known."""
    kind, source, options = [*file_system(directory).split(), "", "", ""][:3]
    if kind == "tmpfs":
        return "tmpfs is no disk: an fsync costs nothing here"
    journal = Path(f"/sys/fs/ext4/{Path(source).name}/journal_task")
    with contextlib.suppress(OSError):
        if journal.read_text().strip() == "<none>":
            discards = " and discards each freed file at once" if "discard" in options.split(",") else ""
            return (
                f"this ext4 has no journal{discards}: files are slow to remove, and slow to make after others were "
                "removed, which hurts uWSGI (a file a task); fsync is faster, which helps us. Compare with --image"
            )
    return ""
