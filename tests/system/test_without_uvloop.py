"""A node and its clients on asyncio's own event loop, as where uvloop has no wheel (a Raspberry Pi with armv7l)."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from support import PATIENCE, RunningNode, environment, eventually

from spoolnode.node.control.public import MAX_HTTP

APP = """
import asyncio
from spoolnode import current_task, spool

@spool(keep_result=True)
def add(a, b):
    return a + b

@spool(keep_result=True)
async def later(text):
    await asyncio.sleep(0.01)
    return text * 2

@spool(max_attempts=2, retry_base=0.01)
def fails():
    raise ValueError("as told")
"""
CLIENT = """
import asyncio
from spoolnode import aresult, result
from app import add, fails, later

async def many():
    return await asyncio.gather(*(later.aspool(text=str(number)) for number in range(50)))

print(result(add.spool(a=2, b=3), timeout=100))
print(len(asyncio.run(many())))
print(asyncio.run(aresult(later.spool(text="x" * 200_000), timeout=100)) == "x" * 400_000)
fails.spool()
"""


@pytest.fixture
def without_uvloop(tmp_path: Path) -> str:
    """A PYTHONPATH on which uvloop cannot be imported."""
    (absent := tmp_path / "absent").mkdir()
    (absent / "uvloop.py").write_text("raise ModuleNotFoundError('it is not installed', name='uvloop')\n")
    return f"{absent}:{environment()['PYTHONPATH']}"


def test_a_node_and_its_clients_run_on_the_loop_of_asyncio(node: RunningNode, without_uvloop: str) -> None:
    node.start("-p", "2", "--http", "127.0.0.1:0", app=APP, PYTHONPATH=without_uvloop)
    assert "uvloop" not in Path(f"/proc/{node.pid}/maps").read_text(), "neither its library is loaded"
    changes = {"SPOOLNODE_VIA": node.via, "PYTHONPATH": f"{without_uvloop}:{node.directory}"}
    client = [sys.executable, "-c", CLIENT]
    done = subprocess.run(client, env=environment(**changes), capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.stdout.split() == ["5", "50", "True"], done.stderr
    eventually(lambda: node.status()["dead"] == 1, "the one that fails is dead")
    eventually(lambda: node.status()["done"] == 52, "the others are done")
    with urllib.request.urlopen(f"http://{node.lines('ready')[-1]['http']}/metrics", timeout=PATIENCE) as answer:
        assert "spoolnode_done_total 52.0" in answer.read().decode()
    assert node.command("reload", PYTHONPATH=without_uvloop).returncode == 0
    assert node.stop() == 0
    assert not node.lines("mistake")
    assert not node.noise


def test_doctor_says_which_loop_a_node_has(node: RunningNode, without_uvloop: str) -> None:
    def versions(**changes: str) -> dict[str, str]:
        found = json.loads(node.command("doctor", "--json", **changes).stdout)
        return next(row for row in found if row["check"] == "versions")  # type: ignore[no-any-return] # JSON

    node.start()
    without = versions(PYTHONPATH=without_uvloop)
    assert without["state"] == "ok"
    assert "asyncio's own event loop" in without["text"]
    assert "uvloop " in versions()["text"]


def test_connections_on_http_that_come_in_one_turn_of_the_loop_do_not_pile_up(node: RunningNode, without_uvloop: str) -> None:
    node.start("--http", "127.0.0.1:0", PYTHONPATH=without_uvloop)
    before = len(os.listdir(f"/proc/{node.pid}/fd"))
    host, _, port = node.lines("ready")[-1]["http"].rpartition(":")
    with contextlib.ExitStack() as stack:
        for _ in range(5 * MAX_HTTP):
            stack.enter_context(socket.create_connection((host, int(port)), PATIENCE))
        with urllib.request.urlopen(f"http://{host}:{port}/livez", timeout=PATIENCE) as answer:
            assert answer.status == 200
        eventually(lambda: len(os.listdir(f"/proc/{node.pid}/fd")) < before + MAX_HTTP + 16, "the oldest are gone")
