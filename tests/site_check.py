"""Looks for requests to other hosts in the built site: `python tests/site_check.py` prints them, and fails if there are any."""

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

BUILT = Path(__file__).parents[1] / "docs" / "_build" / "html"
LOADED = dict.fromkeys(("script", "img", "iframe", "source", "video", "audio", "embed"), "src") | {
    "link": "href",
    "object": "data",
}
"""The attribute of each element that a browser loads without a click."""
FOREIGN = r"(?:https?:)?//"
IN_SCRIPTS = re.compile(rf"""(?:\bimport\b[^;]{{0,200}}?|\bfetch\()["']({FOREIGN}[^"']+)""")
IN_STYLES = re.compile(rf"""(?:url\(\s*["']?|@import\s*["'])({FOREIGN}[^"')]+)""")


class _Page(HTMLParser):
    """Collects the addresses on other hosts that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        self._inside = tag if tag in ("script", "style") else ""
        address = said.get(LOADED.get(tag, "")) or ""
        if re.match(FOREIGN, address):
            self.found.append(address)
        self.found += IN_STYLES.findall(said.get("style") or "")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.found += (IN_SCRIPTS if self._inside == "script" else IN_STYLES).findall(data)

    def handle_endtag(self, tag: str) -> None:
        del tag
        self._inside = ""


def foreign(built: Path) -> Iterator[tuple[str, str]]:
    """Each address on another host that a page, a style or a module of ours loads, with the file."""
    for path in sorted(built.rglob("*")):
        if path.suffix == ".html":
            page = _Page()
            page.feed(path.read_text(encoding="utf-8"))
            page.close()
            found = page.found
        elif path.suffix in (".css", ".mjs"):
            found = (IN_STYLES if path.suffix == ".css" else IN_SCRIPTS).findall(path.read_text(encoding="utf-8"))
        else:
            continue
        yield from ((str(path.relative_to(built)), address) for address in found)


if __name__ == "__main__":
    asked = list(foreign(BUILT))
    sys.stdout.writelines(f"{file} loads {address}\n" for file, address in asked)
    sys.exit(bool(asked))
