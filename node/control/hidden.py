"""Hides the values of passwords and the like where people look at tasks (`--hide`). Pure. What is on disk stays as it is."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

MARK = "••••"
"""In place of a value."""
NOTHING = "none"
"""In place of the names: then nothing is hidden."""
LONGEST_JSON = 8192
"""Characters of a text in which JSON is looked for."""
_BETWEEN = r"[-_. ]?"
"""Between two letters of a name: `api_key` is also `apiKey`, and `X-Api-Key` has it."""


class Hidden:
    """The names whose values are not shown."""

    def __init__(self, names: Iterable[str]) -> None:
        """`names`: a name is hidden if it has one of these in it, in capital letters or not; `none`: nothing is."""
        patterns = [_BETWEEN.join(map(re.escape, re.sub(r"[-_. ]", "", name))) for name in names if name != NOTHING]
        self._names = re.compile("|".join(patterns) or r"(?!)", re.IGNORECASE)
        # The rest of a name is always taken, so a text of 64 KiB that is `token` over and over again takes no longer than others.
        self._pairs = re.compile(rf"((?:{self._names.pattern})[\w.\[\]%-]*+)(=[^&;\s]+)?", re.IGNORECASE)

    def __repr__(self) -> str:
        return f"<Hidden {self._names.pattern}>"

    def in_task(self, shown: Mapping[str, Any]) -> dict[str, Any]:
        """A task with its contents, without these values."""
        found = dict(shown)
        if "variables" in found:
            found["variables"] = self._in_value(found["variables"])
        if "body_begins" in found:
            found["body_begins"] = self._in_body(found["body_begins"])
        return found

    def _in_value(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: MARK if self._names.search(name) else self._in_value(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self._in_value(item) for item in value]
        return self._in_text(value) if isinstance(value, str) else value

    def _in_text(self, text: str) -> str:
        """A text that may be JSON, or have pairs of names and values in it, as in QUERY_STRING."""
        if text.startswith("{") and len(text) <= LONGEST_JSON:
            try:
                found = json.loads(text)
                shown = self._in_value(found)
            except (ValueError, RecursionError):  # it is something else
                pass
            else:
                return text if shown == found else json.dumps(shown, ensure_ascii=False)
        return self._pairs.sub(_without_value, text)

    def _in_body(self, text: str) -> str:
        """The beginning of a body: arguments as msgpack, a form, JSON, or anything else; a value stands behind its name."""
        first = self._names.search(text)
        return text if first is None else text[: first.end()] + MARK


def _without_value(pair: re.Match[str]) -> str:
    return pair[0] if pair[2] is None else f"{pair[1]}={MARK}"
