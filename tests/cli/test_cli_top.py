"""`top` of real nodes: driven by textual's pilot, and once in a real terminal of 80 columns and 24 lines."""

import asyncio
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pyte
import pytest
from support import PATIENCE, RunningNode, environment, eventually
from textual.pilot import Pilot
from textual.widgets import Static

import spoolnode
from spoolnode.cli.top_screen import Confirm, Lines, Sheet, Tasks, Top
from spoolnode.client.control import ask

FIRST_GREY = 232
"""Of the 256 colours of a terminal; the greys are the last ones."""
APP = """
from pathlib import Path
from time import sleep

from spoolnode import current_task, spool

@spool(name="top.slow")
def slow():
    current_task().progress(0.4, "page 4 of 10")
    while not Path("door").exists():
        sleep(0.02)

@spool(name="top.pay")
def pay(n):
    raise ValueError("no such [customer]")
"""


@spoolnode.spool(name="top.slow")
def slow() -> None: ...


@spoolnode.spool(name="top.pay")
def pay(n: int) -> None: ...


@pytest.fixture
def busy(node: RunningNode) -> RunningNode:
    """A node that runs one task, and has three dead ones."""
    node.start("--workers", "2", "--max-attempts", "1", app=APP)
    slow.options(via=node.via).spool()
    for number in range(3):
        pay.options(via=node.via).spool(number)
    eventually(lambda: (status(node)["running"], status(node)["dead"]) == (1, 3), "one runs, three are dead")
    return node


def status(node: RunningNode) -> dict[str, Any]:
    found: dict[str, Any] = ask(str(node.spool), "GET", "/node")
    return found


def drive(node: RunningNode, play: Callable[[Top, "Pilot[None]"], Awaitable[None]]) -> None:
    """Plays with a `top` of that node."""

    async def run() -> None:
        top = Top(str(node.spool))
        async with top.run_test(size=(80, 24), notifications=True) as pilot:
            await play(top, pilot)

    asyncio.run(run())


async def until(pilot: "Pilot[None]", condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not in time: {what}"
        await pilot.pause(0.02)
    return value


def rows(top: Top, name: str) -> list[list[str]]:
    table = top.screen_stack[0].query_one(f"#{name}", Lines)
    return [[str(cell) for cell in table.get_row_at(number)] for number in range(table.row_count)]


def text_of(top: Top, name: str) -> str:
    return str(top.screen_stack[0].query_one(f"#{name}", Static).content)


def said(top: Top) -> list[str]:
    return [notice.message for notice in top._notifications]


async def go_to(top: Top, pilot: "Pilot[None]", name: str) -> None:
    """Presses Tab until that table has the cursor."""
    await until(pilot, lambda: rows(top, name), f"{name} has a line")
    while top.focused is None or top.focused.id != name:
        await pilot.press("tab")


def test_it_shows_nodes_functions_what_runs_and_what_is_dead(busy: RunningNode) -> None:
    async def play(top: Top, pilot: "Pilot[None]") -> None:
        await until(pilot, lambda: rows(top, "dead") and rows(top, "running"), "the first look")
        assert text_of(top, "head").startswith("testnode  up ")
        assert "3 dead" in text_of(top, "head")
        ((name, state, _, work, _, outbox, dead, _),) = rows(top, "nodes")
        assert (name, state, work, outbox, dead) == ("testnode (here)", "running", "1/2", "0", "3")
        assert "! 3 tasks died on testnode in the last hour, of top.pay" in text_of(top, "note")
        assert {row[0]: row[1:4] for row in rows(top, "functions")} == {"top.pay": ["0", "0", "3"], "top.slow": ["1", "0", "0"]}
        ((_, function, _, progress, _),) = rows(top, "running")
        assert (function, progress) == ("top.slow", "40% page 4 of 10")
        assert [row[:3] for row in rows(top, "dead")] == [["3", "top.pay", "ValueError"]]

    drive(busy, play)


def test_enter_leads_from_a_kind_to_its_tasks_and_to_the_story_of_one(busy: RunningNode) -> None:
    async def play(top: Top, pilot: "Pilot[None]") -> None:
        await go_to(top, pilot, "dead")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(top.screen, Tasks) and top.screen.query_one(Lines).row_count == 3, "its tasks")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(top.screen, Sheet), "the story")
        story = str(top.screen.query_one(Static).content)
        assert "ValueError: no such [customer]" in story
        assert "Traceback (most recent call last):" in story
        assert " accepted from " in story
        await pilot.press("escape", "escape")
        assert top.screen is top.screen_stack[0]

    drive(busy, play)


def test_a_screen_that_is_closed_while_it_looks_ends_quietly(busy: RunningNode) -> None:
    async def play(top: Top, pilot: "Pilot[None]") -> None:
        tasks = Tasks(list)
        await top.push_screen(tasks)
        await top.pop_screen()
        await tasks.look()

    drive(busy, play)


def test_warnings_are_a_line_each_and_a_key_shows_all(busy: RunningNode) -> None:
    for function in ("a", "b", "c"):
        ask(str(busy.spool), "POST", f"/pause?function=top.{function}")

    async def play(top: Top, pilot: "Pilot[None]") -> None:
        await until(pilot, lambda: text_of(top, "note"), "the first look")
        first, second, more = text_of(top, "note").splitlines()
        assert [first[:8], second[:8], more] == ["! 3 task", "! top.a ", "! 2 more warnings: w shows them"]
        await pilot.press("w")
        await until(pilot, lambda: isinstance(top.screen, Sheet), "all of them")
        text = str(top.screen.query_one(Static).content)
        assert [f"top.{name} is paused on testnode" in text for name in ("a", "b", "c", "d")] == [True, True, True, False]
        await pilot.press("escape")
        assert top.screen.query_one("#note").size.height == 3
        assert top.screen.query_one("#dead").size.height > 3, "there is room for the tables"

    drive(busy, play)


async def asks(top: Top, pilot: "Pilot[None]", key: str) -> None:
    """Presses a key that asks before it acts. Returns when it has asked."""
    await pilot.press(key)
    await until(pilot, lambda: isinstance(top.screen, Confirm), "it asks")


def test_keys_retry_a_kind_pause_a_function_and_cancel_a_task_after_a_question(busy: RunningNode) -> None:
    async def play(top: Top, pilot: "Pilot[None]") -> None:
        await go_to(top, pilot, "dead")
        await asks(top, pilot, "p")
        await pilot.press("y")
        await until(
            pilot, lambda: "! top.pay is paused on testnode. Go on: spoolnode resume" in text_of(top, "note"), "it is paused"
        )
        await asks(top, pilot, "r")
        assert "Retry 3 dead tasks of top.pay, ValueError?" in str(top.screen.query_one(Static).content)
        await pilot.press("n")
        assert status(busy)["dead"] == 3
        await asks(top, pilot, "r")
        await pilot.press("y")
        await until(pilot, lambda: not rows(top, "dead"), "none is dead")
        assert status(busy)["waiting"] == 3, "the pause holds them back"
        await go_to(top, pilot, "running")
        await asks(top, pilot, "c")
        await pilot.press("y")
        await until(pilot, lambda: "it is cancelled" in said(top), "it says so")
        await go_to(top, pilot, "functions")
        await asks(top, pilot, "p")
        assert "Resume top.pay?" in str(top.screen.query_one(Static).content)

    drive(busy, play)


def test_a_drain_ends_the_node_and_what_is_declined_is_a_sentence(node: RunningNode) -> None:
    node.start(app=APP)

    async def play(top: Top, pilot: "Pilot[None]") -> None:
        await go_to(top, pilot, "nodes")
        await asks(top, pilot, "d")
        await pilot.press("y")
        await until(pilot, lambda: "no node runs on the spool" in text_of(top, "note"), "the node has ended")
        await asks(top, pilot, "d")
        await pilot.press("y")
        await until(pilot, lambda: any("no node runs on the spool" in text for text in said(top)), "it says why not")

    drive(node, play)
    assert node.wait() == 0


def test_a_restart_is_told_and_it_goes_on(busy: RunningNode) -> None:
    async def play(top: Top, pilot: "Pilot[None]") -> None:
        await go_to(top, pilot, "dead")
        busy.kill9()
        await until(pilot, lambda: "no node runs on the spool" in text_of(top, "note"), "it says so")
        assert rows(top, "dead"), "the last look stays"
        (busy.directory / "door").touch()
        await asyncio.to_thread(busy.start, app=APP, wait=False)  # a notice may be gone when it is ready
        await until(pilot, lambda: "the node runs again" in said(top), "it comes back")
        await asyncio.to_thread(busy.wait_until_ready)
        await until(pilot, lambda: "no node" not in text_of(top, "note"), "all is well")

    drive(busy, play)


class Terminal:
    """A terminal of 80 columns and 24 lines, in which a command runs."""

    def __init__(self, *command: str, **changes: str) -> None:
        self._screen = pyte.Screen(80, 24)
        self._stream = pyte.ByteStream(self._screen)
        self._ours, theirs = pty.openpty()
        self.raw = b""
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            env=environment(TERM="xterm-256color", COLORTERM="", **changes),
        )  # fmt: skip
        os.close(theirs)

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def read(self) -> bool:
        """Takes what has come. Returns whether more may come."""
        if select.select([self._ours], [], [], 0.05)[0]:
            try:
                data = os.read(self._ours, 1 << 16)
            except OSError:  # the other end is closed
                return False
            self.raw += data
            self._stream.feed(data)
        return True

    def shows(self, *texts: str) -> None:
        """Returns when all these are on the screen."""

        def shown() -> bool:
            self.read()
            screen = "\n".join(self._screen.display)
            return all(text in screen for text in texts)

        eventually(shown, f"the terminal shows {texts}; it has\n" + "\n".join(self._screen.display))

    def ended(self) -> int:
        while self.read():
            pass
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        os.close(self._ours)


def test_in_a_terminal_of_80_by_24_without_colour(busy: RunningNode) -> None:
    terminal = Terminal(sys.executable, "-m", "spoolnode", "top", "-Q", str(busy.spool), NO_COLOR="1")
    try:
        terminal.shows("testnode (here)", "top.slow", "40% page 4 of 10", "ValueError", "q quit", "? help")
        terminal.type("?")
        terminal.shows("drain this node")
        terminal.type("q")
        terminal.shows("testnode (here)")
        terminal.type("q")
        assert terminal.ended() == 0
        colours = {int(colour) for colour in re.findall(rb"[34]8;5;(\d+)", terminal.raw)}
        assert colours <= {*range(FIRST_GREY, 256)}, "all are greys"
        assert b"8;2;" not in terminal.raw, "there are no others"
    finally:
        terminal.close()


def test_it_needs_a_terminal_and_textual_and_says_so_in_a_sentence(busy: RunningNode, tmp_path: Path) -> None:
    done = busy.command("top")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "needs a terminal" in done.stderr
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "textual.py").write_text("raise ModuleNotFoundError('no textual', name='textual')")
    path = f"{tmp_path / 'hidden'}:{environment()['PYTHONPATH']}"
    terminal = Terminal(sys.executable, "-m", "spoolnode", "top", "-Q", str(busy.spool), PYTHONPATH=path)
    try:
        terminal.shows("needs the package textual: pip install textual")
        assert terminal.ended() == 1
    finally:
        terminal.close()
