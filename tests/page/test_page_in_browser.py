"""The page in a real Chromium: it moves with the tasks, acts on what was chosen only, tells strangers nothing, suits all."""

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import axe_core_python
import pytest
from chromium import FOREIGN, Open, address_of, link_of
from playwright.sync_api import BrowserContext, Page, Response, Route, expect
from support import PATIENCE, RunningNode, eventually

import spoolnode
from spoolnode.client.control import ask

pytestmark = pytest.mark.slow

EVIL = "<img src=x onerror='window.hit=1'>"
SECRET = "s3cret-of-a-customer"
APP = f"""
import os, time
from spoolnode import current_task, spool, timer

@spool(name="browser.long")
def long(**_):
    current_task().progress(0.4, "page 4 of 10")
    while not os.path.exists("door"):
        time.sleep(0.005)

@spool(name="browser.pay")
def pay(**_):
    if not os.path.exists("mended"):
        raise ValueError("no such customer: {SECRET}")

@spool(name="browser.mail")
def mail(**_):
    raise ConnectionRefusedError("no server")

@spool(name={EVIL!r})
def evil(**_):
    raise ValueError({EVIL!r})

@timer(3600)
def hourly():
    pass
"""
ONLY_EVENTS = """
const later = window.setTimeout;
window.setTimeout = (call, ms, ...all) => ([2000, 3000, 5000, 15000, 30000, 60000].includes(ms) ? 0 : later(call, ms, ...all));
"""
"""The page does not ask by the clock any more: these are its pauses between two questions."""
NOTE_SHIFTS = """
window.shifts = [];
window.settled = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
new PerformanceObserver((list) => shifts.push(...list.getEntries())).observe({ type: "layout-shift", buffered: true });
"""
"""Each time that something on the page moves without being asked to."""
AXE = Path(axe_core_python.__file__).with_name("axe.min.js").read_text()
WITH_CHARGE = {"serious", "critical"}

expect.set_options(timeout=PATIENCE * 1000)


@spoolnode.spool(name="browser.long")
def long(**_: str) -> None: ...


@spoolnode.spool(name="browser.pay")
def pay(**_: str) -> None: ...


@spoolnode.spool(name="browser.mail")
def mail(**_: str) -> None: ...


@spoolnode.spool(name=EVIL)
def evil(**_: str) -> None: ...


@pytest.fixture
def running(node: RunningNode) -> Iterator[RunningNode]:
    """A node with the application above; a task that waits at the door holds one of its two workers."""
    yield node.start("--workers", "2", "--max-attempts", "1", "--http", "127.0.0.1:0", app=APP)
    (node.directory / "door").touch()


def deaths(node: RunningNode) -> dict[str, int]:
    """How many tasks are dead, by function."""
    return {row["function"]: row["tasks"] for row in ask(str(node.spool), "GET", "/dead")["items"]}


def test_a_task_that_starts_and_ends_moves_the_page_by_its_events_alone(
    running: RunningNode, context: Callable[..., BrowserContext]
) -> None:
    page = context().new_page()
    page.add_init_script(ONLY_EVENTS)
    page.goto(link_of(running))
    page.get_by_text("live", exact=True).wait_for()
    expect(page.get_by_text("No task runs now.")).to_be_visible()
    long.options(via=running.via).spool()
    rows = page.locator('main a[href^="#/task/"]')
    expect(rows).to_have_count(1)
    expect(page.get_by_text("page 4 of 10")).to_be_visible()
    (running.directory / "door").touch()
    expect(rows).to_have_count(0)


def test_one_kind_of_dead_tasks_is_retried_from_the_page_and_the_rest_stays(running: RunningNode, opened: Open) -> None:
    for _ in range(3):
        pay.options(via=running.via).spool()
    for _ in range(2):
        mail.options(via=running.via).spool()
    eventually(lambda: deaths(running) == {"browser.pay": 3, "browser.mail": 2}, "they have died")
    page = opened(running, "dead")
    (running.directory / "mended").touch()
    page.get_by_role("button", name="Retry all of browser.pay, ValueError").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Retry 3 tasks?")
    dialog.get_by_role("button", name="Retry 3").click()
    expect(page.get_by_text("3 tasks of browser.pay, ValueError: ready again")).to_be_visible()
    eventually(lambda: ask(str(running.spool), "GET", "/node")["done"] == 3, "they ran, and ended well")
    assert deaths(running) == {"browser.mail": 2}
    kinds = page.get_by_role("region", name="Dead tasks by kind").locator("tbody tr")
    expect(kinds).to_have_count(1)
    expect(kinds).to_contain_text("browser.mail")


@pytest.fixture
def alpha_and_beta(tmp_path: Path) -> Iterator[tuple[RunningNode, RunningNode]]:
    """Two nodes with mutual TLS. Beta trusts operators of alpha; alpha knows it."""
    from spoolnode.cluster import authority

    nodes: dict[str, RunningNode] = {}
    authority.init(tmp_path / "ca")
    options = {"beta": ["--trust-operators-of", "alpha", "--max-attempts", "1"], "alpha": []}
    try:
        for name, more in options.items():
            (tmp_path / name).mkdir()
            made = authority.issue(tmp_path / "ca", name, 30, tmp_path / name)
            tls = ["--tls-cert", str(made.certificate), "--tls-key", str(made.key), "--tls-ca", str(made.authority)]
            known = [part for each in nodes.values() for part in ("--discover", f"static://{each.via}")]
            nodes[name] = RunningNode(tmp_path / name, name)
            nodes[name].start("--http", "127.0.0.1:0", *tls, *known, *more, app=APP)
        yield nodes["alpha"], nodes["beta"]
    finally:
        for node in nodes.values():
            node.clean_up()


def test_the_page_of_one_node_retries_one_kind_of_dead_tasks_of_another(
    alpha_and_beta: tuple[RunningNode, RunningNode], opened: Open
) -> None:
    alpha, beta = alpha_and_beta
    for task in (pay, pay, mail):
        task.options(via=beta.via).spool()
    eventually(lambda: deaths(beta) == {"browser.pay": 2, "browser.mail": 1}, "they have died")
    page = opened(alpha, "dead")
    expect(page.get_by_text("No task is dead.")).to_be_visible()
    page.get_by_role("combobox", name="Node").select_option("beta")
    (beta.directory / "mended").touch()
    page.get_by_role("button", name="Retry all of browser.pay, ValueError").click()
    page.get_by_role("dialog").get_by_role("button", name="Retry 2").click()
    expect(page.get_by_text("2 tasks of browser.pay, ValueError: ready again")).to_be_visible()
    eventually(lambda: deaths(beta) == {"browser.mail": 1}, "they ran, and ended well")
    beta.wait_for_log("asked", what="POST /api/v1/dead/retry", by=" on alpha")
    assert findings(page) == []
    page.get_by_role("combobox", name="Node").select_option("alpha")
    expect(page.get_by_text("No task is dead.")).to_be_visible()
    stranger = opened(alpha, session=False)
    expect(stranger.get_by_role("link", name="beta")).to_have_attribute("href", address_of(beta))
    stranger.goto(f"{address_of(alpha)}/?node=beta")
    expect(stranger.get_by_text("this needs a session")).to_be_visible()


def test_a_killed_node_shows_as_down(running: RunningNode, tmp_path: Path, opened: Open) -> None:
    (tmp_path / "other").mkdir()
    beta = RunningNode(tmp_path / "other", "beta")
    try:
        beta.start("--discover", f"static://{running.via}")
        page = opened(running)
        row = page.get_by_role("region", name="Nodes").get_by_role("row", name="beta")
        expect(row).to_contain_text("up")
        beta.kill9()
        expect(row).to_contain_text("down")
    finally:
        beta.clean_up()


def test_the_page_shows_before_the_functions_are_told_and_nothing_moves_when_they_come(
    running: RunningNode, context: Callable[..., BrowserContext]
) -> None:
    page, held_back, is_held_back = context().new_page(), list[Route](), True
    page.add_init_script(NOTE_SHIFTS)
    page.route("**/api/v1/functions", lambda route: held_back.append(route) if is_held_back else route.continue_())
    pay.options(via=running.via).spool()
    eventually(lambda: deaths(running) == {"browser.pay": 1}, "it has died")
    page.goto(link_of(running))
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    expect(page.get_by_text("No task runs now.")).to_be_visible()
    tab = page.get_by_role("link", name="Functions")
    expect(tab).to_contain_text("–")
    shifts = page.evaluate("shifts.length")
    is_held_back = False
    for route in held_back:
        route.continue_()
    expect(tab).to_contain_text("1")
    assert page.evaluate("settled().then(() => shifts.length)") == shifts
    tab.click()
    expect(page.get_by_role("region", name="Functions")).to_contain_text("browser.pay")


def test_a_function_has_plots_of_its_runs_and_of_how_long_they_took_and_waited(running: RunningNode, opened: Open) -> None:
    pay.options(via=running.via).spool()
    eventually(lambda: deaths(running) == {"browser.pay": 1}, "it has died")
    page = opened(running, "functions")
    row = page.get_by_role("region", name="Functions").get_by_role("row", name="browser.pay")
    for said in ("0 done, 1 failed", "run p50 and p95 ", "wait p50 and p95 "):
        expect(row.get_by_role("img", name=f"browser.pay in the last hour: {said}").locator("canvas")).to_be_visible()


class Blank(http.server.BaseHTTPRequestHandler):
    """An empty page of a stranger."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.send_header("Content-Type", "text/html")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stranger() -> Iterator[str]:
    """The address of a page of a stranger."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Blank)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://{FOREIGN}:{server.server_address[1]}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_page_of_a_stranger_and_a_foreign_name_get_403_although_the_browser_has_a_session(
    running: RunningNode, stranger: str, opened: Open
) -> None:
    page = opened(running)
    port = address_of(running).rpartition(":")[2]
    rebound = page.goto(f"http://{FOREIGN}:{port}/api/v1/node")
    assert rebound is not None
    assert rebound.status == 403
    page.goto(stranger)
    action = f"{address_of(running)}/api/v1/pause"
    with page.expect_response(action) as answered:
        page.evaluate(
            "url => { document.body.innerHTML = `<form method=post action=${url}>`; document.forms[0].submit() }", action
        )
    assert answered.value.status == 403
    assert ask(str(running.spool), "GET", "/pauses") == {"everything": False, "functions": []}


def received(page: Page, node: RunningNode) -> list[bytes]:
    """The bodies of all answers while each part of the page is looked at."""
    identity = ask(str(node.spool), "GET", "/tasks?state=dead")["items"][0]["id"]
    answers: list[Response] = []

    def note(answer: Response) -> None:
        if "event-stream" not in answer.headers.get("content-type", ""):  # that one never ends
            answers.append(answer)

    page.on("response", note)
    for part in ("running", "waiting", "later", "retrying", "dead", "outbox", "ended", "timers", "functions", f"task/{identity}"):
        with page.expect_response("**/api/v1/functions"):
            page.evaluate("part => { location.hash = part }", f"#/{part}")
    return [answer.body() for answer in answers]


def test_without_a_session_no_contents_are_in_any_byte_that_the_browser_gets(running: RunningNode, opened: Open) -> None:
    pay.options(via=running.via).spool(name=SECRET)
    eventually(lambda: deaths(running) == {"browser.pay": 1}, "it has died")
    bodies = received(opened(running, session=False), running)
    assert any(b'"told_at"' in body for body in bodies), "numbers are there"
    assert not any(SECRET.encode() in body for body in bodies)
    with_session = received(opened(running), running)
    assert any(SECRET.encode() in body for body in with_session), "this is how it would be seen"


def test_markup_in_arguments_names_tags_and_errors_is_text(running: RunningNode, opened: Open) -> None:
    evil.options(via=running.via).spool(name=EVIL)
    eventually(lambda: deaths(running) == {EVIL: 1}, "it has died")
    page = opened(running)

    def with_tag(route: Any) -> None:
        answer = route.fetch()
        items = [{**row, "tags": [EVIL]} for row in answer.json()["items"]]  # a node takes no such tag
        route.fulfill(response=answer, json={"items": items})

    page.route("**/api/v1/cluster", with_tag)
    expect(page.get_by_role("region", name="Nodes").get_by_text(EVIL)).to_be_visible()
    page.evaluate("location.hash = '#/functions'")
    expect(page.get_by_role("region", name="Functions").get_by_text(EVIL)).to_be_visible()
    page.evaluate("location.hash = '#/dead'")
    dead = page.get_by_role("region", name="Tasks, dead")
    expect(dead.get_by_text(EVIL, exact=True)).to_be_visible()
    expect(dead.get_by_text(f"ValueError: {EVIL}")).to_be_visible()
    dead.locator("a[data-row]").click()
    expect(page.locator("dl.facts").get_by_text(EVIL).first).to_be_visible()
    assert page.locator("img").count() == 0
    assert page.evaluate("window.hit") is None


LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}


def findings(page: Page) -> list[str]:
    """The serious findings of axe-core."""
    page.evaluate(AXE)
    found = page.evaluate("axe.run()")
    return [
        f"{each['id']}: {node['html'][:200]} {node['failureSummary']}"
        for each in found["violations"]
        if each["impact"] in WITH_CHARGE
        for node in each["nodes"]
    ]


CUT = """
[...document.querySelectorAll("td .tag, td .note, td button, td.id a")].filter((element) => {
  const own = element.getBoundingClientRect();
  const around = [element.closest("td"), element.closest(".scroll")].map((each) => each.getBoundingClientRect());
  return own.width && around.some((each) => own.left < each.left - 1 || own.right > each.right + 1);
}).map((element) => element.textContent)
"""
"""What of tags, buttons, notes at other nodes and ids cannot be seen."""


@pytest.mark.parametrize("width", [390, 1200])
def test_tags_and_tasks_for_a_node_that_is_down_and_the_ends_of_ids_are_seen_whole(
    running: RunningNode, opened: Open, width: int
) -> None:
    def with_a_dead_peer(route: Any) -> None:
        answer = route.fetch()
        (here,) = answer.json()["items"]
        peer = {**here, "here": False, "name": "worker-17", "id": "0" * 12, "state": "down", "tags": ["gpu", "eu-west-1"]}
        peer |= {"outbox": 512, "retry_in_seconds": 27.0, "reason": "it does not answer"}
        route.fulfill(response=answer, json={"items": [{**here, "tags": ["web", "eu-west-1"]}, peer]})

    for _ in range(3):
        pay.options(via=running.via).spool()
    eventually(lambda: deaths(running) == {"browser.pay": 3}, "they have died")
    page = opened(running, "dead", viewport={"width": width, "height": 800})
    page.route("**/api/v1/cluster", with_a_dead_peer)
    expect(page.get_by_text("512 here for it").filter(visible=True)).to_have_count(1)
    ids = page.locator("td.id a")
    expect(ids).to_have_count(3)
    assert page.evaluate(CUT) == []
    assert len(set(ids.all_inner_texts())) == 3


@pytest.mark.parametrize("look", LOOKS)
def test_axe_has_no_serious_finding_on_any_part_of_the_page(running: RunningNode, opened: Open, look: str) -> None:
    long.options(via=running.via).spool()
    pay.options(via=running.via).spool()
    mail.options(via=running.via, at=4e9).spool()
    mail.options(via=running.via, node="beta").spool()
    eventually(lambda: deaths(running) == {"browser.pay": 1}, "it has died")
    page = opened(running, **LOOKS[look])
    identity = ask(str(running.spool), "GET", "/tasks?state=dead")["items"][0]["id"]
    shows = {
        "running": "region[name='Tasks, running']", "later": "region[name='Tasks, later']", "dead": "region[name='Tasks, dead']",
        "outbox": "region[name='Tasks, outbox']", "ended": "region[name='Tasks, ended']",
        "timers": "region", "functions": "region[name='Functions']",
    }  # fmt: skip
    for tab, region in shows.items():
        page.evaluate("tab => { location.hash = tab }", f"#/{tab}")
        page.locator(f"main section.panel >> role={region}").first.wait_for()
        assert findings(page) == [], tab
    page.evaluate("tab => { location.hash = tab }", f"#/task/{identity}")
    page.locator("article").wait_for()
    assert findings(page) == [], "a task"
    page.keyboard.press("?")
    page.get_by_role("dialog").wait_for()
    assert findings(page) == [], "a dialog"


def test_the_keyboard_is_enough(running: RunningNode, opened: Open) -> None:
    pay.options(via=running.via).spool()
    eventually(lambda: deaths(running) == {"browser.pay": 1}, "it has died")
    page = opened(running, "dead")
    dialog = page.get_by_role("dialog")
    page.get_by_role("region", name="Tasks, dead").locator("a[data-row]").wait_for()
    page.keyboard.press("?")
    expect(dialog).to_contain_text("Keys")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.type("no such text")
    expect(page.get_by_text("No task on this page of the list has that text.")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("region", name="Tasks, dead").locator("tbody tr")).to_have_count(1)
    page.keyboard.press("j")  # the kind
    page.keyboard.press("j")  # its task
    page.keyboard.press("Enter")
    expect(page.locator("article h2")).to_have_text("browser.pay")
    page.keyboard.press("Escape")
    page.get_by_role("region", name="Tasks, dead").locator("a[data-row]").wait_for()
    (running.directory / "mended").touch()
    page.keyboard.press("j")
    page.keyboard.press("r")
    expect(dialog).to_contain_text("Retry 1 task?")
    page.keyboard.press("Tab")
    expect(dialog.get_by_role("button", name="Retry 1")).to_be_focused()
    page.keyboard.press("Enter")
    eventually(lambda: ask(str(running.spool), "GET", "/node")["done"] == 1, "it ran, and ended well")
