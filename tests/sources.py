"""The code of a checkout for the tests: its layers, its modules and their imports."""

import ast
import os
from pathlib import Path
from typing import NamedTuple

LAYERS = {"protocol": "protocol", "node": "node", "cluster": "cluster", "face": "src/spoolnode"}
"""The folder of each; a layer imports itself and those that stand before it."""


class Module(NamedTuple):
    """A module of the package: its full name, and its file in the checkout."""

    name: str
    file: Path

    def source(self) -> str:
        """Its text."""
        return self.file.read_text(encoding="utf-8")

    def imports(self, tree: ast.Module) -> set[str]:
        """Full names of all that `tree`, which is this module or a part of it, imports."""
        return imports(self.name, tree, is_package=self.file.name == "__init__.py")


def python_files(root: Path) -> dict[str, Path]:
    """Every Python file of the package: its path inside `spoolnode/` -> the file in the checkout."""
    files = {}
    for layer, place in LAYERS.items():
        folder = root / place
        for directory, subdirectories, names in os.walk(folder):  # does not follow the links in src/spoolnode
            subdirectories[:] = [name for name in subdirectories if name != "__pycache__"]
            for name in names:
                path = Path(directory, name)
                if path.suffix == ".py":
                    inside = path.relative_to(folder)
                    files[str(inside if layer == "face" else layer / inside)] = path
    return files


def modules(root: Path) -> list[Module]:
    """The same as modules, sorted."""
    return [Module(_full_name(path), file) for path, file in sorted(python_files(root).items())]


def _full_name(path: str) -> str:
    return ".".join(["spoolnode", *Path(path).with_suffix("").parts]).removesuffix(".__init__")


def layer_of(name: str) -> str | None:
    """The layer of a full name; None for names that are not ours."""
    top, _, rest = name.partition(".")
    if top != "spoolnode":
        return None
    inside = rest.partition(".")[0]
    return inside if inside in LAYERS else "face"


def imports(module: str, tree: ast.Module, *, is_package: bool = False) -> set[str]:
    """Full names of the imports of `module`, anywhere in it; `from a import b` counts as a.b."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = node.module
            if node.level:
                parents = module.split(".")
                parents = parents[: len(parents) - node.level + is_package]
                package = ".".join(filter(None, [*parents, node.module]))
            found |= {f"{package}.{alias.name}" for alias in node.names}
    return found


def without_types(tree: ast.Module) -> ast.Module:
    """The part of a module that runs: all but the code under `if TYPE_CHECKING`."""
    runs = [item for item in tree.body if not (isinstance(item, ast.If) and "TYPE_CHECKING" in ast.unparse(item.test))]
    return ast.Module(body=runs, type_ignores=[])
