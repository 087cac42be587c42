"""`make screenshots`: pictures of the page of a small cluster for the documentation, in docs/images or in a folder that is named.

Three nodes run: one is killed, so that the others say so; tasks run, fail, wait for another attempt, and are dead.
"""

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from chromium import launched, link_of
from playwright.sync_api import Browser
from support import PATIENCE, RunningNode, eventually

import spoolnode

IMAGES = Path(__file__).parents[2] / "docs" / "images"
APP = """
import os, time
from spoolnode import current_task, spool

@spool(name="shop.mail")
def mail(number):
    time.sleep(0.002 * (number % 20))

@spool(name="shop.invoice", max_attempts=1)
def invoice(order):
    raise ValueError(f"order {order} has no address")

@spool(name="shop.stock", retry_base=600)
def stock():
    raise ConnectionRefusedError("the warehouse does not answer")

@spool(name="shop.resize")
def resize(photo):
    current_task().progress(0.1 * (photo % 7 + 2), f"photo {photo}")
    while not os.path.exists("door"):
        time.sleep(0.005)
"""


class Look(NamedTuple):
    """A picture."""

    tab: str
    options: dict[str, Any]
    """Of the browser."""
    width: int
    height: int
    """In pixels of the picture."""


LOOKS = {
    "page-light.png": Look("running", {"color_scheme": "light", "viewport": {"width": 1200, "height": 640}}, 1200, 640),
    "page-dark.png": Look("functions", {"color_scheme": "dark", "viewport": {"width": 1200, "height": 640}}, 1200, 640),
    "page-phone.png": Look("dead", {"color_scheme": "light", "viewport": {"width": 390, "height": 760}}, 390, 760),
}


@spoolnode.spool(name="shop.mail")
def mail(number: int) -> None: ...


@spoolnode.spool(name="shop.invoice", max_attempts=1)
def invoice(order: int) -> None: ...


@spoolnode.spool(name="shop.stock", retry_base=600)
def stock() -> None: ...


@spoolnode.spool(name="shop.resize")
def resize(photo: int) -> None: ...


def take(folder: Path) -> None:
    """Makes the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        alpha, beta, gamma = (_node(Path(place), name, stack) for name in ("alpha", "beta", "gamma"))
        alpha.start("--workers", "3", "--http", "127.0.0.1:0", "--tag", "web", app=APP)
        for other, tag in ((beta, "web"), (gamma, "gpu")):
            other.start("--workers", "2", "--discover", f"static://{alpha.via}", "--tag", tag, app=APP)
        _fill(alpha, gamma)
        with launched() as browser:
            for name, look in LOOKS.items():
                _shoot(browser, alpha, look, folder / name)


def _node(place: Path, name: str, stack: ExitStack) -> RunningNode:
    (place / name).mkdir()
    node = RunningNode(place / name, name)
    stack.callback(node.clean_up)
    return node


def _fill(alpha: RunningNode, gamma: RunningNode) -> None:
    """Gives the nodes something to show."""
    mail.options(via=alpha.via).spool_many([(number,) for number in range(400)])
    for order in (4711, 4712, 4720):
        invoice.options(via=alpha.via).spool(order)
    stock.options(via=alpha.via).spool()
    eventually(lambda: (now := alpha.status())["done"] >= 400 and now["dead"] == 3 and now["retrying"] == 1, "they ran")
    for photo in range(5):
        resize.options(via=alpha.via).spool(photo)
    eventually(lambda: alpha.status()["running"] == 3, "three run")
    eventually(lambda: alpha.status()["peers"].get("up") == 2, "the others are up")
    gamma.kill9()
    for number in range(12):
        mail.options(via=alpha.via, node="gamma").spool(number)
    eventually(lambda: alpha.status()["peers"].get("down") == 1, "one is down")


def _shoot(browser: Browser, node: RunningNode, look: Look, path: Path) -> None:
    context = browser.new_context(**look.options)
    context.set_default_timeout(PATIENCE * 1000)
    page = context.new_page()
    page.goto(link_of(node))
    page.get_by_text("live", exact=True).wait_for()
    page.evaluate("tab => { location.hash = tab }", f"#/{look.tab}")
    page.locator("main section.panel tbody tr").first.wait_for()
    if look.tab == "functions":
        page.locator("main canvas").first.wait_for()
    page.screenshot(path=path)
    context.close()


if __name__ == "__main__":
    take(Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES)
