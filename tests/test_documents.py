"""README.md and the other pages hold together: their size, their links, the settings and the figures that they name."""

import json
import re
from dataclasses import fields
from types import ModuleType

import pytest
from documents import FENCE, FOR_USERS, PAGES, ROOT, anchors, blocks, page, prose, section, table

import spoolnode.django
import spoolnode.testing
from spoolnode import __version__
from spoolnode.cli.settings import read_text
from spoolnode.cluster.liveness import PeerState
from spoolnode.node import log
from spoolnode.node.config import Config, option_name
from spoolnode.protocol.errors import Reason

SETTINGS = {option_name(item.name): item for item in fields(Config)}


def test_readme_is_read_in_a_minute() -> None:
    assert len(page("README.md").splitlines()) < 150


def test_readme_says_which_version_this_is() -> None:
    assert f"version {__version__}," in page("README.md")


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(name)):
        if re.match("https?://", target):
            continue
        path, _, anchor = target.partition("#")
        place = (ROOT / name).parent / path if path else ROOT / name
        assert place.exists(), f"{name}: {target}"
        assert not anchor or anchor in anchors(str(place.resolve().relative_to(ROOT.resolve()))), f"{name}: {target}"


def test_every_page_is_in_the_list_of_contents() -> None:
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", page("docs/README.md")))
    assert {f"docs/{name}" for name in listed} | {"README.md", "docs/README.md"} == set(FOR_USERS)


@pytest.mark.parametrize("package", [spoolnode, spoolnode.django, spoolnode.testing])
def test_every_public_name_is_in_the_reference(package: ModuleType) -> None:
    shown = re.findall(rf"^\.\. auto\w+:: {package.__name__}\.(\w+)(?:\(\))?$", page("docs/python-reference.rst"), flags=re.M)
    apart = {"__version__", "uwsgi"}  # a string, and a module with a section of its own
    assert set(shown) - {"uwsgi", "testing", "django"} == set(package.__all__) - apart
    assert len(shown) == len(set(shown))


@pytest.mark.parametrize("name", [*FOR_USERS, "CONTRIBUTING.md", "bench/README.md"])
def test_lines_can_be_read(name: str) -> None:
    long = [line for line in prose(name).splitlines() if len(line) > 100 and not line.startswith("|")]
    assert not long


@pytest.mark.parametrize("name", PAGES)
def test_sentences_are_plain(name: str) -> None:
    """Negations and actors that a reader has to turn around: "is no failure", "nobody has to be there", "whoever sends"."""
    words = r"\b(?:(?:is|are|was|were) no|nobody|somebody|everybody|everyone|whoever|anew|for what is gone)\b"
    assert not re.findall(f".*{words}.*", prose(name), flags=re.I)


@pytest.mark.parametrize("name", [*FOR_USERS, "CONTRIBUTING.md", "bench/README.md"])
def test_every_block_says_its_language(name: str) -> None:
    assert all(block.language for block in blocks(name))
    assert "```" not in prose(name), "each block is closed"
    assert not re.search(r"^    \S", FENCE.sub("", page(name)), flags=re.M), "blocks are fenced"


def test_every_setting_has_its_row_with_its_default() -> None:
    rows = [row for row in table(page("docs/settings.md")) if "--" in row[0]]  # the others are variables of clients
    for option, _, default in rows:
        item = SETTINGS[re.findall(r"--([a-z-]+)", option)[0]]
        value = item.default_factory() if callable(item.default_factory) else item.default
        is_right = read_text(item.name, default.strip("`"), option) == value if default else value in ("", [])
        assert is_right, f"{option}: the default is {value!r}"
        assert item.metadata["short"] in option
        assert f" {item.metadata['metavar']}`" in option or isinstance(value, bool), option
    assert sorted(re.findall(r"--([a-z-]+)", row[0])[0] for row in rows) == sorted(SETTINGS)


def test_paths_that_contributors_read_exist() -> None:
    paths = {
        path for path in re.findall(r"`([\w./-]+/[\w./-]*)`", prose("CONTRIBUTING.md")) if not path.startswith((".", "dist"))
    }
    assert len(paths) > 20
    assert not {path for path in paths if not (ROOT / path).exists()}


# --- the log and errors ---

REPORTED = re.compile(r"""\b(?:report|report_rarely|trace|say)\(\s*"([a-z_]+)\"""")


def rows_of(title: str) -> set[str]:
    """The words in the first cells of the tables of a section of docs/log.md."""
    return {word for row in table(section("docs/log.md", title)) for word in re.findall(r"`(\w+)`", row[0])}


def test_every_action_of_the_log_is_explained_at_its_level() -> None:
    errors, warnings, debug = rows_of("Errors of the node"), rows_of("Warnings"), rows_of("Debug")
    assert (errors, warnings, debug) == (log.ERRORS, log.WARNINGS, log.DEBUG)
    sources = [path.read_text() for place in ("node", "cluster", "src/spoolnode/cli") for path in (ROOT / place).rglob("*.py")]
    reported = {action for text in sources for action in REPORTED.findall(text)} | {f"peer_{state.value}" for state in PeerState}
    not_reported = {"peer_down", "peer_unknown"}  # a warning; the state of a node before the first answer
    assert reported - errors - warnings - debug - not_reported <= rows_of("Information")
    written = " ".join(sources)
    assert all(f'"{action}"' in written or action.startswith("peer_") for action in rows_of("Information"))


def test_every_reason_and_exception_is_explained() -> None:
    assert {row[0].strip("`"): int(row[1]) for row in table(section("docs/log.md", "Refusals"))} == {
        reason.name: reason.value for reason in Reason
    }
    raised = {
        name for name in spoolnode.__all__ if isinstance(kind := getattr(spoolnode, name), type) and issubclass(kind, Exception)
    }
    assert rows_of("Exceptions in Python") == raised


# --- figures ---


def number(value: float) -> str:
    """Three digits are as many as a busy machine can tell."""
    short = float(f"{value:.3g}")
    return f"{short:,.0f}" if short.is_integer() else f"{short:g}"


def test_figures_are_those_of_the_kept_results() -> None:
    kept = json.loads((ROOT / "bench" / "results.json").read_text())
    # Those about stores stand in sentences; some have names of the others.
    of = {row["what"].strip(): row for row in kept["rows"] if not row["measurement"].startswith("store")}
    shown = table(page("docs/speed.md"))
    for what, unit, ours, *more in shown:
        row = of[what]
        right = [unit, number(row["ours"])]
        if more:
            right += [number(row.get("uwsgi") or row["other"]), format(float(format(row["ratio"], ".2g")), "g")]
        assert [unit, ours, *more] == right, what
    assert len(shown) > 30
    commits = {kept["machine"]["commit"], *(about["commit"] for about in kept["updated"].values())}
    assert all(f"commit {commit})" in page("docs/speed.md") for commit in commits)


def test_figures_and_defaults_of_the_production_page_are_right() -> None:
    rows = json.loads((ROOT / "bench" / "results.json").read_text())["rows"]
    of = {row["what"].strip(): row for row in rows}
    for what, unit, ours, command in table(section("docs/production.md", "How large")):
        assert [unit, ours] == [of[what]["unit"], number(of[what]["ours"])], what
        assert command == "the same" or f"--only {of[what]['measurement']}'" in command, what
    for option, default, _ in table(section("docs/production.md", "Limits")):
        item = SETTINGS[option.strip("`-")]
        assert read_text(item.name, default.strip("`"), option) == item.default, option


def test_figures_of_different_disks_stand_in_different_sections() -> None:
    kept = json.loads((ROOT / "bench" / "results.json").read_text())
    disk = {name: about["file_system"] for name, about in kept["updated"].items()}
    rows = [row for row in kept["rows"] if not row["measurement"].startswith("store")]
    of = {row["what"].strip(): disk.get(row["measurement"], kept["machine"]["file_system"]) for row in rows}
    sections = page("docs/speed.md").split("\n## ")[1:]
    assert [len({of[row[0]] for row in table(text)}) for text in sections if "\n|" in text] == [1, 1]
