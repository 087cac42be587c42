"""ARCHITECTURE.md says what the code says: names, states, the arrows of its charts, the threads."""

import ast
import re
from collections import Counter, defaultdict

import pytest
from documents import ROOT, blocks, page, section, table
from sources import LAYERS

from spoolnode.cluster.liveness import TRANSITIONS, PeerState
from spoolnode.node.disk.disk import Disk, MarkingDisk, ReadingDisk
from spoolnode.node.disk.fakes import RIGHTS
from spoolnode.node.ingress import conversation
from spoolnode.node.ingress.conversation import ConversationState
from spoolnode.node.spool.reader import Marker, Reader
from spoolnode.node.spool.store import Store

ARCHITECTURE = "ARCHITECTURE.md"


def names_of(item: ast.AST) -> set[str]:
    """The names that a piece of a class adds to it: a method, a field, an attribute of its objects."""
    if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
        return {item.name}
    if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
        return {item.target.id}
    if isinstance(item, ast.Assign):
        return {target.id for target in item.targets if isinstance(target, ast.Name)}
    is_own = isinstance(item, ast.Attribute) and isinstance(item.value, ast.Name) and item.value.id == "self"
    return {item.attr} if isinstance(item, ast.Attribute) and is_own else set()


def members() -> dict[str, set[str]]:
    """Of each class of the code, by its name: its methods and attributes."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in (path for layer in ("protocol", "node", "cluster") for path in (ROOT / layer).rglob("*.py")):
        for owner in ast.walk(ast.parse(path.read_text())):
            if isinstance(owner, ast.ClassDef):
                found[owner.name].update(*(names_of(item) for item in ast.walk(owner)))
    return found


def test_every_method_that_it_names_exists() -> None:
    code = " ".join(re.findall(r"`([^`\n]+)`", page(ARCHITECTURE)))
    named = set(re.findall(r"\b([A-Z]\w+)\.(_?[a-z]\w*)\b", code))
    exists = members()
    assert len(named) > 60
    assert not {f"{owner}.{member}" for owner, member in named if member not in exists[owner]}


@pytest.mark.parametrize(("layer", "told_one_by_one"), [("node", "**/*.py"), ("cluster", "*.py"), ("face", "**/*.py")])
def test_every_module_stands_in_a_table_with_its_reason(layer: str, told_one_by_one: str) -> None:
    text = section(ARCHITECTURE, "Who may know whom")
    tables = dict(zip(["node", "cluster", "face"], re.split(r"And of \S+/", text), strict=True))
    listed = [name for row in table(tables[layer]) for name in re.findall(r"`([\w/]+)`", row[0])]
    folder = ROOT / LAYERS[layer]
    modules = Counter(path.stem for path in folder.glob(told_one_by_one) if path.stem != "__init__")
    rooms = {f"{path.parent.name}/" for path in folder.glob("*/__init__.py")} - {f"{other}/" for other in LAYERS}
    assert sorted(listed) == sorted([*modules.elements(), *rooms])


def arrows(title: str) -> list[tuple[str, str, str]]:
    """Of each arrow in the first chart below a heading of the third level: from where, to where, its numbers."""
    _, _, text = page(ARCHITECTURE).partition(f"\n### {title}\n")
    drawn = text.partition("```mermaid\n")[2].partition("```")[0]
    return re.findall(r"^ *(\S+) --> (\S+): ([\d, ]+)?", drawn, flags=re.M)


def rows_after(title: str) -> set[str]:
    """The numbers of the arrows in the first table below that heading."""
    _, _, text = page(ARCHITECTURE).partition(f"\n### {title}\n")
    first = re.search(r"(?:^\|.*\n)+", text, flags=re.M)
    assert first
    return {number for row in table(first[0]) for number in re.findall(r"\d+", row[0])}


@pytest.mark.parametrize("title", ["The states of a task", "The states of a connection", "The states of a peer"])
def test_every_arrow_of_a_chart_says_which_code_makes_it(title: str) -> None:
    numbers = {number for _, _, numbers in arrows(title) for number in re.findall(r"\d+", numbers)}
    assert len(numbers) > 7
    assert numbers == rows_after(title)


def test_the_states_of_a_peer_and_the_arrows_between_them_are_those_of_its_transitions() -> None:
    drawn = {(source, target) for source, target, _ in arrows("The states of a peer") if "[*]" not in (source, target)}
    assert {state for arrow in drawn for state in arrow} == {state.value for state in PeerState}
    steps = ((state, step) for steps in TRANSITIONS.values() for state, step in zip(PeerState, steps, strict=True))
    made = {(state.value, step.state.value) for state, step in steps if step.state is not None}
    assert drawn <= made


def test_the_states_of_a_conversation_and_the_arrows_between_them_are_those_of_its_transitions() -> None:
    made = {(state.value, then.value) for state, steps in conversation.TRANSITIONS.items() for then in steps.values()}
    states = {state.value for state in ConversationState}
    drawn = {(source, target) for source, target, _ in arrows("The states of a connection")}
    assert {(source, target) for source, target in drawn if {source, target} <= states} == {
        (source, target) for source, target in made if target != "gone"
    }


def test_every_chart_can_be_drawn() -> None:
    drawn = blocks(ARCHITECTURE, language="mermaid")
    assert len(drawn) == 4
    assert all(block.text.startswith("stateDiagram-v2\n") for block in drawn)


def test_the_table_of_threads_has_every_thread_that_may_change_something() -> None:
    first = " ".join(row[0] for row in table(section(ARCHITECTURE, "Threads")))
    assert not {name for name in RIGHTS if name not in first.replace("main thread", "MainThread")}


@pytest.mark.parametrize(("less", "more"), [(ReadingDisk, MarkingDisk), (MarkingDisk, Disk), (Reader, Marker), (Marker, Store)])
def test_each_step_from_reading_to_moving_adds_something(less: type, more: type) -> None:
    assert less in more.__mro__
    assert [name for name in vars(more) if not name.startswith("_") and not hasattr(less, name)]


@pytest.mark.parametrize("reading", [Reader, ReadingDisk])
@pytest.mark.parametrize(
    "move", ["write", "create", "rename", "unlink", "sync", "mark", "replace", "remove", "revive", "publish"]
)
def test_what_any_thread_gets_cannot_move_anything(reading: type, move: str) -> None:
    assert not hasattr(reading, move)
