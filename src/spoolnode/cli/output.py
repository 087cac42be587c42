"""What commands print: JSON for programs, a table for people; rich only on a terminal."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import click

T = TypeVar("T")

LONG_WORK = 0.5
"""Seconds after which work counts as long, and its progress is shown on a terminal."""


def print_json(content: Any) -> None:
    """One JSON document."""
    click.echo(json.dumps(content, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], empty: str = "") -> None:
    """Rows under their columns; `empty` when there is none."""
    texts = [["" if value is None else str(value) for value in row] for row in rows]
    if not texts:
        if empty:
            click.echo(empty, err=True)
    elif sys.stdout.isatty():
        _print_rich(columns, texts)
    else:
        widths = [max(len(row[index]) for row in [columns, *texts]) for index in range(len(columns))]
        for row in [[name.upper() for name in columns], *texts]:
            click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def print_pairs(pairs: Iterable[tuple[str, Any]]) -> None:
    """Names and values, one a line."""
    shown = [(name, "" if value is None else str(value)) for name, value in pairs]
    width = max(len(name) for name, _ in shown)
    bold = sys.stdout.isatty()
    for name, value in shown:
        click.echo(f"{click.style(name.ljust(width), bold=bold)}  {value}".rstrip())


def _print_rich(columns: Sequence[str], rows: list[list[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    used = [index for index in range(len(columns)) if any(row[index] for row in rows)]
    for index in used:
        table.add_column(columns[index], overflow="fold")  # nothing is cut: ids are there to be copied
    for row in rows:
        table.add_row(*(Text(row[index]) for index in used))
    Console().print(table)


def watched(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """The items; on a terminal the progress is shown once it takes long."""
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


def patiently(job: Callable[[], T], what: str, done: Callable[[], int], total: int) -> T:
    """The result of one long request; on a terminal `done` is asked meanwhile how many of `total` are done."""
    if not sys.stderr.isatty():
        return job()
    from concurrent.futures import ThreadPoolExecutor
    from concurrent.futures import wait as wait_for

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(job)
        if not wait_for([future], LONG_WORK).done:
            with progress_bar() as bar:
                task = bar.add_task(what, total=total)
                while not wait_for([future], LONG_WORK).done:
                    bar.update(task, completed=done())
        return future.result()


def ago(seconds: float | None) -> str:
    """A length of time for people: two units at most."""
    if seconds is None:
        return ""
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    for size, unit, smaller, name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {name}" if rest else "")
    return ""


def moment(when: float | None) -> str:
    """A time for people: local, to the second."""
    return "" if when is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))


def size(count: int) -> str:
    """Bytes for people."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
