"""Lengths of time as people type them: `90`, `1.5`, `30s`, `5m`, `2h`, `1d`, `500ms`."""

import math
import re

_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ms|[smhd]?)")

RIGHT = "seconds, or a number with a unit, like 90, 500ms, 30s, 5m, 2h or 1d"
"""The form that a length of time must have, for errors."""


def read_duration(text: str) -> float:
    """The seconds in a text. Raises ValueError if it is not a length of time."""
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError(text)
    seconds = float(found[1]) * _UNITS[found[2]]
    if not math.isfinite(seconds):  # four hundred digits
        raise ValueError(text)
    return seconds
