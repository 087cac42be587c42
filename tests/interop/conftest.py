"""Real programs for each test that asks for one, ended when the test does."""

import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres import Postgres
from real_programs import Nginx, Uwsgi, WebServer
from support import RunningNode

sys.path.insert(0, str(Path(__file__).parents[1] / "cluster"))  # netns.py


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short name, for unix sockets, that other users can enter: nginx's workers and PostgreSQL are such."""
    with_short_name = Path(tempfile.mkdtemp(prefix="sn-"))
    with_short_name.chmod(0o755)
    yield with_short_name
    shutil.rmtree(with_short_name)


@pytest.fixture
def nginx(place: Path) -> Iterator[Nginx]:
    """An nginx that is not started yet."""
    program = Nginx(place)
    yield program
    program.end()


@pytest.fixture
def postgres(place: Path) -> Iterator[Postgres]:
    """A PostgreSQL that is not started yet."""
    program = Postgres(place)
    yield program
    program.end(signal.SIGQUIT)


@pytest.fixture
def server(place: Path) -> Iterator[WebServer]:
    """A web server that is not started yet, in `place`."""
    program = WebServer(place)
    yield program
    program.end()


@pytest.fixture
def uwsgi(tmp_path: Path) -> Iterator[Uwsgi]:
    """A uWSGI server that is not started yet, in the same directory as `node`."""
    program = Uwsgi(tmp_path)
    yield program
    program.end()


@pytest.fixture
def other_node(place: Path) -> Iterator[RunningNode]:
    """A second node, with a spool of its own."""
    (place / "other").mkdir()
    running = RunningNode(place / "other")
    yield running
    running.clean_up()
