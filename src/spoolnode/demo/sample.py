"""The application of `spoolnode demo`. It writes a line for everything it does to ran.txt in the node's directory."""

import os
import time
from typing import Any

from spoolnode import spool, uwsgi

RAN = "ran.txt"
HOLD = "hold.txt"
"""While this file exists, `count` does not end for the number in it and those above: so a kill surely hits a running task."""


def write_line(text: str) -> None:
    """Writes one whole line: lines that a killed worker has written stay."""
    descriptor = os.open(RAN, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, f"{text}\n".encode())
    finally:
        os.close(descriptor)


def held_from() -> float:
    """The first number that is held."""
    try:
        with open(HOLD, encoding="utf-8") as file:
            return int(file.read())
    except FileNotFoundError:
        return float("inf")


@spool
def mail(number: int, to: list[str]) -> None:
    """A function whose calls can be stored."""
    write_line(f"mail {number} to {', '.join(to)}")


@spool
def count(number: int) -> None:
    """A little work, or endless work that is killed in the middle."""
    write_line(f"count {number}")
    while number >= held_from():
        time.sleep(0.01)


@spool
def stumble() -> None:
    """Fails when it is run for the first time."""
    write_line("stumbling")
    with open(RAN, encoding="utf-8") as lines:
        if lines.read().count("stumbling") == 1:
            raise RuntimeError("the first attempt fails, on purpose")
    write_line("stumbled, and got up")


def everything_else(task: dict[str, Any]) -> int:
    """The spooler, in uWSGI's terms: gets every task that names no function, as a dict."""
    write_line(f"hello {task['name']}" + (f", {task['visits'] + 1} visits" if "visits" in task else ""))
    return uwsgi.SPOOL_OK


uwsgi.spooler = everything_else
