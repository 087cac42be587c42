"""Debian's Prometheus reads a real node, takes the rules of examples/prometheus/, and has data for the whole dashboard."""

import json
import math
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from documents import page, table
from programs import Program
from real_programs import exchange, packet
from support import PATIENCE, RunningNode, environment, eventually, need

from spoolnode.client.control import ask
from spoolnode.cluster import authority

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
DASHBOARD = json.loads((EXAMPLES / "grafana" / "spoolnode.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
NOBODY = "127.0.0.1:1"
"""An address where no node listens."""
APP = """
import time
from spoolnode import spool

@spool
def mail():
    pass

@spool(max_attempts=2, retry_base=0.1)
def pay():
    raise ValueError("no")

@spool(limit=1)
def report():
    time.sleep(3600)
"""
CALLS = f"mail.spool(), pay.spool(), report.spool(), report.spool(), mail.options(node='{NOBODY}').spool()"


class Prometheus(Program):
    """A real Prometheus, with its data in its directory, on a port that it chooses."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "prometheus")
        self._address = ""

    def start(self) -> Self:
        """Starts it with prometheus.yml of its directory; returns when it serves."""
        options = ("config.file=prometheus.yml", "storage.tsdb.path=data", "web.listen-address=127.0.0.1:0")
        self.run([need("prometheus"), *(f"--{option}" for option in options)])
        self.wait_for_output("Server is ready to receive web requests")
        listens = re.compile(r'msg="Listening on" address=(\S+)\s')  # that line may come after the one above
        self._address = eventually(lambda: listens.findall(self.output), "it tells its address")[0]
        return self

    def get(self, path: str, **query: str) -> Any:
        """The data of an answer of its API."""
        url = f"http://{self._address}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=PATIENCE) as response:
            return json.load(response)["data"]

    def has(self, expression: str) -> bool:
        """Whether an expression has a value now."""
        found = self.get("query", query=expression)["result"]
        return any(math.isfinite(float(series["value"][1])) for series in found)


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Prometheus]:
    directory = tmp_path / "prometheus"
    shutil.copytree(EXAMPLES / "prometheus", directory)
    program = Prometheus(directory)
    yield program
    program.end()


def promtool(*args: str, text: str = "") -> None:
    """It finds nothing to complain about."""
    done = subprocess.run([need("promtool"), *args], input=text, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def call(node: RunningNode, calls: str) -> None:
    """Sends these calls to the node."""
    program = [sys.executable, "-c", f"from app import *; {calls}"]
    subprocess.run(program, env=environment(SPOOLNODE_VIA=node.via), cwd=node.directory, check=True)


def busy(node: RunningNode, directory: Path) -> str:
    """The address of a node to which happens all that its numbers can tell."""
    authority.init(directory / "ca")
    made = authority.issue(directory / "ca", node.name)
    files = {"--tls-ca": made.authority, "--tls-cert": made.certificate, "--tls-key": made.key}
    tls = [str(part) for option in files.items() for part in option]
    node.start("--http", "127.0.0.1:0", "--workers", "2", "--discover", f"static://{NOBODY}", *tls, app=APP)
    call(node, CALLS)
    exchange(("127.0.0.1", node.port), packet([(b"spool_odd", b"1")]))
    ask(str(node.spool), "POST", "/pause?function=app:other")
    node.wait_for_log("dead")
    return str(node.lines("ready")[-1]["http"])


def test_configuration_and_rules_are_valid_and_each_alert_fires_when_it_should(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "prometheus", tmp_path, dirs_exist_ok=True)
    shutil.copy(HERE / "alerts_test.yml", tmp_path)
    promtool("check", "config", str(tmp_path / "prometheus.yml"))
    promtool("test", "rules", str(tmp_path / "alerts_test.yml"))


def test_page_has_a_row_for_each_alert() -> None:
    rules = (EXAMPLES / "prometheus" / "alerts.yml").read_text()
    listed = [row[0].strip("`") for row in table(page("docs/metrics.md")) if row[0].startswith("`Spoolnode")]
    assert listed == re.findall(r"- alert: (\w+)", rules)


def test_each_panel_says_in_words_what_it_shows_and_in_which_unit() -> None:
    titles = [panel["title"] for panel in PANELS]
    assert len({*titles}) == len(titles)
    assert all(" " in title for title in titles)
    assert all(panel["fieldConfig"]["defaults"]["unit"] for panel in PANELS)


@pytest.mark.slow
def test_whole_dashboard_and_all_alerts_have_data_of_a_busy_node(
    node: RunningNode, prometheus: Prometheus, tmp_path: Path
) -> None:
    address = busy(node, tmp_path)
    configuration = prometheus.directory / "prometheus.yml"
    text = configuration.read_text().replace("127.0.0.1:9100", address)
    configuration.write_text(re.sub(r"_interval: \w+", "_interval: 2s", text))  # and so long may an answer take
    prometheus.start()
    eventually(lambda: prometheus.has("spoolnode_task_wait_seconds_count"), "a first look")
    call(node, "mail.spool()")  # quantiles are of what runs between two looks
    for expression in EXPRESSIONS:
        now = expression.replace("$instance", ".+").replace("$__rate_interval", "1h")  # all that ran, however long this takes
        eventually(lambda now=now: prometheus.has(now), f"data for {now}")  # type: ignore[misc] # mypy cannot tell its type
    (group,) = prometheus.get("rules")["groups"]
    assert [rule["name"] for rule in group["rules"] if rule["health"] != "ok"] == []
    for name in {name for rule in group["rules"] for name in re.findall(r"\b(?:spoolnode_\w+|up)\b", rule["query"])}:
        eventually(lambda name=name: prometheus.has(name), name)  # type: ignore[misc] # as above
    told = prometheus.get("metadata", metric="spoolnode_oldest_waiting_seconds")
    assert [metric["unit"] for metric in told["spoolnode_oldest_waiting_seconds"]] == ["seconds"]
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=PATIENCE) as response:
        promtool("check", "metrics", text=response.read().decode())
