"""`--http`: metrics and health for other programs."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from support import PATIENCE, RunningNode, environment, eventually

SHOP = """
import asyncio, time
from spoolnode import spool

@spool
def mail():
    pass

@spool(max_attempts=2, retry_base=0.1)
def pay():
    raise ValueError("no")

@spool
async def wait():
    await asyncio.sleep(0.01)

@spool(timeout=0.3, max_attempts=1)
def late():
    time.sleep(60)
"""


def get(node: RunningNode, path: str) -> tuple[int, str, str]:
    """Status, content type and text."""
    address = node.lines("ready")[-1]["http"]
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=PATIENCE) as response:
            return response.status, response.headers["Content-Type"], response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def test_metrics_are_prometheus_text(node: RunningNode, app: str) -> None:
    node.start("--http", "127.0.0.1:0", app=app)
    node.command("send", "name=Ada")
    eventually(lambda: "spoolnode_done_total 1.0\n" in get(node, "/metrics")[2], "it is counted as done")
    status, kind, text = get(node, "/metrics")
    assert (status, kind.partition(";")[0]) == (200, "text/plain")
    assert "# TYPE spoolnode_done_total counter" in text
    assert get(node, "/status")[0] == 404  # the control interface is not public


def test_each_run_is_counted_by_its_outcome_and_each_task_by_its_wait_once(node: RunningNode) -> None:
    node.start("--http", "127.0.0.1:0", app=SHOP)

    def call(calls: str) -> None:
        program = [sys.executable, "-c", f"import time; from app import *; {calls}"]
        subprocess.run(program, env=environment(SPOOLNODE_VIA=node.via), cwd=node.directory, check=True)

    def told(kind: str) -> dict[str, float]:
        found = re.findall(rf"^spoolnode_task_{kind}{{(.*)}} (\S+)$", get(node, "/metrics")[2], flags=re.M)
        return {",".join(re.findall(r'"(.*?)"', labels)): float(value) for labels, value in found}

    call("mail.spool(), mail.options(at=time.time() + 5).spool(), pay.spool(), wait.spool()")
    runs = {"app:mail,done": 2, "app:pay,failed": 1, "app:pay,dead": 1, "app:wait,done": 1}
    eventually(lambda: told("run_seconds_count") == runs, "all have ended")
    call("late.spool()")  # last: its worker dies, and on a busy machine it takes long until there is another one for the mails
    eventually(lambda: told("run_seconds_count") == {**runs, "app:late,dead": 1}, "that, too")
    assert told("wait_seconds_count") == {"app:mail": 2, "app:pay": 1, "app:wait": 1, "app:late": 0}
    assert told("run_seconds_sum")["app:late,dead"] == pytest.approx(0.3), "its limit"
    assert told("wait_seconds_sum")["app:mail"] < 5, "it was not ready before it was due"


def test_health_is_503_when_no_worker_is_up_and_the_node_takes_tasks_all_the_same(node: RunningNode, app: str) -> None:
    node.start("--http", "127.0.0.1:0", app=app)
    assert get(node, "/healthz")[::2] == (200, "ok\n")
    (node.directory / "app.py").write_text("raise RuntimeError('broken since')\n")
    for pid in node.status()["worker_pids"]:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: get(node, "/healthz")[::2] == (503, "no worker is up\n"), "it is not well")
    assert [get(node, path)[::2] for path in ("/livez", "/readyz")] == [(200, "ok\n"), (200, "ok\n")]
    assert node.command("send", "name=Ada").returncode == 0
    done = node.command("doctor", "-s", node.via)
    assert done.returncode == 1
    assert "fail  application: app.py: no worker is up: see the log\n" in done.stdout


def test_address_that_is_taken_is_one_sentence_and_leaves_nothing(node: RunningNode) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        done = node.command("join", "-s", "127.0.0.1:0", "--http", address)
    assert done.returncode == 2
    remedy = "another program listens there; stop it, or give this node another address with --http"
    assert done.stderr.splitlines()[-1] == f"Error: cannot listen on {address} (--http): {remedy}"
    assert not (node.spool / "control.sock").exists()


def test_connections_that_say_nothing_keep_neither_metrics_nor_tasks_out(node: RunningNode) -> None:
    node.start("--http", "127.0.0.1:0")
    before = len(os.listdir(f"/proc/{node.pid}/fd"))
    host, _, port = node.lines("ready")[-1]["http"].rpartition(":")
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(socket.create_connection((host, int(port)), 20)).sendall(b"GET /metrics HTTP/1.1\r\n")
        assert get(node, "/metrics")[0] == 200
        eventually(lambda: len(os.listdir(f"/proc/{node.pid}/fd")) < before + 80, "the oldest are gone")
        assert node.command("send", "a=b").returncode == 0
