"""Each block of README.md and docs/ is played, or run by a test of its own, or says why it cannot be."""

from pathlib import Path

import pytest
from documents import FOR_USERS, ROOT, Block, blocks
from netns import Hosts
from playing import Play
from real_programs import NGINX
from support import need
from test_quick_starts import PAGES as QUICK_STARTS

BY_TESTS_OF_THEIR_OWN = {
    "README.md": {
        "Try it": "tests/cli/test_cli_join.py",
        "Five lines of Python": "tests/interop/test_readme.py",
        "Several machines": "tests/interop/test_readme.py",
    },
    "docs/api.md": {"Asking": "tests/system/test_api.py"},
    "docs/celery.md": {
        "Retries": "tests/interop/test_django.py",
        "Results and progress": "tests/interop/test_django.py",
    },
    "docs/django.md": {"Once, although a task may run twice": "tests/interop/test_django_postgresql.py"},
    "docs/docker.md": {"": "tests/docker/test_compose.py"},
    "docs/kubernetes.md": {"Start": "tests/interop/test_kubernetes.py"},
    "docs/operations.md": {
        "Looking and repairing": "tests/interop/test_readme.py",
        "Checking a machine": "tests/interop/test_readme.py",
    },
    "docs/start-docker.md": {"": "tests/docker/test_compose.py"},
    **{name: {"": "tests/interop/test_quick_starts.py"} for name in QUICK_STARTS},
    "docs/store.md": {"": "tests/store/test_store_page.py"},
    "docs/testing.md": {"": "tests/testing/test_examples_of_testing.py"},
    "docs/uwsgi.md": {
        "The example of uWSGI's manual": "tests/interop/test_examples.py",
        "Its web processes": "tests/interop/test_web_servers.py",
    },
    "docs/web-frameworks.md": {"": "tests/interop/test_web_servers.py"},
    "docs/wire.md": {"Call a function": "tests/interop/test_wire_page.py"},
}
"""By page and section ("": all of it), the test that reads the blocks from the page and runs them."""
NOT_RUN = 21
"""So many blocks say why they cannot be run."""


def own_test(name: str, block: Block) -> str:
    sections = BY_TESTS_OF_THEIR_OWN.get(name, {})
    return sections.get(block.section) or sections.get("", "")


def played(name: str) -> list[Block]:
    return [block for block in blocks(name) if not own_test(name, block) and not block.comment("not run")]


def test_tests_of_their_own_read_these_sections() -> None:
    for name, sections in BY_TESTS_OF_THEIR_OWN.items():
        for section, test in sections.items():
            text = (ROOT / test).read_text()
            assert f'"{name}"' in text, f"{test} does not read {name}"
            assert f'"{section}"' in text or not section, f"{test} does not read {section!r} of {name}"
            assert not section or any(block.section == section for block in blocks(name)), f"{name}: {section}"


def test_few_blocks_cannot_be_run_and_say_why() -> None:
    reasons = [block.comment("not run") for name in FOR_USERS for block in blocks(name)]
    assert len([reason for reason in reasons if reason]) == NOT_RUN


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FOR_USERS if played(name)])
def test_page_does_what_it_says(name: str, place: Path) -> None:
    need(NGINX)
    with Hosts(2) as hosts:
        for host, address in ((0, "10.0.0.1"), (0, "192.168.1.1"), (1, "10.0.0.2")):
            hosts.add_address(host, address)
        play = Play(place, hosts)
        try:
            for block in played(name):
                play.block(block)
        finally:
            play.end()
