"""The page at `/` of `--http`: its files are served safely, tell nothing without a session, and are those of the packages."""

import http.client
import json
import re
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support import RunningNode, eventually

import spoolnode
from spoolnode.node.control.browser_files import BELOW, HOME, page_files

SECRET = "s3cret-of-a-customer"
APP = f"""
from spoolnode import spool

@spool(name="page.mail")
def mail(**_):
    raise ValueError("{SECRET} in an error")
"""
PAGE = resources.files("spoolnode.node.control").joinpath("page")
VENDOR = PAGE.joinpath("vendor")
SITE = Path(__file__).parents[2] / "docs" / "static"
OURS = {"packages.json", "diagrams.js"}


def packages(place: Any) -> list[dict[str, str]]:
    """The list of the files that others wrote."""
    found: list[dict[str, str]] = json.loads(place.joinpath("packages.json").read_bytes())
    return found


KINDS = {"css": "text/css", "html": "text/html", "js": "text/javascript", "svg": "image/svg+xml"}


@spoolnode.spool(name="page.mail")
def mail(**_: str) -> None: ...


class Answer(NamedTuple):
    status: int
    headers: Any
    body: bytes


class Browser:
    """Asks a node as a browser does, without a session."""

    def __init__(self, node: RunningNode) -> None:
        self._connection = http.client.HTTPConnection(node.lines("ready")[-1]["http"], timeout=60)

    def __call__(self, path: str, **headers: str) -> Answer:
        self._connection.request("GET", path, headers=headers)
        answer = self._connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def browser(node: RunningNode) -> Iterator[Browser]:
    """Of a node with a dead task that has a secret."""
    node.start("--http", "127.0.0.1:0", "--max-attempts", "1", app=APP)
    mail.options(via=node.via).spool(name=SECRET)
    eventually(lambda: node.status()["dead"] == 1, "it has died")
    asking = Browser(node)
    yield asking
    asking.close()


# --- what is served ---


def test_each_file_is_served_with_its_type_and_nothing_else_may_be_loaded_run_or_shown_around_it(browser: Browser) -> None:
    assert len(page_files()) > 10
    for path in page_files():
        answer = browser(path)
        ending = "html" if path == HOME else path.rpartition(".")[2]
        assert (answer.status, answer.headers["Content-Type"]) == (200, f"{KINDS[ending]}; charset=utf-8"), path
        assert answer.headers["X-Content-Type-Options"] == "nosniff", path
        assert answer.headers["Referrer-Policy"] == "no-referrer", path
        policy = dict(part.split(maxsplit=1) for part in answer.headers["Content-Security-Policy"].split("; "))
        assert (policy["default-src"], policy["frame-ancestors"], policy["base-uri"]) == ("'self'", "'none'", "'none'"), path
        assert not {"script-src", "style-src"} & policy.keys(), "nothing widens it: no scripts or styles within the page"


def test_a_browser_that_has_a_file_gets_it_again_only_if_it_has_changed(browser: Browser) -> None:
    path = f"{BELOW}app.js"
    first = browser(path)
    assert first.headers["Cache-Control"] == "no-cache"
    again = browser(path, **{"If-None-Match": first.headers["ETag"]})
    assert (again.status, again.body, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
    assert browser(path, **{"If-None-Match": '"of another version"'}).body == first.body


def test_without_a_session_the_page_has_no_contents_in_any_byte(browser: Browser, node: RunningNode) -> None:
    (identity,) = (row["id"] for row in json.loads(node.command("dead", "ls", "--json").stdout))
    for path in page_files():
        answer = browser(path, Cookie="spoolnode_0123456789ab=wrong")
        assert not any(said.encode() in answer.body + bytes(answer.headers) for said in (SECRET, identity, "page.mail")), path


@pytest.mark.parametrize(
    "path", ["/page", "/page/", "/page/../public.py", "/page/vendor/packages.json", "/page/vendor/uPlot-LICENSE"]
)
def test_other_paths_are_unknown(node: RunningNode, path: str) -> None:
    node.start("--http", "127.0.0.1:0")
    browser = Browser(node)
    assert browser(path).status == 404
    browser.close()


# --- what is in the files ---


def texts() -> dict[str, str]:
    """Our own files, by their paths."""
    return {path: file.body.decode() for path, file in page_files().items() if "/vendor/" not in path}


def test_every_file_that_the_page_names_is_there() -> None:
    for path, text in texts().items():
        named = re.findall(r'(?:from|import\() ?"(\./[^"]+)"', text) + re.findall(r'(?:src|href)="(/[^"#]+)"', text)
        for name in named:
            assert name.replace("./", BELOW, 1) in page_files(), f"{path} names {name}"


def test_nothing_of_the_page_is_elsewhere_or_becomes_markup() -> None:
    for path, text in texts().items():
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text), path
        assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|\bstyle=|\bon[a-z]+=\"", text), (
            path
        )


def test_only_one_module_sends_requests() -> None:
    assert [path for path, text in texts().items() if re.search(r"\bfetch\(|XMLHttpRequest|new EventSource", text)] == [
        f"{BELOW}api.js"
    ]


# --- what others wrote ---


@pytest.mark.parametrize("place", [VENDOR, SITE], ids=["page", "site"])
def test_files_of_others_are_those_of_the_list_with_their_licences(place: Any) -> None:
    files = {entry.name: sha256(entry.read_bytes()).hexdigest() for entry in place.iterdir() if entry.name not in OURS}
    assert files == {row["file"]: row["sha256"] for row in packages(place)}
    licensed = {row["package"] for row in packages(place) if row["path"] == "LICENSE"}
    assert licensed >= {row["package"] for row in packages(place)}


@pytest.mark.slow
def test_files_of_others_are_those_of_their_packages(tmp_path: Path) -> None:
    """The registry gives the same file for a version for ever; npm checks what it gets, and asks again if the network fails."""
    rows = [*packages(VENDOR), *packages(SITE)]
    for package in sorted({row["package"] for row in rows}):
        pack = ["npm", "pack", "--silent", "--fetch-retries=5", "--cache", str(tmp_path / "cache"), package]
        done = subprocess.run(pack, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        for row in (row for row in rows if row["package"] == package):
            packed = ["tar", "-xOf", done.stdout.strip(), f"package/{row['path']}"]
            content = subprocess.run(packed, cwd=tmp_path, capture_output=True, check=True).stdout
            assert sha256(content).hexdigest() == row["sha256"], row["file"]
