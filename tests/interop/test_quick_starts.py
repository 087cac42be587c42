"""Each quick start holds literally: its blocks are typed into terminals in an empty folder, as a newcomer would."""

from pathlib import Path

import pytest
from documents import blocks, lines_to_type
from netns import Hosts
from real_programs import NGINX
from support import need
from terminals import Reader

LITERALLY = "docs/start-django.md"
"""The one that makes a virtual environment and installs into it; the others say the same lines."""
PAGES = [
    "docs/start-python.md", LITERALLY, "docs/start-fastapi.md", "docs/start-flask.md", "docs/start-uwsgi.md",
    "docs/start-nginx.md", "docs/start-raspberry-pi.md",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_quick_start_leads_to_a_task_that_ran(name: str, tmp_path: Path) -> None:
    need(NGINX)
    with Hosts(1) as hosts:
        reader = Reader(tmp_path, hosts, is_literal=name == LITERALLY)
        try:
            for block in blocks(name):
                reader.read(block)
        finally:
            reader.close()


def test_quick_starts_install_with_the_lines_that_are_typed_literally() -> None:
    proven = lines_to_type(LITERALLY)[:4]
    assert proven == ["mkdir mysite", "cd mysite", "python3 -m venv .venv", ". .venv/bin/activate"]
    for name in PAGES:
        lines = lines_to_type(name)
        assert [line.partition(" ")[0] for line in lines[:2]] == ["mkdir", "cd"], name
        assert lines[2:4] == proven[2:], name
        assert lines[4].startswith(("pip install ../spoolnode", "pip install '../spoolnode[")), name
