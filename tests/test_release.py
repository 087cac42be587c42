"""`make release` in a throw-away clone: it makes a whole release or changes nothing."""

import re
import subprocess
import zipfile
from collections.abc import Callable
from datetime import date
from pathlib import Path

import click
import pytest
import release
from release import ReleaseError

from spoolnode import __version__

ROOT = Path(__file__).resolve().parents[1]
DAY = date(2027, 1, 31)
NEXT = "99.0.1"
REPOSITORY = 'Repository = "https://example.org/spoolnode"\n'

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="releases are made in a checkout")


def git(directory: Path, *args: str) -> str:
    return subprocess.run(["git", *args], cwd=directory, capture_output=True, text=True, check=True).stdout.strip()


def state(directory: Path) -> list[str]:
    """All that a release might change."""
    built = sorted(str(path) for path in (directory / "dist").glob("*"))
    return [*built, *(git(directory, *args.split()) for args in ("status -s --branch", "rev-parse HEAD", "tag", "worktree list"))]


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of this checkout on `main`, whatever branch that is on, with something to tell, and a public address."""
    for name, value in {"NAME": "Releaser", "EMAIL": "releaser@example.com"}.items():
        monkeypatch.setenv(f"GIT_AUTHOR_{name}", value)
        monkeypatch.setenv(f"GIT_COMMITTER_{name}", value)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--no-tags", str(ROOT), str(clone))
    git(clone, "checkout", "-q", "-B", "main")
    pyproject = clone / "pyproject.toml"
    without = re.sub(r"(?m)^Repository = .*\n", "", pyproject.read_text())
    pyproject.write_text(without.replace("[project.urls]\n", f"[project.urls]\n{REPOSITORY}"))
    changelog = clone / "CHANGELOG.md"
    changelog.write_text("# Changelog\n\n## [Unreleased]\n\n### Fixed\n\n- A thing.\n\n## [0.0.1] - 2026-01-01\n\n- Another.\n")
    git(clone, "commit", "-q", "-a", "-m", "Tell")
    return clone


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the wheel be installed without an index: without what it depends on, but for the part that `--version` needs."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_NO_DEPS", "1")
    lent = tmp_path / "lent"
    lent.mkdir()
    (lent / "click").symlink_to(Path(click.__file__).parent)
    monkeypatch.setenv("PYTHONPATH", str(lent))


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
def test_release_is_committed_tagged_built_and_not_published(clone: Path) -> None:
    before = git(clone, "rev-parse", "HEAD")
    told = release.release(clone, NEXT, DAY)
    assert git(clone, "status", "-s") == ""
    assert git(clone, "rev-parse", "HEAD~1", "v99.0.1~1") == f"{before}\n{before}"
    assert git(clone, "cat-file", "-t", "v99.0.1") == "tag"
    assert git(clone, "diff", "--name-only", before).split() == [
        "CHANGELOG.md",
        "README.md",
        "protocol/version.py",
        "pyproject.toml",
    ]
    assert (clone / "protocol" / "version.py").read_text().endswith('VERSION = "99.0.1"\n')
    assert "\n## [Unreleased]\n\n## [99.0.1] - 2027-01-31\n\n### Fixed\n\n- A thing.\n" in (clone / "CHANGELOG.md").read_text()
    built = sorted(path.name for path in (clone / "dist").iterdir())
    assert built == ["spoolnode-99.0.1-py3-none-any.whl", "spoolnode-99.0.1.tar.gz"]
    with zipfile.ZipFile(clone / "dist" / built[0]) as wheel:
        metadata = wheel.read("spoolnode-99.0.1.dist-info/METADATA").decode()
    assert "\nProject-URL: Repository, https://example.org/spoolnode\n" in metadata
    assert "\nProject-URL: Homepage, https://pypi.org/project/spoolnode/\n" in metadata
    assert git(clone, "worktree", "list").count("\n") == 0
    assert git(ROOT, "tag", "--list", "v99.0.1") == ""
    assert "git push --atomic origin main v99.0.1\n" in told
    assert f"twine upload {' '.join(f'dist/{name}' for name in built)}\n" in told


def wrong_metadata(clone: Path) -> None:
    pyproject = clone / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace("Typing :: Typed", "Typing :: Wrong"))


def no_description(clone: Path) -> None:
    """PyPI would show an empty page."""
    pyproject = clone / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace('readme = "README.md"\n', ""))


def stray_module(clone: Path) -> None:
    """The wheel would put a module beside the package."""
    pyproject = clone / "pyproject.toml"
    more = '\n[tool.hatch.build.targets.wheel.force-include]\n"tests/sources.py" = "sources.py"\n'
    pyproject.write_text(pyproject.read_text() + more)


def wrong_version(clone: Path) -> None:
    """The command says another version than the wheel."""
    (clone / "src" / "spoolnode" / "cli" / "__init__.py").write_text("def main() -> None:\n    print('spoolnode 1.0.0')\n")


def taken_tag(clone: Path) -> None:
    """The wheel is well, and then the tag cannot be written: a directory of its name has another one in it."""
    git(clone, "tag", "v99.0.1/other")


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (wrong_metadata, "`.* -m hatchling build` failed: .*Typing :: Wrong"),
        (no_description, "`.* -m twine check` failed"),
        (stray_module, "`.* -m check_wheel_contents .*` failed: *sources.py"),
        (wrong_version, "The installed wheel says 'spoolnode 1.0.0' and not that it is version 99.0.1."),
        (taken_tag, "`git tag --annotate --message` failed"),
    ],
)
def test_release_that_fails_late_changes_nothing(clone: Path, harm: Callable[[Path], None], sentence: str) -> None:
    harm(clone)
    git(clone, "commit", "-q", "-a", "-m", "Harm", "--allow-empty")
    before = state(clone)
    with pytest.raises(ReleaseError, match=sentence):
        release.release(clone, NEXT, DAY)
    assert state(clone) == before


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
def test_change_that_is_made_meanwhile_is_kept_and_nothing_is_released(clone: Path) -> None:
    changelog = clone / "CHANGELOG.md"
    hook = clone / ".git" / "hooks" / "post-commit"
    hook.write_text(f"#!/bin/sh\necho meanwhile >{changelog}\n")
    hook.chmod(0o755)
    before = state(clone)
    with pytest.raises(ReleaseError, match="`git merge --quiet --ff-only` failed"):
        release.release(clone, NEXT, DAY)
    assert changelog.read_text() == "meanwhile\n"
    git(clone, "checkout", "-q", "CHANGELOG.md")
    assert state(clone) == before


# --- what is checked first ---


def changed(name: str, old: str, new: str) -> Callable[[Path], None]:
    """Commits that change of a file."""

    def change(clone: Path) -> None:
        file = clone / name
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))
        git(clone, "commit", "-q", "-a", "-m", "Change")

    return change


def not_committed(clone: Path) -> None:
    (clone / "new.py").touch()


def on_a_branch(clone: Path) -> None:
    git(clone, "checkout", "-q", "-b", "next")


def tagged(version: str) -> Callable[[Path], None]:
    return lambda clone: git(clone, "tag", f"v{version}") and None


def nothing(clone: Path) -> None:
    pass


LINE = f'"{__version__}"'


@pytest.mark.parametrize(
    ("version", "harm", "sentences"),
    [
        (NEXT, nothing, []),
        (__version__, nothing, []),  # the version in the code need not be released yet
        ("", nothing, ["'' is not a version: three numbers are, like 0.3.0."]),
        ("v0.3.0", nothing, ["'v0.3.0' is not a version: three numbers are, like 0.3.0."]),
        ("0.3", nothing, ["'0.3' is not a version: three numbers are, like 0.3.0."]),
        ("0.0.1", nothing, [f"0.0.1 is before {__version__}, which is released or stands in the code."]),
        (NEXT, tagged(NEXT), [f"{NEXT} is released already: its tag v{NEXT} is there."]),
        (NEXT, tagged("99.0.10"), [f"{NEXT} is before 99.0.10, which is released or stands in the code."]),
        ("99.0.10", tagged("99.0.9"), []),
        (NEXT, not_committed, ["There are changes that are not committed; `git status` shows them."]),
        (NEXT, on_a_branch, ["Releases are made on the branch main, and this is next."]),
        (NEXT, changed("CHANGELOG.md", "## [Unreleased]", "## Next"), ["CHANGELOG.md has no section [Unreleased]."]),
        (
            *(NEXT, changed("CHANGELOG.md", "\n- A thing.\n", "")),
            ["The section [Unreleased] of CHANGELOG.md is empty: write what users notice."],
        ),
        (
            *(NEXT, changed("pyproject.toml", REPOSITORY, "")),
            ["A release must say where its code is: add the public address as Repository to [project.urls] in pyproject.toml."],
        ),
        (
            *(NEXT, changed("pyproject.toml", LINE, '"0.1.0"')),
            [f"pyproject.toml and protocol/version.py and README.md name different versions: 0.1.0, {__version__}."],
        ),
        (
            *(NEXT, changed("protocol/version.py", "VERSION", "NUMBER")),
            ["protocol/version.py must name the version once, and does so 0 times."],
        ),
    ],
)
def test_each_thing_that_is_wrong_is_told_in_a_sentence(
    clone: Path, version: str, harm: Callable[[Path], None], sentences: list[str]
) -> None:
    harm(clone)
    assert release.problems(clone, version) == sentences


def test_all_that_is_wrong_is_told_at_once_and_nothing_is_changed(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_a_branch(clone)
    not_committed(clone)
    before = state(clone)
    monkeypatch.setattr(release, "ROOT", clone)
    monkeypatch.setattr("sys.argv", ["release.py", "0.3"])
    assert release.main() == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert [line.split()[0] for line in told.err.splitlines()] == ["No", "'0.3'", "Releases", "There"]
    assert state(clone) == before
