"""The headless Chromium of the system, driven by playwright. It asks nobody but the pages that it is told to open."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, sync_playwright
from support import RunningNode

Open = Callable[..., Page]
"""Opens the page of a node."""
PATH = "/usr/bin/chromium"
FOREIGN = "foreign.test"
"""A name of a stranger, which leads to this machine (DNS rebinding)."""
_ALONE = (
    "--no-sandbox",  # CI is root, and has no user namespaces
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    f"--host-resolver-rules=MAP {FOREIGN} 127.0.0.1",
)  # fmt: skip


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser that runs; ended in the end."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PATH, args=_ALONE)
        try:
            yield browser
        finally:
            browser.close()


def address_of(node: RunningNode) -> str:
    return f"http://{node.lines('ready')[-1]['http']}"


def link_of(node: RunningNode) -> str:
    """A new one-time link."""
    done = node.command("web")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[0]
