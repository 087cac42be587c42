"""The diagrams of ARCHITECTURE.md, drawn by the mermaid that the site serves, in a real browser."""

import shutil
from collections.abc import Callable
from html import escape
from pathlib import Path

from documents import ROOT, blocks
from playwright.sync_api import BrowserContext, expect

SCRIPTS = {"mermaid.tiny.js", "diagrams.js"}
PAGE = """<!doctype html><meta charset="utf-8"><body data-theme="auto">{}
<script defer src="mermaid.tiny.js"></script><script defer src="diagrams.js"></script>"""


def test_each_diagram_is_drawn_without_another_host(tmp_path: Path, context: Callable[..., BrowserContext]) -> None:
    diagrams = blocks("ARCHITECTURE.md", language="mermaid")
    assert diagrams
    for name in SCRIPTS:
        shutil.copy(ROOT / "docs" / "static" / name, tmp_path)
    (tmp_path / "page.html").write_text(
        PAGE.format("".join(f'<pre class="mermaid">{escape(each.text)}</pre>' for each in diagrams))
    )
    page = context().new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "page.html").as_uri())
    expect(page.locator("pre.mermaid > svg .node").nth(0)).to_be_visible()
    expect(page.locator("pre.mermaid > svg")).to_have_count(len(diagrams))
    assert not page.locator(".error-icon").count()
    assert {Path(url).name for url in asked} == {"page.html", *SCRIPTS}
    assert all(url.startswith(tmp_path.as_uri()) for url in asked)
