"""Counts things that make code and prose hard to read: `python tests/counts.py [CHECKOUT]` prints them.

`tests/test_counts.py` holds each where it is, so that none grows.
"""

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from documents import FENCE
from sources import modules, without_types

ROOT = Path(__file__).parents[1]

LINES = 300
ATTRIBUTES = 15
WIDTH = 100
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef

SENTENCES = {
    '"is/are no X"': r"(?i)\b(?:is|are|was|were) no\b(?! longer)",
    "nobody, somebody, everybody": r"(?i)\b(?:nobody|somebody|everybody|everyone)\b",
    "who, whoever as a subject": r"\b[Ww]hoever\b|(?:^|[.:;] )Who\b(?=[^.?]*(?:\.|$))",
    '"anew"': r"(?i)\banew\b",
    '"for what is gone"': r"(?i)\bfor what is gone\b",
}


def counts(root: Path) -> dict[str, list[str]]:
    """Of each thing that is counted, the places where it is."""
    code = modules(root)
    trees = [ast.parse(module.source()) for module in code]
    names = {module.name for module in code}
    runs = {module.name: module.imports(without_types(tree)) for module, tree in zip(code, trees, strict=True)}
    knows = {module.name: module.imports(tree) for module, tree in zip(code, trees, strict=True)}
    nodes = [node for tree in trees for node in ast.walk(tree)]
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    top = [item for tree in trees for item in tree.body]
    prose = _prose(root)
    said = [*_strings(nodes), *(text for module in code for text in _comments(module.source())), *prose]
    return {
        f"classes over {LINES} lines": [item.name for item in classes if _length(item) > LINES],
        f"classes with over {ATTRIBUTES} attributes": [item.name for item in classes if len(_attributes(item)) > ATTRIBUTES],
        "isinstance on the source of a task": _tests_of_sources(nodes),
        "modules in a cycle of imports at run time": in_a_cycle(runs, names),
        "modules in a cycle of imports for types": in_a_cycle(knows, names),
        "public classes of one name": _twice(item.name for item in top if isinstance(item, ast.ClassDef)),
        "public functions of one name": _twice(item.name for item in top if isinstance(item, FUNCTION)),
        "module files of one name": _twice(module.file.name for module in code),
        'docstrings that begin with "What"': [text for text in _docstrings(nodes) if text.startswith("What ")],
        **{f"sentences: {title}": _found(pattern, said) for title, pattern in SENTENCES.items()},
        f"lines of prose over {WIDTH} characters": [line for line in prose if len(line) > WIDTH],
    }


# --- code ---


def _length(item: ast.ClassDef) -> int:
    return (item.end_lineno or item.lineno) - item.lineno + 1


def _attributes(owner: ast.ClassDef) -> set[str]:
    """The fields of a class, and what its methods give their objects."""
    fields = {item.target.id for item in owner.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)}
    stored = [item for item in ast.walk(owner) if isinstance(item, ast.Attribute) and isinstance(item.ctx, ast.Store)]
    return fields | {item.attr for item in stored if isinstance(item.value, ast.Name) and item.value.id == "self"}


def _tests_of_sources(nodes: list[ast.AST]) -> list[str]:
    calls = [item for item in nodes if isinstance(item, ast.Call) and ast.unparse(item.func) == "isinstance"]
    return [ast.unparse(call) for call in calls if re.search(r"\b(?:Batch|Files)\b", ast.unparse(call.args[1]))]


def in_a_cycle(imports: dict[str, set[str]], names: set[str]) -> list[str]:
    """The modules that import themselves by way of others."""
    knows = {module: {_module_of(name, names) for name in imported} - {module, ""} for module, imported in imports.items()}
    return [module for module in knows if module in _reached(module, knows)]


def _module_of(name: str, names: set[str]) -> str:
    """The module of ours that a full name is, or lies in; empty for others."""
    while name and name not in names:
        name = name.rpartition(".")[0]
    return name


def _reached(module: str, knows: dict[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    rest = [module]
    while rest:
        more = knows[rest.pop()] - reached
        reached |= more
        rest += more
    return reached


def _twice(names: Iterable[str]) -> list[str]:
    """The public ones of these names that come more than once."""
    return [name for name, times in Counter(names).items() if times > 1 and not name.startswith("_")]


# --- prose ---


def _strings(nodes: list[ast.AST]) -> list[str]:
    """All strings, docstrings and messages among them, each in one line."""
    strings = [item.value for item in nodes if isinstance(item, ast.Constant) and isinstance(item.value, str)]
    return [" ".join(text.split()) for text in strings]


def _docstrings(nodes: list[ast.AST]) -> list[str]:
    """The docstrings of modules, classes and functions, and those below fields and constants."""
    return [text for item in nodes if isinstance(item, ast.Expr) for text in _strings([item.value])]


def _comments(source: str) -> Iterator[str]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string.lstrip("# ")


def _prose(root: Path) -> list[str]:
    """The lines of the documents, without headings, tables and blocks."""
    pages = [path for directory in (root, root / "docs", root / "bench") for path in sorted(directory.glob("*.md"))]
    lines = [line for page in pages for line in FENCE.sub("", page.read_text(encoding="utf-8")).split("\n")]
    return [line for line in lines if not line.startswith(("|", "#"))]


def _found(pattern: str, texts: Iterable[str]) -> list[str]:
    """Where a pattern is, with a few words around it."""
    found = [(text, match) for text in texts for match in re.finditer(pattern, text)]
    return [text[max(0, match.start() - 40) : match.end() + 40] for text, match in found]


def main() -> None:
    """Prints the table."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    sys.stdout.writelines(f"{len(places):5} {title}\n" for title, places in counts(root).items())


if __name__ == "__main__":
    main()
