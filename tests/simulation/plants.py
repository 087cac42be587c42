"""Mistakes to plant, to show that the simulation finds them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any
from unittest import mock

from spoolnode.node import parcel, spool
from spoolnode.node.intake import Intake
from spoolnode.node.keeper import Keeper
from spoolnode.node.numbers import Taken


def no_fsync() -> Any:
    """Tasks are acknowledged before they are safe."""
    real = Intake._write

    def write(self: Intake, group: Any) -> None:
        self._sync = False
        real(self, group)
        self._sync = True

    return mock.patch.object(Intake, "_write", write)


def no_mark() -> Any:
    """A settled task stays in its batch too."""
    return mock.patch.object(Keeper, "mark")


def forget_taken() -> Any:
    """A node that starts again knows no number that it has taken from others."""
    real = spool.recover

    def recover(*args: Any) -> Any:
        found = real(*args)
        found.taken = Taken()
        return found

    return mock.patch.object(spool, "recover", recover)


def resend_as_new() -> Any:
    """What is in doubt is sent again under another number."""
    real = parcel.dress

    def dress(block: bytes, identity: str, number: int, body: int) -> bytes:
        return real(block, identity, number + random.randrange(1 << 20), body)

    random = Random(1)
    return mock.patch.object(parcel, "dress", dress)


PLANTS: dict[str, Callable[[], Any]] = {
    "no_fsync": no_fsync,
    "no_mark": no_mark,
    "forget_taken": forget_taken,
    "resend_as_new": resend_as_new,
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """While this lasts, that mistake is in the code; the empty name is none."""
    if name:
        with PLANTS[name]():
            yield
    else:
        yield
