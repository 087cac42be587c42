"""Makes a release: `make release VERSION=0.3.0` sets the version, builds, checks, commits and tags.

It works in a worktree of its own. The checkout changes when all has gone well, in the last step, or not at all. It publishes
nothing: at its end it prints what does.
"""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.metadata import Metadata

ROOT = Path(__file__).parents[1]
BRANCH = "main"
VERSION = re.compile(r"(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*)){2}")
PLACES = {
    "pyproject.toml": re.compile(r'(?m)^(version = ")(.*)(")$'),
    "protocol/version.py": re.compile(r'(?m)^(VERSION = ")(.*)(")$'),
    "README.md": re.compile(r"(\bversion )(\d[\d.]*\d)(,)"),
}
"""Where the version stands, and what stands around it."""
CHANGELOG = "CHANGELOG.md"
UNRELEASED = "## [Unreleased]\n"


class ReleaseError(Exception):
    """The reasons against a release: a sentence for each."""


def release(root: Path, version: str, day: date) -> str:
    """Makes a release of the checkout `root`; returns what to tell of it."""
    if wrong := problems(root, version):
        raise ReleaseError("\n".join(wrong))
    tag = f"v{version}"
    with TemporaryDirectory() as scratch, ExitStack() as undo:
        with _worktree(root, Path(scratch, "tree")) as tree:
            _set_version(tree, version, day)
            _run(tree, "git", "commit", "--quiet", "--all", "--message", f"Release {version}")
            commit = _run(tree, "git", "rev-parse", "HEAD")
            built = _build(tree, Path(scratch, "built"))
        _check(root, built, version, Path(scratch, "venv"))
        kept = _keep(built, root / "dist", undo)
        _run(root, "git", "tag", "--annotate", "--message", f"spoolnode {version}", tag, commit)
        undo.callback(_run, root, "git", "tag", "--delete", tag)
        _run(root, "git", "merge", "--quiet", "--ff-only", commit)
        undo.pop_all()
    return _told(version, kept)


# --- what is checked first ---


def problems(root: Path, version: str) -> list[str]:
    """Why a release of that version cannot be made now; nothing is changed."""
    return [*_wrong_version(root, version), *_wrong_tree(root), *_wrong_changelog(root), *_wrong_urls(root)]


def _wrong_version(root: Path, version: str) -> Iterator[str]:
    if not VERSION.fullmatch(version):
        yield f"{version!r} is not a version: three numbers are, like 0.3.0."
        return
    found = {name: pattern.findall((root / name).read_text()) for name, pattern in PLACES.items()}
    yield from (
        f"{name} must name the version once, and does so {len(hits)} times." for name, hits in found.items() if len(hits) != 1
    )
    told = {hit for hits in found.values() for _, hit, _ in hits}
    if len(told) > 1:
        yield f"{' and '.join(PLACES)} name different versions: {', '.join(sorted(told))}."
    released = [tag[1:] for tag in _run(root, "git", "tag", "--list", "v*").split() if VERSION.fullmatch(tag[1:])]
    if version in released:
        yield f"{version} is released already: its tag v{version} is there."
    elif later := [other for other in {*released, *told} if VERSION.fullmatch(other) and _key(other) > _key(version)]:
        yield f"{version} is before {max(later, key=_key)}, which is released or stands in the code."


def _key(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def _wrong_tree(root: Path) -> Iterator[str]:
    branch = _run(root, "git", "rev-parse", "--abbrev-ref", "HEAD")
    if branch != BRANCH:
        yield f"Releases are made on the branch {BRANCH}, and this is {branch}."
    if _run(root, "git", "status", "--porcelain"):
        yield "There are changes that are not committed; `git status` shows them."


def _wrong_changelog(root: Path) -> Iterator[str]:
    _, heading, rest = (root / CHANGELOG).read_text().partition(UNRELEASED)
    told = re.split(r"(?m)^## ", rest)[0]
    if not heading:
        yield f"{CHANGELOG} has no section [Unreleased]."
    elif not re.search(r"(?m)^[^#\s]", told):
        yield f"The section [Unreleased] of {CHANGELOG} is empty: write what users notice."


def _wrong_urls(root: Path) -> Iterator[str]:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    if not project.get("urls", {}).get("Repository"):
        yield "A release must say where its code is: add the public address as Repository to [project.urls] in pyproject.toml."


# --- the release ---


@contextmanager
def _worktree(root: Path, tree: Path) -> Iterator[Path]:
    """The last commit once more, beside the checkout."""
    _run(root, "git", "worktree", "add", "--quiet", "--detach", str(tree))
    try:
        yield tree
    finally:
        _run(root, "git", "worktree", "remove", "--force", str(tree))


def _set_version(tree: Path, version: str, day: date) -> None:
    for name, pattern in PLACES.items():
        file = tree / name
        file.write_text(pattern.sub(rf"\g<1>{version}\g<3>", file.read_text()))
    changelog = tree / CHANGELOG
    changelog.write_text(changelog.read_text().replace(UNRELEASED, f"{UNRELEASED}\n## [{version}] - {day}\n", 1))


def _build(tree: Path, directory: Path) -> list[Path]:
    """The sdist and the wheel."""
    _run(tree, sys.executable, "-m", "hatchling", "build", "-d", str(directory))
    return sorted(directory.iterdir())


def _check(root: Path, built: list[Path], version: str, directory: Path) -> None:
    """Fails unless both say the version and are as PyPI wants them, and the wheel can be installed and says the version too."""
    for artifact in built:
        try:
            metadata = Metadata.from_email(_metadata_of(artifact))  # what PyPI checks, too
        except ExceptionGroup as error:
            raise ReleaseError(f"The metadata of {artifact.name} are wrong: {error.exceptions[0]}.") from error
        if str(metadata.version) != version:
            raise ReleaseError(f"{artifact.name} says that it is version {metadata.version}.")
    (wheel,) = (artifact for artifact in built if artifact.suffix == ".whl")
    _run(root, sys.executable, "-m", "twine", "check", "--strict", *map(str, built))
    _run(root, sys.executable, "-m", "check_wheel_contents", str(wheel))
    venv.create(directory, symlinks=True)
    python = str(directory / "bin" / "python")
    _run(directory, sys.executable, "-m", "pip", "--python", python, "install", "--quiet", str(wheel))
    said = _run(directory, str(directory / "bin" / "spoolnode"), "--version")
    if said != f"spoolnode {version}":
        raise ReleaseError(f"The installed wheel says {said!r} and not that it is version {version}.")


def _metadata_of(artifact: Path) -> bytes:
    if artifact.suffix == ".whl":
        with zipfile.ZipFile(artifact) as wheel:
            return next(wheel.read(name) for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    with tarfile.open(artifact) as sdist:
        member = sdist.extractfile(f"{artifact.name.removesuffix('.tar.gz')}/PKG-INFO")
        assert member is not None
        return member.read()


def _keep(built: list[Path], directory: Path, undo: ExitStack) -> list[Path]:
    directory.mkdir(exist_ok=True)
    kept = [directory / artifact.name for artifact in built]
    for artifact, place in zip(built, kept, strict=True):
        undo.callback(place.unlink, missing_ok=True)
        shutil.copy(artifact, place)
    return kept


def _told(version: str, kept: list[Path]) -> str:
    names = " ".join(f"dist/{artifact.name}" for artifact in kept)
    return (
        f"Version {version} is committed, tagged v{version}, and built: {names}. To publish it:\n"
        f"    git push --atomic origin {BRANCH} v{version}\n"
        f"    pipx run twine upload {names}\n"
    )


def _run(directory: Path, *command: str) -> str:
    """The output of a program. Raises ReleaseError with its last line if it fails."""
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().split("\n")
        raise ReleaseError(f"`{' '.join(command[:4])}` failed: {lines[-1]}")
    return done.stdout.strip()


def main() -> int:
    """The command."""
    version = sys.argv[1] if len(sys.argv) > 1 else ""
    try:
        sys.stdout.write(release(ROOT, version, datetime.now(UTC).date()))
    except ReleaseError as error:
        sys.stderr.write(f"No release.\n{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
