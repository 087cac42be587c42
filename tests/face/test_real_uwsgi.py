"""Our client and a real uWSGI server: it stores what we sent, and never loses a body on the way."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import PATIENCE

from spoolnode import BadTask, Refused, asend_to_spooler, send_to_spooler
from spoolnode.protocol.spoolfile import parse

UWSGI = Path(sys.executable).with_name("uwsgi")


@pytest.fixture
def uwsgi_server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address and the spool of a real server whose spooler process is another's: the files stay for us to read."""
    if not UWSGI.exists():
        if os.environ.get("CI"):
            pytest.fail(f"CI needs {UWSGI}")
        pytest.skip(f"there is no {UWSGI}")
    socket, spool = tmp_path / "u.sock", tmp_path / "spool"
    spool.mkdir()
    command = [str(UWSGI), "-M", "-s", str(socket), "--spooler-external", str(spool), "-p", "1"]
    server = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    for line in server.stderr:
        if "spawned uWSGI worker" in line:
            break
    else:
        pytest.fail("uWSGI did not start")
    yield str(socket), spool
    server.send_signal(signal.SIGINT)
    server.communicate(timeout=PATIENCE)


def test_tasks_are_stored_as_sent_and_bodies_are_kept_from_it(uwsgi_server: tuple[str, Path]) -> None:
    address, spool = uwsgi_server
    assert [send_to_spooler({"a": str(n)}, via=address) for n in range(5)] == [""] * 5
    assert asyncio.run(asend_to_spooler({"a": "5"}, via=address)) == ""
    with pytest.raises(BadTask, match="nothing was stored"):
        send_to_spooler({"a": "b", "body": b"x"}, via=address)
    with pytest.raises(BadTask, match="nothing was stored"):
        asyncio.run(asend_to_spooler({"a": "b", "body": b"x"}, via=address))
    stored = [parse(path.read_bytes()).variables for path in spool.iterdir()]
    assert sorted(stored) == [[(b"a", str(n).encode())] for n in range(6)]


def test_refusal_is_understood(uwsgi_server: tuple[str, Path]) -> None:
    address, spool = uwsgi_server
    with pytest.raises(Refused, match="without a reason"):
        send_to_spooler({"a": "b", "spooler": "/nowhere"}, via=address)
    assert list(spool.iterdir()) == []
