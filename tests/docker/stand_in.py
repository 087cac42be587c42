"""Images made from files of this machine, for a Docker engine without a registry: stand-ins for python, nginx and nats.

Each is one layer, a tar for `docker import`. The Python one has the packages that spoolnode needs, since
nothing can be downloaded while an image is built without a network.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import IO

from nats_servers import SERVER as NATS_SERVER

LEFT_OUT = re.compile(r"__pycache__|site-packages|dist-packages|test|tests|idlelib|tkinter|turtledemo|ensurepip|config-.*|.*\.a")
"""Parts of the standard library that no container here needs."""
NAME_SERVICE = ("libnss_dns.so.2", "libnss_files.so.2")
"""Libraries that the C library loads by name, so that no other library says that it needs them."""
TOOLS = ("sh", "cat", "chown", "env", "id", "ls", "mkdir", "sleep")
MERGED = ("bin", "sbin", "lib", "lib64")
"""Directories that are links into /usr on most machines."""
SITE = f"/usr/local/lib/python{sysconfig.get_python_version()}/site-packages"


class Layer:
    """A root directory that is written into a tar: each path once, everything owned by root."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._written: set[str] = {""}
        for name in MERGED:
            if os.path.islink(f"/{name}"):
                self.link(name, os.readlink(f"/{name}"))
        for path, mode in (("tmp", 0o1777), ("var/tmp", 0o1777), ("proc", 0o755), ("sys", 0o755), ("dev", 0o755)):
            self.directory(path, mode)

    def directory(self, path: str, mode: int = 0o755) -> None:
        """An empty directory."""
        self._add(tarfile.TarInfo(path.strip("/")), tarfile.DIRTYPE, mode)

    def text(self, path: str, content: str) -> None:
        """A file with this content."""
        info = tarfile.TarInfo(path.strip("/"))
        info.size = len(content.encode())
        self._add(info, tarfile.REGTYPE, 0o644, BytesIO(content.encode()))

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        info = tarfile.TarInfo(path.strip("/"))
        info.linkname = target
        self._add(info, tarfile.SYMTYPE, 0o777)

    def file(self, source: Path, path: str = "") -> None:
        """Adds a file of this machine, at its own path or another; the target of a link rather than the link."""
        info = tarfile.TarInfo((path or f"{source.parent.resolve()}/{source.name}").strip("/"))
        info.size = source.stat().st_size
        with source.open("rb") as content:
            self._add(info, tarfile.REGTYPE, 0o755 if os.access(source, os.X_OK) else 0o644, content)

    def tree(self, source: Path, path: str = "", left_out: re.Pattern[str] = LEFT_OUT) -> list[Path]:
        """A directory with all that lies in it, but for names that match; the files."""
        files = []
        for directory, subdirectories, names in os.walk(source, followlinks=True):
            subdirectories[:] = [name for name in subdirectories if not left_out.fullmatch(name)]
            files += [Path(directory, name) for name in names if not left_out.fullmatch(name) and Path(directory, name).is_file()]
        for file in files:
            self.file(file, f"{path or source}/{file.relative_to(source)}")
        return files

    def programs(self, programs: Iterable[Path], also: Iterable[Path] = ()) -> None:
        """Programs at their own paths, with the shared libraries that they, and the libraries in `also`, need."""
        programs = list(programs)
        for program in programs:
            self.file(program)
        asked = [*programs, *(path for path in also if ".so" in path.name)]
        done = subprocess.run(["ldd", *map(str, asked)], capture_output=True, text=True, check=False)
        libraries = {Path(path) for path in re.findall(r"(/\S+\.so\S*) \(0x", done.stdout) if not path.startswith(sys.prefix)}
        beside = {library.parent / name for library in libraries for name in NAME_SERVICE}
        for library in sorted(libraries | {path for path in beside if path.exists()}):
            self.file(library)

    def _add(self, info: tarfile.TarInfo, kind: bytes, mode: int, content: IO[bytes] | None = None) -> None:
        if info.name in self._written:
            return
        self._written.add(info.name)
        if (parent := os.path.dirname(info.name)) not in self._written:
            self.directory(parent)
        info.type, info.mode = kind, mode
        self._tar.addfile(info, content)


def add_python(layer: Layer, packages: Iterable[str]) -> None:
    """The Python that runs this, a shell, a few tools, pip, and these packages with all that they need.

    Python lies where it lies here. What people call is a virtual environment in /usr/local, the place of the official image:
    so pip installs there, whoever has built this Python.
    """
    tools = [Path(found) for name in TOOLS if (found := shutil.which(name))]
    python = Path(sys.executable).resolve()
    libraries = layer.tree(Path(sysconfig.get_path("stdlib")))
    for package in sorted(distributions(packages)):
        libraries += _add_package(layer, package)
    layer.programs([python, *tools], libraries)
    layer.text("usr/local/pyvenv.cfg", f"home = {python.parent}\ninclude-system-site-packages = false\n")
    for name in ("python", "python3", python.name):
        layer.link(f"usr/local/bin/{name}", str(python))
    _add_accounts(layer)


def add_nginx(layer: Layer) -> None:
    """The nginx of this machine, as the official image starts it."""
    layer.programs([Path(shutil.which("nginx") or "/usr/sbin/nginx")])
    for path in ("var/lib/nginx", "var/log/nginx", "etc/nginx", "run"):
        layer.directory(path)
    _add_accounts(layer)


def add_nats(layer: Layer) -> None:
    """The NATS server of the tests, where the official image has it."""
    layer.file(NATS_SERVER, "/nats-server")


def distributions(packages: Iterable[str]) -> set[str]:
    """The names of these packages, and of all that they need here, as pip would find out."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    asked = [Requirement(package) for package in packages]
    while asked:
        wanted = asked.pop()
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if name in found and not wanted.extras:
            continue
        found.add(name)
        for extra in wanted.extras or {""}:
            needs = map(Requirement, metadata.requires(name) or [])
            asked += [need for need in needs if need.marker is None or need.marker.evaluate({"extra": extra})]
    return found


def _add_package(layer: Layer, name: str) -> list[Path]:
    """An installed package; its files that are in site-packages."""
    files = []
    for entry in metadata.files(name) or []:
        source = Path(str(entry.locate()))
        if ".." not in entry.parts and "__pycache__" not in entry.parts and source.is_file():
            layer.file(source, f"{SITE}/{entry}")
            files.append(source)
    return files


def _add_accounts(layer: Layer) -> None:
    layer.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
    layer.text("etc/group", "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n")
    layer.text("etc/nsswitch.conf", "hosts: files dns\n")
