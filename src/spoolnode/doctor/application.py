"""Finds what an application uses of uWSGI's modules, and what of that cannot work in a node's worker.

Its source is read, not run: the module, its imports from the same project, and imported libraries that mention uWSGI. A
name that is made at run time is not seen.
"""

import ast
import os
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from typing import NamedTuple

from spoolnode.compat import absent, uwsgidecorators
from spoolnode.compat.uwsgi_module import build
from spoolnode.context import WorkerContext
from spoolnode.doctor import findable
from spoolnode.doctor.finding import FAIL, OK, WARN, Finding
from spoolnode.node.config import Config

MODULES = {"uwsgi": absent.NOT_IN_UWSGI, "uwsgidecorators": absent.NOT_IN_DECORATORS}
"""The names that do not work, by module."""
SHOWN = 3
"""Most places that are shown for one name."""


class Use(NamedTuple):
    """A name of one of the two modules, and where it is used."""

    module: str
    name: str
    place: str


def uses_of_uwsgi(config: Config) -> Iterator[Finding]:
    """The names that this configuration's application uses; nothing without one."""
    if not config.app:
        return
    sources = Sources(config)
    target = config.app.partition(":")[0]
    if sources.start(target) is None:
        yield Finding("uWSGI's modules", FAIL, f"{target}: not found as a module or file in {sources.directory}")
        return
    for other in config.import_:
        sources.start(other)
    uses: list[Use] = []
    own: list[tuple[str, str]] = []
    for path in sources.files():
        shown = _shown(path, sources.directory)
        try:
            uses += _uses(path, shown)
        except SyntaxError as error:
            yield Finding("uWSGI's modules", FAIL, f"{path}, line {error.lineno}: {error.msg}")
            return
        if os.sep + "site-packages" + os.sep not in path:
            own.append((path, shown))
    yield from _judged(uses, target)
    yield from findable.of_tasks(own)


def _judged(uses: list[Use], target: str) -> Iterator[Finding]:
    known = {"uwsgi": set(vars(_look_alike())), "uwsgidecorators": set(vars(uwsgidecorators))}
    bad = 0
    for module, name in sorted({(use.module, use.name) for use in uses}):
        why = MODULES[module].get(name)
        if why is None and name not in known[module]:
            why = "this name exists neither here nor in uWSGI's spooler"
        if why is not None:
            bad += 1
            places = [use.place for use in uses if (use.module, use.name) == (module, name)]
            more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
            yield Finding(f"{module}.{name}", WARN, f"used in {', '.join(places[:SHOWN])}{more}: {why}")
    works = len({use[:2] for use in uses}) - bad
    text = (
        f"uses {works} names of uWSGI's modules that work here, and {bad} that do not" if uses else "uses none of uWSGI's modules"
    )
    yield Finding("uWSGI's modules", OK, f"{target} {text}")


def _shown(path: str, directory: str) -> str:
    """A path for people: that of a library begins with its own directory."""
    _, installed, inside = path.rpartition("site-packages" + os.sep)
    return inside if installed else os.path.relpath(path, directory)


def _look_alike() -> object:
    return build(WorkerContext("/", 1, 0, list, list, lambda _: None))


class Sources:
    """The source files of an application, found as Python would find them."""

    def __init__(self, config: Config) -> None:
        self.directory = os.path.abspath(config.chdir or ".")
        self._path = [self.directory, *(os.path.join(self.directory, path) for path in config.pythonpath), *sys.path]
        self._own: list[str] = []
        self._libraries: list[str] = []
        self._seen: set[str] = set()

    def start(self, target: str) -> str | None:
        """Adds the application's file and all that it imports. Returns the file; None if it is not found."""
        if target.endswith(".py") or os.sep in target:
            path = os.path.join(self.directory, target)
            self._path.insert(0, os.path.dirname(path))
            found = path if os.path.isfile(path) else None
        else:
            found = self._find(target)
        if found is not None:
            self._add(found, self._own)
        return found

    def files(self) -> Iterator[str]:
        """The project's own files first, then those of libraries that mention uWSGI."""
        while self._own or self._libraries:
            own = bool(self._own)
            path = self._own.pop(0) if own else self._libraries.pop(0)
            yield path
            if own:
                self._follow(path)

    def _follow(self, path: str) -> None:
        for name in _imported(path):
            found = self._find(name)
            if found is None or name.partition(".")[0] in {*MODULES, "spoolnode", *sys.stdlib_module_names}:
                continue
            if "site-packages" in found or not found.startswith(self._roots()):  # a venv may lie in the project
                for library in _mentions(os.path.dirname(found) if os.path.basename(found) == "__init__.py" else found):
                    self._add(library, self._libraries)
            else:
                self._add(found, self._own)

    def _roots(self) -> tuple[str, ...]:
        return tuple(path + os.sep for path in self._path if path not in sys.path or path == self.directory)

    def _add(self, path: str, to: list[str]) -> None:
        if path not in self._seen:
            self._seen.add(path)
            to.append(path)

    def _find(self, name: str) -> str | None:
        """The file of a module, without importing anything."""
        path: list[str] | None = self._path
        found = None
        parts = name.split(".")
        for depth in range(len(parts)):
            spec = PathFinder.find_spec(".".join(parts[: depth + 1]), path)
            if spec is None:
                return None
            found = spec.origin
            path = list(spec.submodule_search_locations or [])
        return found if found and found.endswith(".py") else None


def _mentions(path: str) -> Iterator[str]:
    """The Python files there that mention uWSGI."""
    paths = [path] if path.endswith(".py") else [os.path.join(top, name) for top, _, names in os.walk(path) for name in names]
    for file in paths:
        if file.endswith(".py") and b"uwsgi" in _bytes(file):
            yield file


def _bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _imported(path: str) -> Iterator[str]:
    """The modules that a file imports, by their full names as far as these are known."""
    package = _package(path)
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from ([base] if base else [])
            yield from (f"{base}.{alias.name}".lstrip(".") for alias in node.names)


def _package(path: str) -> list[str]:
    """The names of the packages that a file is in, outermost first."""
    names: list[str] = []
    directory = os.path.dirname(path)
    while os.path.exists(os.path.join(directory, "__init__.py")):
        names.insert(0, os.path.basename(directory))
        directory = os.path.dirname(directory)
    return names


def _tree(path: str) -> ast.Module:
    try:
        return ast.parse(_bytes(path), path)
    except (SyntaxError, ValueError):
        return ast.Module([], [])


def _uses(path: str, shown: str) -> Iterator[Use]:
    """The names of the two modules that a file uses. Raises SyntaxError if it is not Python."""
    tree = ast.parse(_bytes(path), path)
    modules: dict[str, str] = {}
    stars: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules.update({alias.asname or alias.name: alias.name for alias in node.names if alias.name in MODULES})
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES and not node.level:
            for alias in node.names:
                if alias.name == "*":
                    stars.add(node.module)
                elif alias.name not in MODULES:
                    yield Use(node.module, alias.name, f"{shown}:{node.lineno}")
        if isinstance(node, ast.ImportFrom):  # from .compat import uwsgi
            modules.update({alias.asname or alias.name: alias.name for alias in node.names if alias.name in MODULES})
    if stars:
        modules.setdefault("uwsgi", "uwsgi")
    for node in ast.walk(tree):
        yield from _use(node, modules, stars, shown)


def _use(node: ast.AST, modules: dict[str, str], stars: set[str], shown: str) -> Iterator[Use]:
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and isinstance(node.value, ast.Name):
        if node.value.id in modules:
            yield Use(modules[node.value.id], node.attr, f"{shown}:{node.lineno}")
    elif isinstance(node, ast.Name) and "uwsgidecorators" in stars and node.id in absent.NOT_IN_DECORATORS:
        yield Use("uwsgidecorators", node.id, f"{shown}:{node.lineno}")
