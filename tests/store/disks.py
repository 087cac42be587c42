"""Disks of their own for servers under test: ext4 in images. A power cut is a copy of the images.

The copy has what was written to the disk, and nothing of what the kernel kept in memory.
"""

import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from support import eventually

FILLING = "filling"


class Disks:
    """Disks in images, each mounted at its name in a directory. Needs root."""

    def __init__(self, directory: Path, names: Sequence[str], megabytes: int = 64) -> None:
        self._directory = directory
        self._names = names
        for name in names:
            (directory / name).mkdir()
            image = self._image(name)
            with image.open("wb") as file:
                file.truncate(megabytes << 20)
            _run("mkfs.ext4", "-q", "-F", str(image))
        self.mount()

    def mount(self) -> None:
        """Mounts them."""
        # The kernel itself is to write nothing while the images are copied.
        for name in self._names:
            _run("mount", "-o", "loop,commit=600", str(self._image(name)), str(self._directory / name))

    def unmount(self) -> None:
        """Unmounts them, once the processes that used them have gone."""
        for name in self._names:
            place = self._directory / name
            if os.path.ismount(place):
                eventually(partial(_unmounts, place), f"nothing uses {place}")

    def fill(self, name: str) -> None:
        """Fills a disk, until `free`."""
        place = self._directory / name
        with (place / FILLING).open("wb") as file:
            end = 0
            for size in (1 << 24, 1 << 20, 1 << 16, 1 << 12):
                with suppress(OSError):  # full, but for less than that
                    while True:
                        os.posix_fallocate(file.fileno(), end, size)
                        end += size

    def free(self, name: str) -> None:
        """Gives the disk its room back."""
        (self._directory / name / FILLING).unlink()

    def copy(self) -> None:
        """Copies what is on the disks now."""
        for name in self._names:
            _run("cp", "--sparse=always", str(self._image(name)), str(self._image(f"{name}.cut")))

    def cut(self) -> None:
        """The power comes back: the disks are as they were when they were copied."""
        self.unmount()
        for name in self._names:
            self._image(f"{name}.cut").rename(self._image(name))
        self.mount()

    def _image(self, name: str) -> Path:
        return self._directory / f"{name}.img"


def _unmounts(place: Path) -> bool:
    return subprocess.run(["umount", str(place)], capture_output=True, check=False).returncode == 0


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
