"""Makes one `Config` from the four places of a setting: command line > environment > TOML file > default.

Pure, except that it reads the file: the contents of the other places are passed in.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import Field, fields
from typing import Any, NamedTuple

from spoolnode.node.badconfig import BadConfig
from spoolnode.node.config import Config
from spoolnode.node.duration import RIGHT, read_duration

PREFIX = "SPOOLNODE_"
SETTINGS: dict[str, Field[Any]] = {item.name.rstrip("_"): item for item in fields(Config)}
OTHER_VARIABLES = frozenset({"SPOOLNODE_CONFIG", "SPOOLNODE_VIA", "SPOOLNODE_SEND_TIMEOUT"})
"""Variables of the environment that have a meaning, but are not settings of a node."""
_SERVICE = re.compile(r"(.+_)?(PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?|SERVICE_(HOST|PORT(_.+)?)|ENV_.+)")
"""Variables that Kubernetes sets for a service, and Docker for a linked container, if its name begins with `spoolnode`..."""
_SERVICE_VALUE = re.compile(r"(.+_)?(PORT=(tcp|udp|sctp)://|NAME=/).*", re.DOTALL)
"""...and two more, known by their values: `SPOOLNODE_PORT=tcp://10.3.0.1:3031`, `SPOOLNODE_NAME=/web/spoolnode`."""
_ALL = "; `spoolnode config` prints all settings"

_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")
_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_TYPED = {"BYTES": (("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)), "SEC": (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))}
"""The units of settings with these metavars, the largest first."""
_KINDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", list: "a list of texts"}


class Settings(NamedTuple):
    """A configuration, and where each of its values comes from."""

    config: Config
    places: dict[str, str]


def gather(
    given: Mapping[str, Any], environment: Mapping[str, str], file: str | None = None, ini: Mapping[str, Any] | None = None
) -> Settings:
    """The configuration in force, not validated yet.

    Args:
        given: the options of the command line; None if not given.
        environment: the environment's variables.
        file: the TOML file that the command line named.
        ini: the settings in uWSGI's own configuration; everything else overrides them.

    Raises:
        BadConfig: a value cannot be read, or the file has a key that is not a setting.
    """
    values: dict[str, Any] = {}
    places = dict.fromkeys(SETTINGS, "default")
    for name, value in (ini or {}).items():
        values[name], places[name] = value, "--ini"
    path = file or environment.get(f"{PREFIX}CONFIG")
    for name, value in (_from_file(path) if path else {}).items():
        values[name], places[name] = value, path or ""
    for name in SETTINGS:
        variable = PREFIX + name.upper()
        if environment.get(variable) and not _is_of_service(variable, environment[variable]):  # an empty one does not count
            values[name], places[name] = read_text(name, environment[variable], variable), variable
    for name, value in given.items():
        if value is not None and value != ():
            values[name], places[name] = (list(value) if isinstance(value, tuple) else value), "command line"
    if given.get("store") == "":  # in a file it is the default, as `spoolnode config` prints it
        raise BadConfig("--store is empty; it must be the address of a store, or left out")
    return Settings(Config(**{SETTINGS[name].name: value for name, value in values.items()}), places)


def in_force(config: Config) -> dict[str, Any]:
    """Each setting by its name for users, and its value."""
    return {name: getattr(config, item.name) for name, item in SETTINGS.items()}


def kind_of(name: str) -> type:
    """The type of a setting: str, int, float, bool or list."""
    declared: Any = SETTINGS[name].type
    return declared if declared in _KINDS else list


def read_text(name: str, text: str, where: str) -> Any:
    """A setting's value from a text. Raises `BadConfig` with `where` the text stands."""
    kind = kind_of(name)
    try:
        if kind is list:
            return [part.strip() for part in text.split(",") if part.strip()]
        if kind is bool:
            return {**dict.fromkeys(_TRUE, True), **dict.fromkeys(_FALSE, False)}[text.lower()]
        if _is_size(name):
            return read_size(text)
        if _is_duration(name):
            return read_duration(text)
        return kind(text)
    except (ValueError, KeyError):
        raise BadConfig(f"{where} is {text!r}; it must be {_right(name)}") from None


def _right(name: str) -> str:
    """The rule for a setting, for errors."""
    if _is_size(name):
        return "a number of bytes, like 65536, 64M or 1G"
    return RIGHT if _is_duration(name) else _KINDS[kind_of(name)]


def read_size(text: str) -> int:
    """Bytes: a number, or one with K, M, G or T (powers of 1024). Raises ValueError."""
    unit = _UNITS.get(text[-1:].lower(), 0)
    return int(text[:-1]) * unit if unit else int(text)


def with_unit(value: Any, metavar: str) -> str:
    """A size or a length of time as people type it, `5d` and not 432000; empty for anything else, and if no unit fits."""
    for unit, size in _TYPED.get(metavar, ()):
        if value and not value % size:
            return f"{int(value // size)}{unit}"
    return ""


def _is_size(name: str) -> bool:
    return bool(SETTINGS[name].metadata["metavar"] == "BYTES")


def _is_duration(name: str) -> bool:
    return bool(SETTINGS[name].metadata["metavar"] == "SEC")


def _from_file(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise BadConfig(f"the configuration file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadConfig(f"the configuration file {path} is not TOML: {error}") from error
    return {name: _checked(name, value, path) for name, value in content.items()}


def _nearest(name: str) -> str:
    return next(iter(difflib.get_close_matches(name.lower().replace("-", "_"), SETTINGS, 1)), "")


def _is_of_service(variable: str, value: str) -> bool:
    """Whether Kubernetes or Docker has set this variable, for something that has our name."""
    name = variable.removeprefix(PREFIX)
    return bool(_SERVICE.fullmatch(name) or _SERVICE_VALUE.fullmatch(f"{name}={value}"))


def unknown_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables of the environment with names like settings that do not exist, each with a sentence about it."""
    known = {*(PREFIX + name.upper() for name in SETTINGS), *OTHER_VARIABLES}
    found = {}
    for variable in sorted(environment):
        is_ours = variable.startswith(PREFIX) and not _is_of_service(variable, environment[variable])
        if is_ours and variable not in known and environment[variable]:
            near = _nearest(variable.removeprefix(PREFIX))
            hint = f"; did you mean '{PREFIX}{near.upper()}'?" if near else _ALL
            found[variable] = f"there is no setting {variable!r}{hint}"
    return found


def _checked(name: str, value: Any, path: str) -> Any:
    if name not in SETTINGS:
        near = _nearest(name)
        hint = f"; did you mean {near!r}?" if near else _ALL
        raise BadConfig(f"{path}: there is no setting {name!r}{hint}")
    kind = kind_of(name)
    if (_is_size(name) or _is_duration(name)) and isinstance(value, str):
        return read_text(name, value, f"{path}: {name}")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    of_texts = kind is not list or (isinstance(value, list) and all(isinstance(item, str) for item in value))
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool) or not of_texts:
        raise BadConfig(f"{path}: {name} is {value!r}; it must be {_right(name)}")
    return value


def as_toml(settings: Settings) -> str:
    """The configuration as a TOML file, each key with its meaning and where its value comes from."""
    blocks = ["# spoolnode: the settings of one node. Use it with `spoolnode join --config FILE` or SPOOLNODE_CONFIG=FILE.\n"]
    for name, item in SETTINGS.items():
        value = getattr(settings.config, item.name)
        choices = item.metadata["choices"].split(",") if item.metadata["choices"] else []
        one_of = f" ({', '.join(choices)})" if choices else ""
        origin = "" if settings.places[name] == "default" else f"  # from: {settings.places[name]}"
        typed = with_unit(value, item.metadata["metavar"]) or value
        # For these types JSON is TOML, too.
        blocks.append(f"# {item.metadata['help']}{one_of}\n{name} = {json.dumps(typed, ensure_ascii=False)}{origin}\n")
    return "\n".join(blocks)
