"""A real headless Chromium that opens the page of a node."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from chromium import Open, address_of, launched, link_of
from playwright.sync_api import Browser, BrowserContext, Page
from support import PATIENCE, RunningNode


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as running:
        yield running


@pytest.fixture
def context(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """Makes browser profiles of their own; closed at the end."""
    made: list[BrowserContext] = []

    def make(**options: Any) -> BrowserContext:
        made.append(browser.new_context(**options))
        made[-1].set_default_timeout(PATIENCE * 1000)
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def opened(context: Callable[..., BrowserContext]) -> Open:
    """Opens the page of a node in a new profile; with a session unless `session=False`, and then waits until it is live."""

    def open_page(node: RunningNode, tab: str = "", *, session: bool = True, **options: Any) -> Page:
        page = context(**options).new_page()
        if session:
            page.goto(link_of(node))
            page.get_by_text("live", exact=True).wait_for()
        else:
            page.goto(address_of(node))
            page.get_by_text("numbers only", exact=True).first.wait_for()
        if tab:
            page.evaluate("tab => { location.hash = tab }", f"#/{tab}")
        return page

    return open_page
