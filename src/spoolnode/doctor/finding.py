"""The result of a check."""

from typing import NamedTuple

OK, WARN, FAIL = "ok", "warn", "fail"


class Finding(NamedTuple):
    """The result of one check: `state` is ok, warn or fail."""

    check: str
    state: str
    text: str
