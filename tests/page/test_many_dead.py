"""A node with a hundred thousand dead tasks: its page comes at once, and its event loop is never held."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chromium import Open, link_of
from loop_steps import environment_for, long_steps
from playwright.sync_api import BrowserContext, Page, expect
from support import PATIENCE, RunningNode

from spoolnode.client.control import ask

pytestmark = pytest.mark.slow

MANY = 100_000
KINDS = 5
SOON = 1000
"""Milliseconds within which the page shows..."""
TIMES_AS_LONG = 4
"""...or within so many times as long as on the same machine without a dead task, if that is busy."""
LONGEST_STEP = 20.0
"""Milliseconds of processor time that a step of the event loop may take."""
TRIES = 3
"""A long step is long each time. One that other programs made slower is not."""
FIRST_PAINT = """
new Promise((found) => new PerformanceObserver((list) => list.getEntriesByName("first-contentful-paint").map(
  (entry) => found(entry.startTime))).observe({ type: "paint", buffered: true }))
"""

expect.set_options(timeout=PATIENCE * 1000)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node with so many dead tasks, which does not run yet."""
    node = RunningNode(tmp_path_factory.mktemp("full"))
    make_dead(node.spool / "dead")
    yield node
    node.clean_up()


def make_dead(folder: Path) -> None:
    """So many dead tasks of a few kinds. Files of one kind are one file with many names."""
    folder.mkdir(parents=True)
    for kind in range(KINDS):
        first = folder / f"uwsgi_spoolfile_on_host_{kind}_0_1_1"
        first.write_bytes(spool_file({"spool_func": f"page.f{kind}", "spool_reason": "ValueError: no"}))
        for number in range(1, MANY // KINDS):
            os.link(first, folder / f"uwsgi_spoolfile_on_host_{kind}_{number}_1_1")


def spool_file(variables: dict[str, str]) -> bytes:
    block = b"".join(
        len(part).to_bytes(2, "little") + part for pair in variables.items() for part in (pair[0].encode(), pair[1].encode())
    )
    return b"\x11" + len(block).to_bytes(2, "little") + b"\0" + block


@pytest.fixture
def started(full: RunningNode) -> Iterator[RunningNode]:
    """It, just started: it has read none of them yet."""
    yield full.start("--http", "127.0.0.1:0")
    full.stop()


def first_paint(page: Page, node: RunningNode) -> float:
    """Milliseconds until something is seen."""
    page.goto(link_of(node))
    return float(page.evaluate(FIRST_PAINT))


def paint_after_start(node: RunningNode, page: Page) -> float:
    """The first paint of a node that was just started."""
    node.start("--http", "127.0.0.1:0")
    try:
        return first_paint(page, node)
    finally:
        node.stop()


def test_the_page_shows_within_a_second_although_no_dead_task_was_read_yet(
    full: RunningNode, node: RunningNode, context: Callable[..., BrowserContext]
) -> None:
    tries = []
    for _ in range(TRIES):
        without, with_dead = (paint_after_start(each, context().new_page()) for each in (node, full))
        if with_dead < max(SOON, TIMES_AS_LONG * without):
            return
        tries.append((without, with_dead))
    pytest.fail(f"milliseconds without and with dead tasks: {tries}")


def test_the_menu_counts_the_dead_tasks_and_their_functions(started: RunningNode, opened: Open) -> None:
    page = opened(started, "")
    expect(page.get_by_role("link", name="Dead")).to_contain_text("100,000")
    expect(page.get_by_role("link", name="Functions")).to_contain_text(str(KINDS))


def test_the_first_page_of_the_list_comes_with_the_exact_count(started: RunningNode, opened: Open) -> None:
    page = opened(started, "dead")
    expect(page.get_by_role("region", name="Tasks, dead").locator("tbody tr")).to_have_count(100)
    kinds = page.get_by_role("region", name="Dead tasks by kind").locator("tbody tr")
    expect(kinds).to_have_count(KINDS)
    expect(kinds.first).to_contain_text("20,000")
    page.get_by_role("button", name="Next").click()
    expect(page.get_by_text("101 – 200")).to_be_visible()


def hold(node: RunningNode, steps: Path, *requests: tuple[str, str]) -> list[str]:
    """The steps of the loop that took too long while the node answered."""
    long_steps(steps)  # those before
    for method, path in requests:
        ask(str(node.spool), method, path, PATIENCE)
    return [step for step in long_steps(steps) if float(step.split()[0]) > LONGEST_STEP]


LOOKS = [("GET", path) for path in ("/functions", "/dead", "/tasks?state=dead", "/node", "/cluster", "/warnings")]


def test_the_event_loop_is_not_held_when_they_are_read_counted_and_listed_and_when_a_thousand_are_retried(
    full: RunningNode, tmp_path: Path
) -> None:
    measured = environment_for(steps := tmp_path / "steps")
    for last in range(TRIES):
        full.start("--http", "127.0.0.1:0", **measured)
        for path in ("/openapi.json", "/node", "/history"):  # what is loaded by the first request of all
            ask(str(full.spool), "GET", path)
        cold = hold(full, steps, *LOOKS)
        retried = hold(full, steps, ("POST", "/dead/retry?limit=1000"))
        changed = hold(full, steps, *LOOKS)
        full.stop()
        if not cold + retried + changed:
            break
        assert last < TRIES - 1, f"cold: {cold}, while some are retried: {retried}, after the change: {changed}"
