"""`make screenshots` makes the pictures of the documentation, and those that are there have their sizes."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from screenshots import IMAGES, LOOKS
from support import PATIENCE

ROOT = Path(__file__).parents[2]
LARGEST = 150_000
"""Bytes of a picture: every clone has all of them."""


def check(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(LOOKS)
    for name, look in LOOKS.items():
        data = (folder / name).read_bytes()
        assert data.startswith(b"\x89PNG"), name
        assert struct.unpack(">II", data[16:24]) == (look.width, look.height), name
        assert len(data) < LARGEST, name


def test_the_pictures_of_the_documentation_are_there_and_small() -> None:
    check(IMAGES)
    shown = (ROOT / "docs" / "monitoring.md").read_text()
    assert all(f"](images/{name})" in shown for name in LOOKS)


@pytest.mark.slow
@pytest.mark.timeout(4 * PATIENCE)
def test_make_screenshots_makes_them(tmp_path: Path) -> None:
    (line,) = [line for line in (ROOT / "Makefile").read_text().splitlines() if "screenshots.py" in line]
    variables, python, script, arguments = line.split()
    assert (python, arguments) == (".venv/bin/python", "$(ARGS)")
    name, _, path = variables.partition("=")
    done = subprocess.run(
        [sys.executable, script, str(tmp_path)], cwd=ROOT, env={**os.environ, name: path}, timeout=3 * PATIENCE,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    check(tmp_path)
