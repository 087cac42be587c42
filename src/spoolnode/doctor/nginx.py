"""Finds what in a configuration of nginx keeps its tasks from a node, loses a part of them, or stores one twice.

The file is read, with all that it includes, and nginx is not run. What a variable will be is not known.
"""

import glob
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from spoolnode.doctor.finding import FAIL, OK, WARN, Finding
from spoolnode.node.badconfig import BadConfig
from spoolnode.node.config import Config, parse_address
from spoolnode.protocol import names

MODIFIER = "17"
SHORT_SECONDS = 5.0
"""A timeout below this may be over before a busy disk has made a task safe."""
DEEPEST = 10
"""Files that include one another."""
_WORD = re.compile(
    r"""\s+|\#[^\n]*
    |(?P<quoted>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
    |(?P<sign>[;{}])
    |(?P<word>(?!["'])(?:\\.|\$\{[^}]*\}|[^\s;{}])+)""",
    re.VERBOSE,
)
_TIME = re.compile(r"([0-9]+)(ms|s|m|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"([0-9]+)([kKmMgG]?)")
_SHIFT = {"": 0, "k": 10, "m": 20, "g": 30}


class Directive(NamedTuple):
    """One directive, and what stands in its braces."""

    name: str
    args: list[str]
    inside: "list[Directive]"
    place: str


class Unreadable(Exception):
    """The file is not what nginx would take."""


class Scope(NamedTuple):
    """The directives of a block and of those around it, the innermost first."""

    levels: "tuple[list[Directive], ...]"

    def all(self, name: str) -> list[Directive]:
        """Those of this name in the innermost block that has any: nginx inherits them only together."""
        for level in self.levels:
            if found := [directive for directive in level if directive.name == name]:
                return found
        return []

    def value(self, name: str, default: str = "") -> str:
        """The first argument of a directive."""
        found = self.all(name)
        return found[-1].args[0] if found and found[-1].args else default


def in_front(path: str, config: Config) -> Iterator[Finding]:
    """All that is wrong with the parts of a configuration that send tasks to the node of `config`."""
    try:
        tree = _read(path, os.path.dirname(os.path.abspath(path)), 0)
    except (Unreadable, OSError) as error:
        why = getattr(error, "strerror", None) or error
        yield Finding("nginx", FAIL, f"{path} cannot be read: {why}; `nginx -t -c FILE` tells more")
        return
    upstreams = {
        directive.args[0]: [server.args[0] for server in directive.inside if server.name == "server" and server.args]
        for directive in _walk(tree)
        if directive.name == "upstream" and directive.args
    }
    count = 0
    for passing, scope in _passes(tree, ()):
        servers = upstreams.get(passing.args[0], [passing.args[0]])
        if scope.value("uwsgi_modifier1", "0") == MODIFIER or any(_is_ours(server, config) for server in servers):
            count += 1
            for state, text in _judged(scope, servers, config):
                yield Finding("nginx", state, f"{passing.place}: {text}")
    if not count:
        what = f"uwsgi_pass {config.listen[0]}; and uwsgi_modifier1 {MODIFIER};"
        yield Finding("nginx", WARN, f"{path} sends no tasks: write {what} in a location")
    else:
        yield Finding("nginx", OK, f"{path} sends tasks from {count} place{'' if count == 1 else 's'}")


def _judged(scope: Scope, servers: list[str], config: Config) -> Iterator[tuple[str, str]]:
    if (modifier := scope.value("uwsgi_modifier1", "0")) != MODIFIER:
        yield FAIL, f"uwsgi_modifier1 is {modifier}, which is a web request: write uwsgi_modifier1 {MODIFIER};"
    yield from _of_address(servers, config)
    yield from _of_params(scope)
    yield from _of_body(scope, config)
    for name in ("uwsgi_connect_timeout", "uwsgi_send_timeout", "uwsgi_read_timeout"):
        seconds = _seconds(scope.value(name, "60s"))
        if seconds is not None and seconds < SHORT_SECONDS:
            yield WARN, f"{name} is {seconds:g} s: on a busy disk the visitor gets 504 for a task that is stored; write 60s"
    yield from _of_retries(scope, servers)
    if scope.value("uwsgi_cache", "off") != "off":
        yield FAIL, "uwsgi_cache answers without asking the node, so tasks are lost: write uwsgi_cache off;"


def _of_address(servers: list[str], config: Config) -> Iterator[tuple[str, str]]:
    for server in servers:
        path = server.removeprefix("unix:")
        if "$" in server or server == path:
            continue
        listening = [address for address in config.listen if isinstance(_parsed(address), str)]
        if os.path.realpath(path) not in map(os.path.realpath, listening):
            other = f"it listens on {', '.join(config.listen)}"
            yield FAIL, f"no socket of this node is at {path}; {other}: name one of those, or start the node with -s {path}"
        elif not os.path.isabs(path):
            yield FAIL, f"unix:{path} is relative to nginx's own directory: write the whole path, unix:{os.path.abspath(path)}"


def _of_params(scope: Scope) -> Iterator[tuple[str, str]]:
    params = [directive.args for directive in scope.all("uwsgi_param") if directive.args]
    if not params:
        text = "it has no uwsgi_param, and nginx takes a node's answer to a request without variables for an error (502)"
        yield FAIL, f"{text}: add one"
    for name in sorted({args[0] for args in params if args[0].startswith("spool_")}):
        if name.encode() not in names.FROM_CLIENTS:
            known = ", ".join(sorted(known.decode() for known in names.FROM_CLIENTS))
            yield FAIL, f"uwsgi_param {name} is refused (403), as clients may not set it; there are {known}"


def _of_body(scope: Scope, config: Config) -> Iterator[tuple[str, str]]:
    if scope.value("uwsgi_pass_request_body", "on") == "off":
        yield WARN, "uwsgi_pass_request_body is off, so tasks have no body: remove it"
    text = scope.value("client_max_body_size", "1m")
    size = _SIZE.fullmatch(text)
    most = int(size[1]) << _SHIFT[size[2].lower()] if size else config.max_body
    if not most or most > config.max_body:
        yield WARN, f"client_max_body_size is {text}, and the node refuses bodies over {config.max_body} bytes: raise --max-body"


def _of_retries(scope: Scope, servers: list[str]) -> Iterator[tuple[str, str]]:
    again = {word for directive in scope.all("uwsgi_next_upstream")[-1:] for word in directive.args} or {"error", "timeout"}
    if len(servers) < 2 or "off" in again:
        return
    if "non_idempotent" in again:
        text = "uwsgi_next_upstream non_idempotent sends a task to a second node when the first does not answer in time"
        yield FAIL, f"{text}, so it may run twice: remove that word"
    elif "timeout" in again or "error" in again:
        text = "a GET that one node does not answer in time goes to the next one, too, and may run twice (a POST does not)"
        yield WARN, f"{text}: write uwsgi_next_upstream off; or send tasks with POST only"


# -- where tasks go --


def _is_ours(server: str, config: Config) -> bool:
    own = {_parsed(address) for address in config.listen}
    path = server.removeprefix("unix:")
    if path != server:
        return os.path.realpath(path) in {os.path.realpath(each) for each in own if isinstance(each, str)}
    place = _parsed(server.replace("localhost:", "127.0.0.1:"))
    return place in own


def _parsed(address: str) -> tuple[str, int] | str | None:
    try:
        return parse_address(address)
    except BadConfig:
        return None


def _passes(tree: list[Directive], around: tuple[list[Directive], ...]) -> Iterator[tuple[Directive, Scope]]:
    """Each `uwsgi_pass`, with what holds there."""
    levels = (tree, *around)
    for directive in tree:
        if directive.name == "uwsgi_pass" and directive.args:
            yield directive, Scope(levels)
        yield from _passes(directive.inside, levels)


def _walk(tree: list[Directive]) -> Iterator[Directive]:
    for directive in tree:
        yield directive
        yield from _walk(directive.inside)


# -- the file --


def _read(path: str, base: str, depth: int) -> list[Directive]:
    """The directives of a file and of those that it includes. Raises `Unreadable`, OSError."""
    if depth > DEEPEST:
        raise Unreadable(f"{path} includes itself")
    with open(path, encoding="utf-8", errors="replace") as file:
        text = file.read()
    tree, rest = _block(_words(text, path), path, base, depth)
    if rest:
        raise Unreadable(f"{path} has a }} too many")
    return tree


def _words(text: str, path: str) -> Iterator[tuple[str, str, int]]:
    """The words of a file: what kind each is, its text, and its line."""
    at, line = 0, 1
    while at < len(text):
        found = _WORD.match(text, at)
        if found is None:
            raise Unreadable(f"{path}, line {line}: a quote has no end")
        if found.lastgroup:
            word = found[0]
            yield found.lastgroup, word[1:-1] if found.lastgroup == "quoted" else word, line
        line += found[0].count("\n")
        at = found.end()


def _block(words: Iterator[tuple[str, str, int]], path: str, base: str, depth: int) -> tuple[list[Directive], bool]:
    """The directives up to the end of a block, and whether a } ended it."""
    tree: list[Directive] = []
    said: list[str] = []
    begun = 0
    for kind, word, line in words:
        if kind != "sign":
            begun = begun if said else line
            said.append(word)
        elif word == "}":
            return tree, True
        elif said:
            name, *args = said
            inside: list[Directive] = []
            if word == "{":
                inside, is_closed = _block(words, path, base, depth)
                if not is_closed:
                    raise Unreadable(f"{path}, line {begun}: {name} has no }}")
            said = []
            if name == "include" and args:
                for other in sorted(glob.glob(os.path.join(base, args[0]))):
                    tree += _read(other, base, depth + 1)
            else:
                tree.append(Directive(name, args, inside, f"{os.path.basename(path)}:{begun}"))
    if said:
        raise Unreadable(f"{path}, line {begun}: {said[0]} has no ;")
    return tree, False


def _seconds(text: str) -> float | None:
    found = _TIME.fullmatch(text)
    return int(found[1]) * _SECONDS[found[2] or "s"] if found else None
