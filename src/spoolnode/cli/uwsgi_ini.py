"""Reads the `[uwsgi]` section of an ini file as uWSGI does: every option in order, placeholders filled in.

What uWSGI does was measured on 2.0.31 with `--show-config`. Known here: sections (`file.ini:section`), other files
(`ini =`, `include =`, `inherit =`), `%(name)` with `+ - * /` and `.`, `$(VARIABLE)`, `@(file)`, `%d` and the other letters,
`for`, `for-times`, `for-glob` and the `if-...` directives. The rest stays as it is written, as there.
"""

import glob
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from spoolnode.node.badconfig import BadConfig

OTHER_FILES = ("ini", "include", "inherit")
"""Options whose value is another file, or another section of this one (`:section`)."""
DEEPEST = 16
"""Levels of files that name files; more is a circle."""
_END_FOR = ("endfor", "end-for")
_END_IF = ("endif", "end-if")
_PLACEHOLDERS = ("set", "set-placeholder", "set-ph")
_LETTER = re.compile(r"%%|%([a-zA-Z0-9])")
_REFERENCE = re.compile(r"%%|%\(([^()]*)\)|\$\(([^()]*)\)|@\(([^()]*)\)")
_SUM = re.compile(r"(.*) ([-+*/.]) ?(.+)")


class Option(NamedTuple):
    """One line of the section."""

    name: str
    value: str
    """Empty for a name without `=`."""
    file: str


@dataclass
class _Reader:
    """Reads one file, and those that it names."""

    environment: Mapping[str, str]
    values: dict[str, str] = field(default_factory=dict)
    """The values of `%(name)`: every line of the section so far, and the placeholders."""

    def lines(self, place: str, depth: int = 0) -> Iterator[Option]:
        """The lines of `FILE` or `FILE:SECTION`, with those of other files where these are named."""
        path, _, section = place.partition(":") if not os.path.exists(place) else (place, "", "")
        if depth > DEEPEST:
            raise BadConfig(f"{path}: ini files name each other {DEEPEST} levels deep; one of them names itself")
        magic = _letters(path, section)
        for name, raw in _section(path, section or "uwsgi"):
            value = self._magic(raw, magic)
            yield Option(name, value, path)
            self._remember(name, value)
            if name in OTHER_FILES:
                other = self.expand(value)
                yield from self.lines(f"{path}{other}" if other.startswith(":") else other, depth + 1)

    def _remember(self, name: str, value: str) -> None:
        if name in _PLACEHOLDERS and "=" in value:
            name, _, value = value.partition("=")
        self.values[name] = value

    def _magic(self, text: str, letters: Mapping[str, str]) -> str:
        """Fills in the letters of the line's own file; the rest waits until all files are read."""
        return _LETTER.sub(lambda found: letters.get(found[1], found[0]), text)

    def expand(self, text: str) -> str:
        """Fills in placeholders, variables of the environment and contents of files; unknown ones stay."""
        for _ in range(DEEPEST):
            new = _REFERENCE.sub(self._look_up, text)
            if new == text:
                break
            text = new
        return text.replace("%%", "%")

    def _look_up(self, found: "re.Match[str]") -> str:
        placeholder, variable, file = found.groups()
        if placeholder is not None:
            return self._placeholder(placeholder, found[0])
        if variable is not None:
            return self.environment.get(variable, found[0])
        if file is not None:
            return _content(file)
        return found[0]

    def _placeholder(self, name: str, written: str) -> str:
        if name in self.values:
            return self.values[name]
        if (found := _SUM.fullmatch(name)) is None or found[1] not in self.values:
            return written
        left, operator, right = self.values[found[1]], found[2], found[3]
        if operator == ".":
            return left + right
        try:
            return str(_OPERATORS[operator](int(left), int(right)))
        except (ValueError, ZeroDivisionError):
            return written


_OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": int.__add__,
    "-": int.__sub__,
    "*": int.__mul__,
    "/": int.__floordiv__,
}


def read_ini(place: str, environment: Mapping[str, str]) -> list[Option]:
    """All options of an ini file, in order, with everything filled in.

    Args:
        place: the path of the file, or `path:section` for a section of another name.
        environment: the variables for `$(NAME)`.

    Raises:
        BadConfig: a file cannot be read, or has no such section.
    """
    reader = _Reader(environment)
    lines = list(reader.lines(place))
    return [option for option in _unrolled(lines, reader) if option.name not in (*OTHER_FILES, *_PLACEHOLDERS)]


def _unrolled(lines: list[Option], reader: _Reader) -> Iterator[Option]:
    """Expands `for` and `if` blocks, which do not nest."""
    rounds: list[str] | None = None
    body: list[Option] = []
    holds = True
    for option in lines:
        if option.name in _END_IF:
            holds = True
        elif option.name.startswith(("if-", "if")) and option.name in _CONDITIONS:
            holds = _CONDITIONS[option.name](reader.expand(option.value), reader)
        elif not holds:
            continue
        elif option.name in _LOOPS:
            rounds, body = _LOOPS[option.name](reader.expand(option.value)), []
        elif option.name in _END_FOR:
            for reader.values["_"] in rounds or []:
                yield from [Option(item.name, reader.expand(item.value), item.file) for item in body]
            rounds = None
        elif rounds is not None:
            body.append(option)
        else:
            yield Option(option.name, reader.expand(option.value), option.file)


_LOOPS: dict[str, Callable[[str], list[str]]] = {
    "for": str.split,
    "for-glob": lambda pattern: sorted(glob.glob(pattern)),
    "for-times": lambda count: [str(number) for number in range(1, int(count) + 1)] if count.isdecimal() else [],
}


def _if_option(text: str, reader: _Reader) -> bool:
    name, equals, value = text.partition("=")
    return name in reader.values and (not equals or reader.values[name] == value)


def _if_env(text: str, reader: _Reader) -> bool:
    name, equals, value = text.partition("=")
    return name in reader.environment and (not equals or reader.environment[name] == value)


_TESTS: dict[str, Callable[[str, _Reader], bool]] = {
    "opt": _if_option,
    "env": _if_env,
    "exists": lambda path, _: os.path.exists(path),
    "file": lambda path, _: os.path.isfile(path),
    "dir": lambda path, _: os.path.isdir(path),
    "directory": lambda path, _: os.path.isdir(path),
    "hostname": lambda name, _: name == socket.gethostname(),
    "reload": lambda _, __: False,
    "plugin": lambda _, __: True,
}


def _not(test: Callable[[str, _Reader], bool]) -> Callable[[str, _Reader], bool]:
    return lambda text, reader: not test(text, reader)


_CONDITIONS = {
    **{f"if-{name}": test for name, test in _TESTS.items()},
    **{f"if{name}": test for name, test in _TESTS.items()},
    **{f"if-not-{name}": _not(test) for name, test in _TESTS.items()},
}


def _section(path: str, wanted: str) -> Iterator[tuple[str, str]]:
    """The lines of one section; its name may come several times in the file."""
    section, seen = "", False
    for line in map(str.strip, _content(path).splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
            seen = seen or section == wanted
        elif section == wanted and line and line[0] not in "#;":
            name, _, value = line.partition("=")
            yield name.strip(), value.strip()
    if not seen:
        raise BadConfig(f"the file {path} has no section [{wanted}]; name another one as {path}:SECTION")


def _content(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read().rstrip("\n")
    except (OSError, ValueError) as error:
        raise BadConfig(f"the file {path!r} cannot be read: {getattr(error, 'strerror', error)}") from error


def _letters(path: str, section: str) -> dict[str, str]:
    """`%d` and its like for the file at `path`."""
    full = os.path.join(os.getcwd(), path)
    directory, name = os.path.split(full)
    stem, _, extension = name.rpartition(".")
    parts = [part for part in directory.split("/") if part]
    return {
        **{str(index): part for index, part in enumerate(parts[:10])},
        "d": f"{directory}/", "p": full, "s": name, "n": stem or name, "e": extension, "c": os.path.basename(directory),
        "o": path, "h": socket.gethostname(), "v": os.getcwd(), "u": str(os.getuid()), "g": str(os.getgid()), "x": section,
        "k": str(os.cpu_count() or 1),
    }  # fmt: skip
