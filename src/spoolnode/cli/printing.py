"""The output of commands: JSON for programs, tables that fit a terminal for people."""

import json
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

import click

from spoolnode.protocol.printable import printable, printable_json, printable_lines

T = TypeVar("T")

LONG_WORK = 0.5
"""Seconds after which work counts as long, and its progress is shown on a terminal."""

SHORTEST = {"function": 12, "reason": 20}
"""Columns that may be cut, and how many characters of each must stay."""


def print_json(content: Any) -> None:
    """Prints one JSON document."""
    click.echo(printable_json(json.dumps(content, indent=2, ensure_ascii=False)))


def say(text: str, *, err: bool = False) -> None:
    """Prints lines for people. Whatever they contain, they cannot control the terminal."""
    click.echo(printable_lines(text), err=err)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], empty: str = "", below: Sequence[str] = ()) -> None:
    """Prints rows under their columns, or `empty` if there are none. `below`: a text for each row, for a line below it."""
    texts = [["" if value is None else printable(str(value)) for value in row] for row in rows]
    if not texts:
        if empty:
            click.echo(empty, err=True)
        return
    widths = [max(len(row[index]) for row in [columns, *texts]) for index in range(len(columns))]
    shown = dict(enumerate(widths))
    hidden: list[str] = []
    on_terminal = sys.stdout.isatty()
    if on_terminal:
        used = {index: widths[index] for index in shown if any(row[index] not in ("", "0") for row in texts)}
        shown = _fitted(columns, used, shutil.get_terminal_size().columns)
        hidden = [columns[index].upper() for index in used if index not in shown]
    for number, row in enumerate([[name.upper() for name in columns], *texts]):
        line = "  ".join(_cell(row[index], width) for index, width in shown.items()).rstrip()
        click.echo(click.style(line, bold=True) if on_terminal and not number else line)
        if number and below and (text := below[number - 1]):
            say(f"    {printable(text)}")
    if hidden:
        click.echo(f"not shown for lack of room: {', '.join(hidden)}; use a wider terminal or --json", err=True)


def print_pairs(pairs: Iterable[tuple[str, Any]]) -> None:
    """Prints names and values, one pair a line."""
    shown = [(printable(name), "" if value is None else printable_lines(str(value))) for name, value in pairs]
    width = max(len(name) for name, _ in shown)
    bold = sys.stdout.isatty()
    for name, value in shown:
        click.echo(f"{click.style(name.ljust(width), bold=bold)}  {value}".rstrip())


def _fitted(columns: Sequence[str], widths: dict[int, int], room: int) -> dict[int, int]:
    """The columns that fit a terminal, and their widths. First texts are cut, then the last columns are left out; never ids."""
    least = {index: min(width, SHORTEST.get(columns[index], width)) for index, width in widths.items()}
    while (spare := room - sum(least.values()) - 2 * (len(least) - 1)) < 0:
        rigid = [index for index in least if index and columns[index] not in SHORTEST]
        if not rigid:
            break
        del least[rigid[-1]]
    fitted = {}
    for index, width in least.items():
        fitted[index] = min(widths[index], width + max(spare, 0))
        spare -= fitted[index] - width
    return fitted


def _cell(text: str, width: int) -> str:
    """A text of that width."""
    return text.ljust(width) if len(text) <= width else f"{text[: width - 1]}…"


def watched(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yields the items. If that takes long, it shows its progress on a terminal."""
    if not sys.stderr.isatty():
        yield from items
        return
    started = time.monotonic()
    iterator = iter(items)
    for done, item in enumerate(iterator, 1):
        yield item
        if time.monotonic() - started > LONG_WORK:
            yield from _with_bar(iterator, what, done, total)


def _with_bar(items: Iterator[T], what: str, done: int, total: int | None) -> Iterator[T]:
    with progress_bar() as bar:
        task = bar.add_task(what, total=total, completed=done)
        for item in items:
            yield item
            bar.advance(task)


def progress_bar() -> Any:
    """A bar on standard error that goes away when it is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def advancing(parts: Iterable[int], what: str, total: int) -> Iterator[int]:
    """Yields the sizes of parts of a work. If that takes long, a terminal shows how far it is."""
    with ExitStack() as stack:
        started, done, bar = time.monotonic(), 0, None
        for part in parts:
            yield part
            done += part
            if bar is None and sys.stderr.isatty() and time.monotonic() - started > LONG_WORK:
                bar = stack.enter_context(progress_bar())
                bar.add_task(what, total=total)
            if bar is not None:
                bar.update(bar.ids_of_tasks[0], completed=done)


def ago(seconds: float | None, units: int = 2) -> str:
    """A length of time for people: two units at most, or one."""
    if seconds is None:
        return ""
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    for size, unit, smaller, name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller if units > 1 else 0
            return f"{whole // size} {unit}" + (f" {rest} {name}" if rest else "")
    return ""


def moment(when: float | None) -> str:
    """A time for people: local, to the second."""
    return "" if when is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))


def moment_and_age(when: float | None, now: float) -> str:
    """A time in the past for people: by the clock, with the date unless it is today's, and how long ago it was."""
    if when is None:
        return ""
    then, today = time.localtime(when), time.localtime(now)
    form = "%H:%M:%S" if then[:3] == today[:3] else "%m-%d %H:%M" if then[0] == today[0] else "%Y-%m-%d"
    return f"{time.strftime(form, then)} ({ago(max(now - when, 0.0), units=1)} ago)"


def size(count: int) -> str:
    """Bytes for people."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
