"""The wheel, the sdist, the links of the checkout, the direction of imports."""

import ast
import json
import os
import subprocess
import sys
import zipfile
from collections import Counter
from email import message_from_bytes
from pathlib import Path

import pytest
from counts import in_a_cycle
from sources import LAYERS, imports, layer_of, modules, python_files, without_types

import spoolnode

ROOT = Path(__file__).resolve().parents[1]
RANK = {layer: rank for rank, layer in enumerate(LAYERS)}

# What would hand protocol/ a socket, a file, a clock, a thread, a process or chance.
IMPURE = {
    *("asyncio", "multiprocessing", "os", "pathlib", "random", "secrets", "select", "selectors", "shutil", "socket"),
    *("ssl", "subprocess", "tempfile", "threading", "time"),
}


MODULES = {module.name: module for module in modules(ROOT)}


# --- what is built ---


def build(target: str, source: Path, directory: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(directory)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (artifact,) = directory.iterdir()
    return artifact


def wheel_files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, built and unpacked."""
    archive = build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))
    directory = tmp_path_factory.mktemp("unpacked")
    subprocess.run(["tar", "-xf", archive, "-C", directory], check=True)  # Debian 12's tarfile has no filters yet
    (tree,) = directory.iterdir()
    return tree


def test_wheel_holds_every_module_of_the_checkout_and_no_other(wheel: Path) -> None:
    in_wheel = {name for name in wheel_files(wheel) if name.endswith(".py")}
    assert in_wheel == {f"spoolnode/{path}" for path in python_files(ROOT)}
    assert {f"spoolnode/{layer}/__init__.py" for layer in ("protocol", "node", "cluster")} <= in_wheel


def test_wheel_is_typed_and_holds_nothing_outside_the_package(wheel: Path) -> None:
    files = wheel_files(wheel)
    assert "spoolnode/node/control/openapi.json" in files
    page = {f"spoolnode/{path.relative_to(ROOT)}" for path in (ROOT / "node/control/page").rglob("*") if path.is_file()}
    assert "spoolnode/node/control/page/vendor/packages.json" in page
    assert page <= files
    assert "spoolnode/py.typed" in files
    tops = {name.partition("/")[0] for name in files}
    assert tops == {"spoolnode", f"spoolnode-{spoolnode.__version__}.dist-info"}


def test_wheel_through_the_sdist_is_the_direct_wheel(wheel: Path, sdist_tree: Path, tmp_path: Path) -> None:
    assert wheel_files(build("wheel", sdist_tree, tmp_path)) == wheel_files(wheel)


def test_sdist_holds_each_file_once_where_the_checkout_has_it(sdist_tree: Path) -> None:
    in_sdist = {str(path.relative_to(sdist_tree)) for path in sdist_tree.rglob("*.py")}
    expected = {str(path.relative_to(ROOT)) for path in python_files(ROOT).values()}
    assert {name for name in in_sdist if not name.startswith(("tests/", "docker/"))} == expected
    assert "tests/test_packaging.py" in in_sdist


def test_wheel_says_its_version_its_command_its_plugin_and_its_licence(wheel: Path) -> None:
    info = f"spoolnode-{spoolnode.__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        metadata = message_from_bytes(archive.read(f"{info}/METADATA"))
        commands = archive.read(f"{info}/entry_points.txt").decode()
    assert metadata["Version"] == spoolnode.__version__
    assert metadata["License-Expression"] == "MIT AND Apache-2.0"
    assert {"spoolnode = spoolnode.cli:main", "spoolnode = spoolnode.testing.plugin"} <= set(commands.splitlines())


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="an sdist has no links: only a checkout needs them")
@pytest.mark.parametrize("layer", ["cluster", "node", "protocol"])
def test_checkout_links_the_folders_into_the_package(layer: str) -> None:
    assert os.readlink(ROOT / "src" / "spoolnode" / layer) == f"../../{layer}"


@pytest.mark.skipif(os.environ.get("TOX_ENV_NAME") != "tests", reason="only tox promises to test the installed wheel")
def test_tox_tests_the_installed_wheel() -> None:
    assert Path(spoolnode.__file__).is_relative_to(sys.prefix)


# --- who imports whom ---


def imports_of(name: str) -> set[str]:
    module = MODULES[name]
    return module.imports(ast.parse(module.source()))


def real_imports_of(name: str) -> set[str]:
    """The imports that it needs at run time: without those under `if TYPE_CHECKING`."""
    module = MODULES[name]
    return module.imports(without_types(ast.parse(module.source())))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import spoolnode.node.spool", "spoolnode.node.spool"),
        ("from spoolnode import cluster", "spoolnode.cluster"),
        ("def f():\n    from spoolnode.cluster.peers import Peer", "spoolnode.cluster.peers.Peer"),
        ("from . import spool", "spoolnode.node.spool"),
        ("from .spool import Spool", "spoolnode.node.spool.Spool"),
        ("from ..cluster import peers", "spoolnode.cluster.peers"),
        ("from .. import send_to_spooler", "spoolnode.send_to_spooler"),
    ],
)
def test_every_form_of_import_is_seen(source: str, found: str) -> None:
    assert imports("spoolnode.node.listener", ast.parse(source)) == {found}


def test_relative_import_of_a_package_starts_at_the_package() -> None:
    tree = ast.parse("from .spool import Spool")
    assert imports("spoolnode.node", tree, is_package=True) == {"spoolnode.node.spool.Spool"}


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("spoolnode.protocol.packet", "protocol"),
        ("spoolnode.cluster", "cluster"),
        ("spoolnode.nodes", "face"),
        ("spoolnode", "face"),
        ("spoolnode_other.node", None),
        ("os.path", None),
    ],
)
def test_every_name_has_its_layer(name: str, layer: str | None) -> None:
    assert layer_of(name) == layer


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    """protocol <- node <- cluster <- face, and never the other way."""
    own = RANK[layer_of(module) or ""]
    assert not {name for name in imports_of(module) if (layer := layer_of(name)) and RANK[layer] > own}


BELOW: dict[str, dict[str, set[str]]] = {
    "node": {
        "": set(),  # config, log, ...: modules that all rooms may know
        "disk": {""},
        "story": {"", "disk"},
        "spool": {"", "disk", "story"},
        "outbox": {"", "disk", "story", "spool"},
        "ingress": {"", "disk", "story", "spool", "outbox"},
        "work": {"", "disk", "story", "spool"},
        "control": {"", "disk", "story", "spool", "outbox", "ingress", "work"},
        "node": {"", "disk", "story", "spool", "outbox", "ingress", "work", "control"},
    },
    "face": {
        "": set(),  # context, errors, wire
        "client": {""},
        "calls": {"", "client"},
        "compat": {"", "client", "calls"},
        "runtime": {"", "client", "calls", "compat"},
        "contrib": {"", "calls"},
        "django": {"", "client", "calls"},
        "testing": {"", "client", "calls", "compat", "runtime"},
        "doctor": {"", "client", "compat"},
        "demo": {"", "client"},
        "cli": {"", "client", "calls", "runtime", "doctor", "demo"},
    },
}
"""Of each room of a layer: which others of that layer it may know. The first is the small modules that all may know."""
ELSEWHERE = {
    "node": dict.fromkeys(("node", "life", "places", "housekeeping", "timekeeper", "host"), "node"),
    "face": {"api": "client", "uwsgi": "client", "decorators": "calls", "__main__": "cli"},
}
"""Modules at the top of a layer that are not small ones: above all rooms, or public, so that their path must not change."""


def room_of(name: str) -> tuple[str, str] | None:
    """Layer and room of a full name; None in a layer without rooms."""
    layer = layer_of(name) or ""
    if layer not in BELOW:
        return None
    top, *_ = [*name.split(".")[1 if layer == "face" else 2 :], ""]
    return layer, ELSEWHERE[layer].get(top, top if top in BELOW[layer] else "")


@pytest.mark.parametrize("layer", BELOW)
def test_a_layer_has_the_rooms_that_are_told(layer: str) -> None:
    rooms = {path.parent.name for path in (ROOT / LAYERS[layer]).glob("*/__init__.py")} - LAYERS.keys()
    assert rooms == BELOW[layer].keys() - {"", "node"}


@pytest.mark.parametrize("module", [name for name in MODULES if room_of(name) is not None])
def test_rooms_know_only_what_is_below_them(module: str) -> None:
    layer, own = room_of(module) or ("", "")
    known = {found[1] for name in real_imports_of(module) if (found := room_of(name)) and found[0] == layer}
    assert not known - {own} - BELOW[layer][own]


@pytest.mark.parametrize("module", [name for name in MODULES if layer_of(name) == "protocol"])
def test_protocol_knows_only_bytes(module: str) -> None:
    tops = {name.partition(".")[0] for name in imports_of(module)}
    assert not tops & IMPURE
    assert not tops - sys.stdlib_module_names - {"spoolnode", "msgpack"}


IMPORT_EACH_FIRST = """
import gc, json, os, sys, traceback
from contextlib import suppress
from importlib import import_module

theirs, ours = json.load(sys.stdin)
for name in theirs:
    for known in (name, name.rpartition(".")[0]):
        with suppress(ImportError, ValueError):
            import_module(known)
assert not [name for name in sys.modules if name.partition(".")[0] == "spoolnode"]
gc.disable()
for name in ours:
    if (child := os.fork()) == 0:
        try:
            import_module(name)
        except BaseException:
            print(f"{name} does not come first:\\n{traceback.format_exc()}", flush=True)
        os._exit(0)
    if (status := os.waitpid(child, 0)[1]):
        print(f"{name} ends the interpreter: {status}", flush=True)
print(len(ours), "were tried")
"""


@pytest.mark.timeout(1200)  # dozens of forks, one after another
def test_each_module_of_a_cycle_imports_first_into_an_interpreter_that_has_none_of_ours() -> None:
    """A cycle of imports shows only if the wrong module happens to come first. A package that imports its modules makes one.

    Each comes first in a fork of an interpreter that has the modules of others, which take most of the time, and none of ours.
    """
    needed = {name: real_imports_of(name) | {name.rpartition(".")[0]} for name in MODULES}
    ours = in_a_cycle(needed, set(MODULES))
    assert "spoolnode.compat.locks" in ours
    theirs = sorted(name for name in set().union(*map(real_imports_of, ours)) if layer_of(name) is None)
    environment = {**os.environ, "PYTHONPATH": str(Path(spoolnode.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_EACH_FIRST], input=json.dumps([theirs, ours]), env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr, done.stdout) == (0, "", f"{len(ours)} were tried\n")


def test_no_two_files_of_the_tests_have_one_name() -> None:
    """They are modules without packages: the second one of a name is not collected, and fails a whole run."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert not [name for name, count in names.items() if count > 1]
