"""`make docs` ends with a look for requests to other hosts (`site_check`): it finds them, and takes nothing else for one."""

from pathlib import Path

import pytest
from site_check import foreign

LOADING = {
    '<script src="https://cdn.test/a.js"></script>': "https://cdn.test/a.js",
    '<script type="module">import a from "https://cdn.test/a.mjs";</script>': "https://cdn.test/a.mjs",
    '<link rel="stylesheet" href="//cdn.test/a.css">': "//cdn.test/a.css",
    "<style>body { background: url(https://cdn.test/a.png) }</style>": "https://cdn.test/a.png",
    '<img src="http://cdn.test/a.png">': "http://cdn.test/a.png",
}


@pytest.mark.parametrize("text", LOADING)
def test_each_kind_of_request_to_another_host_is_found(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.html").write_text(f"<!doctype html>{text}")
    assert list(foreign(tmp_path)) == [("a.html", LOADING[text])]


def test_links_and_files_of_the_site_are_no_requests_to_others(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<a href="https://b.test">b</a><script src="_static/a.js"></script><link href="../a.css">')
    assert not list(foreign(tmp_path))
