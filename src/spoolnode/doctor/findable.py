"""Finds functions of an application that a worker cannot find, or that another one hides. Its source is read, not run."""

import ast
import os
from collections.abc import Iterator
from typing import NamedTuple

from spoolnode.doctor.finding import OK, WARN, Finding

DECORATORS = frozenset({"spool", "spoolraw", "spoolforever", "timer", "cron"})
SPOOLED = frozenset({"spool", "spoolraw", "spoolforever"})
"""Those of them that make a function of tasks."""
HOMES = frozenset({"spoolnode", "uwsgidecorators"})

_Function = ast.FunctionDef | ast.AsyncFunctionDef


class Decorated(NamedTuple):
    """A decorated function."""

    name: str
    """By which a worker finds it, within its module..."""
    is_named: bool
    """...or everywhere, if it has a `name=`, or is one of uwsgidecorators."""
    place: str


def of_tasks(files: list[tuple[str, str]]) -> Iterator[Finding]:
    """Looks for functions in these files (path, and path for people) that are not found, or that are hidden."""
    spooled: list[Decorated] = []
    spoolers: dict[str, str] = {}
    for path, shown in files:
        with open(path, "rb") as file:
            tree = ast.parse(file.read(), path)
        names = _decorators(tree)
        yield from _nested(tree, names, shown)
        yield from _hidden(tree, names, shown)
        spooled += _spooled(tree, names, path, shown)
        yield from _of_scripts(tree, names, shown)
        for home, line in _spoolers(tree, names):
            spoolers.setdefault(home, f"{shown}:{line}")
    yield from _doubled(spooled)
    if {"own", "uwsgidecorators"} <= spoolers.keys():
        yield Finding(
            "functions", WARN, f"{spoolers['own']} sets uwsgi.spooler, and {spoolers['uwsgidecorators']} uses uwsgidecorators, "
            "whose import sets it too: set yours before that import, or the tasks of those functions go to yours",
        )  # fmt: skip
    if spooled:
        yield Finding("functions", OK, f"{len(spooled)} function{'s' if len(spooled) > 1 else ''} of tasks")


def _decorators(tree: ast.Module) -> dict[str, tuple[str, str]]:
    """The names under which decorators, or their modules, are known in a file: home and decorator (empty: the module)."""
    found: dict[str, tuple[str, str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update({alias.asname or alias.name: (alias.name, "") for alias in node.names if alias.name in HOMES})
        elif isinstance(node, ast.ImportFrom) and node.module in HOMES and not node.level:
            for alias in node.names:
                called = DECORATORS if alias.name == "*" else {alias.name} & DECORATORS
                found.update({alias.asname or name: (node.module, name) for name in called})
    return found


def _decorator_of(function: _Function, names: dict[str, tuple[str, str]]) -> tuple[str, str, ast.expr] | None:
    """Home, name and expression of the decorator that makes a function one of tasks, or a timer."""
    for expression in function.decorator_list:
        called = expression.func if isinstance(expression, ast.Call) else expression
        if isinstance(called, ast.Name) and called.id in names and names[called.id][1]:
            return *names[called.id], expression
        if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
            home, decorator = names.get(called.value.id, ("", "-"))
            if home and not decorator and called.attr in DECORATORS:
                return home, called.attr, expression
    return None


def _nested(tree: ast.Module, names: dict[str, tuple[str, str]], shown: str) -> Iterator[Finding]:
    for outer in ast.walk(tree):
        if isinstance(outer, _Function):
            for inner in ast.walk(outer):
                if inner is not outer and isinstance(inner, _Function) and (found := _decorator_of(inner, names)):
                    text = f"{shown}:{inner.lineno}: {inner.name} is made when {outer.name} is called, so no worker finds it: "
                    yield Finding("functions", WARN, f"{text}move it, with its @{found[1]}, to the top of the module")


def _of_scripts(tree: ast.Module, names: dict[str, tuple[str, str]], shown: str) -> Iterator[Finding]:
    for block in tree.body:
        if isinstance(block, ast.If) and "__name__" in ast.unparse(block.test):
            for node in block.body:
                if isinstance(node, _Function) and (found := _decorator_of(node, names)):
                    text = f"{shown}:{node.lineno}: {node.name} is only there when the file runs as a script"
                    remedy = f"move it, with its @{found[1]}, out of that `if`"
                    yield Finding("functions", WARN, f"{text}, so no worker finds it: {remedy}")


def _hidden(tree: ast.Module, names: dict[str, tuple[str, str]], shown: str) -> Iterator[Finding]:
    """Functions whose name is something else further down. With `name=`, or by uwsgidecorators, they are found all the same."""
    for at, node in enumerate(tree.body):
        found = _decorator_of(node, names) if isinstance(node, _Function) else None
        if found is None or not isinstance(node, _Function) or found[1] not in SPOOLED:
            continue
        later = next((other for other in tree.body[at + 1 :] if node.name in _bound(other)), None)
        if later is not None:
            text = f"{shown}:{node.lineno}: line {later.lineno} gives the name {node.name} to something else, so "
            yield Finding("functions", WARN, f"{text}a call of {node.name} is not what runs: rename one of them")


def _bound(node: ast.stmt) -> set[str]:
    if isinstance(node, _Function | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Assign):  # `mail = mail.options(...)` is the same function
        used = {name.id for name in ast.walk(node.value) if isinstance(name, ast.Name)}
        return {target.id for target in node.targets if isinstance(target, ast.Name)} - used
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    return {target.id for target in node.targets if isinstance(target, ast.Name)} if isinstance(node, ast.Delete) else set()


def _spooled(tree: ast.Module, names: dict[str, tuple[str, str]], path: str, shown: str) -> Iterator[Decorated]:
    for node in tree.body:
        found = _decorator_of(node, names) if isinstance(node, _Function) else None
        if found is None or not isinstance(node, _Function) or found[1] not in SPOOLED:
            continue
        home, _, expression = found
        words = {word.arg: word.value for word in getattr(expression, "keywords", [])}
        given = words.get("name")
        name = str(given.value) if isinstance(given, ast.Constant) else node.name
        is_named = given is not None or home == "uwsgidecorators"
        yield Decorated(name if is_named else f"{os.path.abspath(path)}:{name}", is_named, f"{shown}:{node.lineno}")


def _doubled(spooled: list[Decorated]) -> Iterator[Finding]:
    places: dict[str, list[str]] = {}
    for function in spooled:
        if function.is_named:
            places.setdefault(function.name, []).append(function.place)
    for name, where in places.items():
        if len(where) > 1:
            remedy = "give each a name of its own, or the tasks of one run the other"
            yield Finding("functions", WARN, f"{name} is the name of {len(where)} functions, {', '.join(where)}: {remedy}")


def _spoolers(tree: ast.Module, names: dict[str, tuple[str, str]]) -> Iterator[tuple[str, int]]:
    """Where `uwsgi.spooler` is set: by the application itself, or by a decorator of uwsgidecorators."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(ast.unparse(target) == "uwsgi.spooler" for target in node.targets):
            yield "own", node.lineno
        elif isinstance(node, _Function):
            found = _decorator_of(node, names)
            if found is not None and found[0] == "uwsgidecorators" and found[1] in SPOOLED:
                yield "uwsgidecorators", node.lineno
