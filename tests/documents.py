"""README.md, ARCHITECTURE.md, CONTRIBUTING.md and the pages of docs/, as the tests read them: sections, blocks, commands."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FOR_USERS = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
PAGES = [*FOR_USERS, "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "bench/README.md"]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", flags=re.M | re.S)


class Block(NamedTuple):
    """A fenced block: its language, its text as it would be typed, and what stands above it."""

    language: str
    text: str
    section: str = ""
    """The heading of the second level that it is under."""
    above: str = ""
    """The paragraph before it, with the comments between them, which readers do not see."""

    @property
    def file(self) -> str:
        """The file that it is, if the sentence above it ends with the name: "`tasks.py`:"."""
        sentence = self.above.partition("\n\n<!--")[0]
        found = re.search(r"`([\w@./-]+\.\w+)`:$", sentence)
        return found[1] if found else ""

    def comment(self, word: str) -> str:
        """What the comments above it say that begin with this word: `<!-- WORD: REST -->`."""
        return "\n".join(re.findall(rf"<!-- {word}:\s(.*?)\s-->", self.above, flags=re.S))


def page(name: str) -> str:
    """The text of a page, by its path from the top."""
    return (ROOT / name).read_text()


def prose(name: str) -> str:
    """What is read of a page outside of its blocks."""
    return re.sub("<!--.*?-->", "", FENCE.sub("", page(name)), flags=re.S)


def section(name: str, title: str) -> str:
    """The text below a heading of the second level."""
    _, heading, rest = page(name).partition(f"\n## {title}\n")
    assert heading, f"{name} has no section {title!r}"
    return rest.partition("\n## ")[0]


def blocks(name: str, title: str = "", language: str = "") -> list[Block]:
    """The fenced blocks of a page, or of a section of it."""
    text = f"\n## {title}\n{section(name, title)}" if title else page(name)
    found = [_block(text, match) for match in FENCE.finditer(text)]
    return [block for block in found if not language or block.language == language]


def _block(page: str, match: re.Match[str]) -> Block:
    indent, language, text = match.groups()
    before = FENCE.sub("", page[: match.start()])
    headings = re.findall("^## (.*)$", before, flags=re.M)
    paragraphs = page[: match.start()].rstrip().split("\n\n")
    count = next(n for n in range(1, len(paragraphs) + 1) if not paragraphs[-n].lstrip().startswith("<!--"))
    unindented = re.sub(f"^{indent}", "", text, flags=re.M).rstrip("\n")
    return Block(language, unindented, headings[-1] if headings else "", "\n\n".join(paragraphs[-count:]))


def lines_to_type(name: str, title: str = "") -> list[str]:
    """The lines of the shell in these blocks, those that go on below put together."""
    return [line for block in blocks(name, title, "sh") for line in block.text.replace("\\\n", "").split("\n")]


def commands(name: str, title: str = "", program: str = "spoolnode") -> list[list[str]]:
    """The words after `program` in the lines of the shell that begin with it; without what the shell takes for itself."""
    lines = [line for line in lines_to_type(name, title) if line.startswith(f"{program} ")]
    return [shlex.split(line.partition(" > ")[0], comments=True)[1:] for line in lines]


def table(text: str) -> list[list[str]]:
    """The cells of all rows of the tables in a text, but for those of the headings."""
    rows = [line for line in text.split("\n") if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]
    headings = {index - 1 for index, row in enumerate(cells) if set("".join(row)) <= set("-: ")}
    return [row for index, row in enumerate(cells) if index not in headings and index - 1 not in headings]


def anchors(name: str) -> set[str]:
    """The anchors that a link may name after the # of a page: its headings, as GitHub spells them."""
    headings = re.findall(r"^#+ (.*)$", prose(name), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
