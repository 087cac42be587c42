"""The screen of `top`, in textual. All that it knows and does comes from, and goes through, the API of the node."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar
from urllib.parse import quote, urlencode

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.css.query import NoMatches
from textual.screen import ModalScreen, Screen
from textual.widgets import DataTable, Footer, Static

from spoolnode.cli import top_facts
from spoolnode.cli.top_facts import Facts, Line
from spoolnode.client.control import ControlError, NotRunning, ask
from spoolnode.protocol.printable import printable, printable_lines

LOOK_SECONDS = 1.0
"""From one look at the node to the next."""
HELP = """\
Tab, Shift-Tab   from table to table
arrows           within a table
Enter            what is behind a line: a task's story, the tasks of a function
                 or of one kind of dead ones, all about a node
Escape           back
r                retry: a task, or all dead ones of a kind or function
c                cancel a task for good
p                pause or resume a function; on a node: everything here
d                drain this node: hand its tasks to others, and stop it
w                all warnings, with what to do about each
q                end
"""

Table = DataTable[Text]


class Lines(Table):
    """A table whose cursor stays on its line, whatever comes and goes above it."""

    def __init__(self, columns: Sequence[str], name: str) -> None:
        super().__init__(cursor_type="row", id=name)
        self._columns_named = columns
        self._lines: list[Line] = []

    def on_mount(self) -> None:
        self.add_columns(*self._columns_named)

    def fill(self, lines: list[Line]) -> None:
        """Shows these lines."""
        if lines == self._lines:
            return
        at, top = self.cursor_row, self.scroll_y
        key = self._lines[at].key if at < len(self._lines) else ""
        self._lines = lines
        self.clear()
        for line in lines:
            self.add_row(*(Text(printable(cell)) for cell in line.cells))
        row = next((number for number, line in enumerate(lines) if line.key == key), min(at, max(len(lines) - 1, 0)))
        self.move_cursor(row=row, scroll=False)
        self.scroll_y = min(top, self.max_scroll_y)

    @property
    def line(self) -> Line | None:
        """The line under the cursor."""
        return self._lines[self.cursor_row] if self.cursor_row < len(self._lines) else None


class Sheet(Screen[None]):
    """A text that can be scrolled."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "app.pop_screen", "back")]

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        with VerticalScroll():
            yield Static(printable_lines(self._text), markup=False)
        yield Footer()


class Confirm(ModalScreen[bool]):
    """Asks before something is changed."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,enter", "dismiss(True)", "yes"),
        Binding("n,escape,q", "dismiss(False)", "no"),
    ]

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        yield Static(f"{printable(self._text)}  y/n", markup=False, id="question")


class Tasks(Screen[None]):
    """The tasks of a function, or the dead ones of a kind."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "app.retry", "retry"),
        Binding("c", "app.cancel", "cancel"),
        Binding("escape,q", "app.pop_screen", "back"),
    ]

    def __init__(self, fetch: Callable[[], list[dict[str, Any]]]) -> None:
        super().__init__()
        self._fetch = fetch

    def compose(self) -> ComposeResult:
        yield Lines(top_facts.TASKS, "tasks")
        yield Footer()

    def on_mount(self) -> None:
        self.run_worker(self._follow())

    async def _follow(self) -> None:
        while True:
            with contextlib.suppress(NotRunning, ControlError):  # the first screen says so
                await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Shows the tasks as they are now. Raises NotRunning, ControlError."""
        rows = await asyncio.to_thread(self._fetch)
        with contextlib.suppress(NoMatches):  # the screen was closed meanwhile
            self.query_one(Lines).fill(top_facts.tasks(rows))


class Top(App[None]):
    """The node with this spool directory, and its neighbours."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #head { text-style: bold; height: 1; }
    #note { height: auto; min-height: 1; text-wrap: nowrap; text-overflow: ellipsis; }
    Lines { height: 1fr; }
    #nodes { max-height: 6; }
    #tasks { height: 1fr; }
    Confirm { align: center middle; }
    #question { width: auto; max-width: 76; border: solid; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "retry", "retry"),
        Binding("c", "cancel", "cancel"),
        Binding("p", "pause", "pause/resume"),
        Binding("d", "drain", "drain"),
        Binding("w", "warnings", "warnings"),
        Binding("question_mark", "help", "help"),
        Binding("q", "quit", "quit"),
    ]

    def __init__(self, root: str) -> None:
        super().__init__()
        self._root = root
        self._facts: Facts | None = None
        self._is_away = False
        """Whether the node did not answer at the last look."""
        self._wake = asyncio.Event()

    def compose(self) -> ComposeResult:
        yield Static(id="head", markup=False)
        yield Static(id="note", markup=False)
        yield Lines(top_facts.NODES, "nodes")
        yield Lines(top_facts.FUNCTIONS, "functions")
        yield Lines(top_facts.RUNNING, "running")
        yield Lines(top_facts.DEAD, "dead")
        yield Footer()

    def on_mount(self) -> None:
        self.run_worker(self._follow())

    # -- looking --

    async def _follow(self) -> None:
        while True:
            with contextlib.suppress(NoMatches):  # `top` ends just now
                await self._look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._wake.wait()
            self._wake.clear()

    async def _look(self) -> None:
        try:
            facts = await asyncio.to_thread(top_facts.facts_of, self._root)
        except (NotRunning, ControlError) as error:
            self._is_away = True
            self._note(f"{error}; waiting for it")
        else:
            self._show(facts)

    def _show(self, facts: Facts) -> None:
        self._facts = facts
        if self._is_away:
            self._is_away = False
            self._say("the node runs again")
        screen = self.screen_stack[0]
        screen.query_one("#head", Static).update(printable(top_facts.headline(facts)))
        self._note(top_facts.warnings(facts))
        for name, lines in (
            ("nodes", top_facts.nodes(facts)), ("functions", top_facts.functions(facts)),
            ("running", top_facts.running(facts)), ("dead", top_facts.dead(facts)),
        ):  # fmt: skip
            screen.query_one(f"#{name}", Lines).fill(lines)

    def _note(self, text: str) -> None:
        self.screen_stack[0].query_one("#note", Static).update(printable_lines(text))

    def _say(self, text: str, *, is_error: bool = False) -> None:
        self.notify(printable_lines(text), severity="error" if is_error else "information", markup=False)

    @property
    def _table(self) -> str:
        return self.focused.id or "" if isinstance(self.focused, Lines) else ""

    @property
    def _line(self) -> Line | None:
        return self.focused.line if isinstance(self.focused, Lines) else None

    async def on_data_table_row_selected(self) -> None:
        line = self._line
        if line is None:
            return
        if line.task:
            task = await self._asked("GET", f"/tasks/{quote(line.task)}")
            if task is not None:
                self.push_screen(Sheet(top_facts.story(task)))
        elif line.about:
            self.push_screen(Sheet("\n".join(f"{name:<24} {value}" for name, value in line.about)))
        else:
            self.push_screen(Tasks(lambda: self._tasks_of(line, is_dead=self._table == "dead")))

    def _tasks_of(self, line: Line, *, is_dead: bool) -> list[dict[str, Any]]:
        query = {"function": line.function, "limit": str(top_facts.MOST_ROWS)}
        query |= {"state": "dead", "error": line.error} if is_dead else {"state": "running,waiting,later,dead"}
        rows: list[dict[str, Any]] = ask(self._root, "GET", f"/tasks?{urlencode(query)}", top_facts.ASK_SECONDS)["items"]
        return rows

    # -- acting --

    async def action_help(self) -> None:
        """Explains the keys."""
        self.push_screen(Sheet(HELP))

    def action_warnings(self) -> None:
        """Shows all that is wrong in the cluster."""
        if self._facts is not None:
            self.push_screen(Sheet("\n\n".join(self._facts.warnings) or "nothing is wrong"))

    def action_retry(self) -> None:
        """Makes a task, or dead ones, ready now."""
        line = self._line
        if line is not None and line.task:
            self._do(f"Retry the task {line.task}?", "POST", f"/tasks/{quote(line.task)}/retry", "it is ready")
        elif line is not None and self._table == "dead":
            chosen = urlencode({"function": line.function, "error": line.error})
            text = f"Retry {line.cells[0]} dead tasks of {line.function or 'no function'}, {line.error}?"
            self._do(text, "POST", f"/dead/retry?{chosen}", "they are ready")
        elif line is not None and self._table == "functions":
            chosen = urlencode({"function": line.function})
            self._do(f"Retry all dead tasks of {line.function}?", "POST", f"/dead/retry?{chosen}", "they are ready")

    def action_cancel(self) -> None:
        """Ends a task for good."""
        line = self._line
        if line is not None and line.task:
            query = urlencode({"by": "spoolnode top"})
            path = f"/tasks/{quote(line.task)}/cancel?{query}"
            self._do(f"Cancel the task {line.task} for good?", "POST", path, "it is cancelled")

    def action_pause(self) -> None:
        """Pauses a function, or this node; or resumes it."""
        line = self._line
        if self._facts is None or line is None or (not line.function and self._table != "nodes"):
            return
        paused = self._facts.node["pauses"]
        is_paused = line.function in paused["functions"] if line.function else paused["everything"]
        query = f"?{urlencode({'function': line.function})}" if line.function else ""
        what, how = line.function or "everything on this node", "resume" if is_paused else "pause"
        self._do(f"{how.capitalize()} {what}?", "POST", f"/{how}{query}", f"{what} is {how}d")

    def action_drain(self) -> None:
        """Hands the tasks of this node to others, and stops it."""
        if self._facts is not None:
            waiting = self._facts.node["waiting"] + self._facts.node["later"]
            text = f"Drain {self._facts.node['name']}: hand {waiting} tasks to others, and stop it?"
            self._do(text, "POST", "/drain", "it drains")

    def _do(self, question: str, method: str, path: str, done: str) -> None:
        """Asks, acts, and says what came of it."""

        async def act() -> None:
            answer = await self._asked(method, path)
            if answer is not None:
                is_other = answer.get("outcome", "cancelled") != "cancelled"  # of a cancel that came too late, or went far
                self._say(answer["reason"] if is_other else done, is_error=is_other)
                self._wake.set()

        def answered(is_wanted: bool | None) -> None:
            if is_wanted:
                self.run_worker(act())

        self.push_screen(Confirm(question), answered)

    async def _asked(self, method: str, path: str) -> Any:
        """The answer of the node; None if it declines, which is said."""
        try:
            return await asyncio.to_thread(ask, self._root, method, path)
        except (NotRunning, ControlError) as error:
            self._say(str(error), is_error=True)
            return None
