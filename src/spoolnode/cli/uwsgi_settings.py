"""The spooler's side of an ini file of uWSGI, as settings of a node.

The file is for the whole server, with its web processes. So `processes` and the callable of `module`, which have a meaning on
our command line, do not concern the spooler there.
"""

import os
import pwd
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from spoolnode.cli.settings import read_text
from spoolnode.cli.uwsgi_ini import Option, read_ini
from spoolnode.cli.uwsgi_options import IMPORTS, INSTEAD
from spoolnode.node.badconfig import BadConfig
from spoolnode.protocol.packet import MAX_BLOCK


class FromIni(NamedTuple):
    """The contents of an ini file."""

    settings: dict[str, Any]
    """By the names of our settings."""
    ignored: list[str]
    """Options that a node ignores."""
    notes: list[str]
    """Sentences about options that a user may miss."""


def from_ini(places: Sequence[str], given: Mapping[str, Any], environment: Mapping[str, str]) -> FromIni:
    """The spooler's side of ini files.

    Args:
        places: their paths, or `path:section`; options add up as if they were one file.
        given: the options of the command line; the files are not checked for these.
        environment: the variables for `$(NAME)` in them.

    Raises:
        BadConfig: a file cannot be read, a value is invalid, or it needs two nodes.
    """
    return _settings_of([option for place in places for option in read_ini(place, environment)], given)


def _settings_of(options: list[Option], given: Mapping[str, Any]) -> FromIni:
    values: dict[str, list[str]] = {}
    for option in options:
        values.setdefault(option.name, []).append(option.value)
    file = options[0].file if options else ""
    reading = _Reading(file, values, given)
    settings = reading.settings()
    ignored = [name for name in values if name not in reading.used]
    return FromIni(settings, ignored, reading.notes)


class _Reading:
    """One ini file on its way to settings."""

    def __init__(self, file: str, values: dict[str, list[str]], given: Mapping[str, Any]) -> None:
        self._file = file
        self._values = values
        self._given = given
        self.used: set[str] = set()
        self.notes: list[str] = []

    def settings(self) -> dict[str, Any]:
        """All settings of a node in it."""
        self._check_user()
        found: dict[str, Any] = {}
        for name, options in _LISTS.items():
            if items := [value for option in options for value in self._all(option)]:
                found[name] = items
        for name, options in _SINGLE.items():
            for option in options:
                if items := self._all(option):
                    found[name] = read_text(name, items[-1], f"{self._file}: {option}")
        found.update(self._spool() | self._application() | self._sizes())
        return found

    def _all(self, option: str) -> list[str]:
        if option not in self._values:
            return []
        self.used.add(option)
        return self._values[option]

    def _spool(self) -> dict[str, Any]:
        for option in ("spooler", "spooler-external"):
            places = list(dict.fromkeys(self._all(option)))
            if len(places) > 1 and not self._given.get("spool"):
                raise BadConfig(
                    f"{self._file} names {len(places)} directories with `{option}` ({', '.join(places)}), and a node has one: "
                    "start a node for each of them, with -Q DIR and its own -s"
                )
            if places:
                return {"spool": places[0]}
        return {}

    def _application(self) -> dict[str, Any]:
        """`module`, without the WSGI callable that it names, and the modules that are imported besides."""
        self._all("callable")
        apps = [value.partition(":")[0] for option in ("module", "wsgi", "wsgi-file", "file") for value in self._all(option)]
        apps += [value for option in IMPORTS for value in self._all(option)]
        apps = list(dict.fromkeys(app for app in apps if app))
        chdirs, own = self._all("chdir"), self._all("spooler-chdir")
        found: dict[str, Any] = {"chdir": (own or chdirs)[-1]} if own or chdirs else {}
        if own and chdirs:
            found["pythonpath"] = [*chdirs[-1:], *(path for option in _LISTS["pythonpath"] for path in self._all(option))]
        if self._given.get("app"):
            return {**found, "import": apps} if apps else found
        return {**found, "app": apps[0], "import": apps[1:]} if apps else found

    def _sizes(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if sizes := self._all("buffer-size"):
            found["buffer_size"] = min(read_text("buffer_size", sizes[-1], f"{self._file}: buffer-size"), MAX_BLOCK)
        if modes := [*self._all("chmod-socket"), *self._all("chmod")]:
            found["chmod_socket"] = modes[-1] if modes[-1] not in ("", "true") else "666"
        return found

    def _check_user(self) -> None:
        """Refuses a file with which uWSGI would give up root, if we are root: tasks would keep those rights."""
        for option in ("uid", "immediate-uid"):
            for name in self._all(option):
                if os.getuid() == 0 and _uid(name) != 0:
                    raise BadConfig(
                        f"{self._file} says {option} = {name}, and this is root: start the node as that user, with User={name} "
                        f"in a systemd unit or as runuser -u {name} -- spoolnode join ..."
                    )
        for option in ("virtualenv", "venv", "home", "pyhome"):
            for place in self._all(option):
                if os.path.realpath(sys.prefix) != os.path.realpath(place):
                    self.notes.append(f"{option} = {place}: {INSTEAD[option]}")


_LISTS = {
    "listen": ("socket", "uwsgi-socket"),
    "pythonpath": ("pythonpath", "python-path", "pp"),
    "env": ("env",),
    "touch_reload": ("touch-reload", "touch-spoolers-reload"),
}
_SINGLE = {
    "workers": ("spooler-processes",),
    "timeout": ("spooler-harakiri",),
    "max_tasks": ("spooler-max-tasks",),
    "spooler_frequency": ("spooler-frequency", "spooler-freq"),
    "request_timeout": ("socket-timeout",),
}


def _uid(name: str) -> int | None:
    """The number of a user; None if the user does not exist."""
    if name.isdecimal():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None
