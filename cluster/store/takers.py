"""The takers of tasks, as a store keeps them. Pure."""

from collections.abc import Sequence
from typing import NamedTuple


class Itself(NamedTuple):
    """A node, as it takes tasks."""

    places: Sequence[str]
    """The destinations that it is."""
    by: str
    """Its text, as the taker of a task."""


def taker(node_id: str, name: str) -> str:
    """The text about a node."""
    return f"{node_id} {name}"


def taker_of(text: str) -> tuple[str, str]:
    """The id and the name of a node in its text; both empty without one."""
    node_id, _, name = text.partition(" ")
    return node_id, name
