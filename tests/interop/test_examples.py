"""Every file in examples/ does what its first two lines say."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest
from documents import blocks
from programs import Program, free_port
from real_programs import NGINX, STORED, Nginx, exchange, packet
from support import HAND_OVER, PATIENCE, RunningNode, environment, eventually, need

from spoolnode import send_to_spooler

EXAMPLES = Path(__file__).parents[2] / "examples"
DIRECTORIES = ["grafana", "kubernetes", "prometheus"]
"""Of other programs: see test_kubernetes.py and test_prometheus.py."""
FILES = ["mailer.py", "nginx.conf", "spoolnode@.service", "spoolnode@.socket", "testapp.py"]


@pytest.fixture
def examples(node: RunningNode) -> Path:
    """Copies of them in the directory of the node."""
    for name in FILES:
        shutil.copy(EXAMPLES / name, node.directory)
    return node.directory


def printed(node: RunningNode) -> list[str]:
    return [line["text"] for line in node.lines("print")]


def test_there_are_no_others_and_each_says_how_to_run_it() -> None:
    visible = [path.name for path in EXAMPLES.iterdir() if not path.name.startswith((".", "__"))]
    assert sorted(visible) == sorted([*FILES, *DIRECTORIES])
    for name in FILES:
        first, second = (EXAMPLES / name).read_text().splitlines()[:2]
        assert first.startswith("# ")
        assert second.startswith("# ")
        assert re.search("spoolnode (join|send)|python mailer.py|nginx -p|curl|systemctl", first + second)


def test_manual_page_is_what_the_documents_show() -> None:
    code = [line for line in (EXAMPLES / "testapp.py").read_text().splitlines() if not line.startswith("#")]
    (shown,) = blocks("docs/uwsgi.md", "The example of uWSGI's manual", "python")
    assert shown.text.split("\n") == code


def test_manual_page_runs_as_its_comment_says(examples: Path, node: RunningNode, place: Path) -> None:
    text = (examples / "testapp.py").read_text()
    command = re.search(r"spoolnode (join .*-A 10)", text)
    assert command
    socket = f"{place}/uwsgi.sock"
    node.start(*command[1].replace("/tmp/uwsgi.sock", socket).replace("-Q myspool", "").split()[1:], "--grace", "0")
    line = node.wait_for_log("print", text="Serena")  # it sends its own task
    assert line["text"].startswith("{b'Name': b'Serena', b'System': b'Linux', b'Tizio': b'Caio', 'spooler_task_name'")
    sending = re.search(r"spoolnode (send --via \S+ .+)", text)
    assert sending
    sent = node.command(*sending[1].replace("/tmp/uwsgi.sock", socket).split())
    assert sent.returncode == 0, sent.stderr
    assert node.status()["accepted"] == 2  # the second waits: the first takes 99 seconds


def test_mailer_sends_by_priority_and_time_and_tries_again(examples: Path, node: RunningNode) -> None:
    node.start("--app", "mailer", "--retry-base", "0.05", MAILER_SMTP="-")
    began = time.time()
    sender = subprocess.run(
        [sys.executable, "mailer.py", "ada@example.org", "grace@example.org"],
        cwd=examples, env=environment(SPOOLNODE_VIA=node.via), capture_output=True, text=True, timeout=PATIENCE,
        check=False,
    )  # fmt: skip
    assert sender.returncode == 0, sender.stderr
    subjects = ("Your password", "News", "Two seconds later")
    expected = [f"to {who}@example.org: {what}" for who in ("ada", "grace") for what in subjects]
    eventually(lambda: len(printed(node)) >= 6, "six mails")
    assert sorted(printed(node)) == sorted(expected)
    late = [datetime.fromisoformat(line["timestamp"]).timestamp() for line in node.lines("print", text="Two seconds later")]
    assert min(late) >= began + 2, "not before its time"
    node.stop()
    # A mail server that is away.
    node.start("--app", "mailer", "--retry-base", "0.05", "--max-attempts", "3", MAILER_SMTP=f"127.0.0.1:{free_port()}")
    subprocess.run(
        [sys.executable, "-c", "import mailer; mailer.mail.spool('ada@example.org', 'Hello', 'You there?')"],
        cwd=examples, env=environment(SPOOLNODE_VIA=node.via), timeout=PATIENCE, check=True,
    )  # fmt: skip
    dead = node.wait_for_log("dead", reason="refused")
    assert dead["attempts"] == 3
    assert len(node.lines("retry", reason="refused")) == 2


UNIT, SOCKETS = "spoolnode@.service", "spoolnode@.socket"


def test_systemd_units_start_a_node_that_its_journal_and_the_web_server_can_use(examples: Path, node: RunningNode) -> None:
    text, sockets = (examples / UNIT).read_text(), (examples / SOCKETS).read_text()
    line = re.search("^ExecStart=/srv/%i/venv/bin/spoolnode (join .*)$", text, flags=re.M)
    assert line
    words = line[1].replace("%S", str(node.directory)).replace("%i", "shop").split()
    words[words.index("-w") + 1] = "mailer"
    node.spool = Path(words[words.index("-Q") + 1])
    node.spool.parent.mkdir(parents=True)
    listen = re.search("^ListenStream=/run/spoolnode/%i.sock$", sockets, flags=re.M)
    assert listen
    with socket.socket(socket.AF_UNIX) as handed:
        handed.bind(str(node.directory / "shop.sock"))
        handed.listen()
        unit = Program(node.directory, "journal")
        unit.directory = examples
        arguments = [sys.executable, "-c", HAND_OVER, str(handed.fileno()), "--", sys.executable, "-m", "spoolnode", *words]
        unit.run([*arguments, "--discover", "none"], pass_fds=[handed.fileno()], **environment())
        try:
            unit.wait_for_output("ready")
            assert '{"' not in unit.output, "people read the journal"
            assert send_to_spooler({"a": "b"}, via=handed.getsockname())
        finally:
            unit.end()
    assert re.search("^SocketGroup=www-data\nSocketMode=0660$", sockets, flags=re.M)


@pytest.fixture
def units(examples: Path, tmp_path: Path) -> list[str]:
    """The units of one application, whose command exists."""
    need("systemd-analyze")
    paths = []
    for name in (UNIT, SOCKETS):
        path = tmp_path / name.replace("@", "@shop")
        path.write_text((examples / name).read_text().replace("/srv/%i/venv/bin/spoolnode", "/bin/true"))
        paths.append(str(path))
    return paths


def test_systemd_understands_every_line_of_the_units(units: list[str]) -> None:
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_unit_is_hardened(units: list[str]) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", units[0]]  # 2.0 of 10
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout[-2000:]


def test_nginx_conf_is_complete(examples: Path, node: RunningNode, place: Path) -> None:
    need(NGINX)
    node.start()
    nginx = Nginx(place)
    text = (examples / "nginx.conf").read_text()
    assert text.count("127.0.0.1:3031;") == text.count("127.0.0.1:8080;") == 1
    try:
        for _ in range(5):
            nginx.port = free_port()
            with_node = text.replace("127.0.0.1:3031;", f"{node.via};")
            (place / "nginx.conf").write_text(with_node.replace(":8080;", f":{nginx.port};"))
            if nginx.serve([NGINX, "-p", ".", "-c", "nginx.conf", "-e", "stderr"]):
                break
        body = os.urandom(3_000_000)
        for sent in (b"hello", body, iter([body[:1000], body[1000:]])):
            status, headers, content = nginx.ask("POST", "/sendmassmail", sent)
            assert status == 202, content
            assert headers["X-Spool-Id"]
        # Only the lines that the configuration adds tell nginx from a client of uWSGI.
        answer = exchange(("127.0.0.1", nginx.port), b"GET /sendmassmail HTTP/1.0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 202 ")
    finally:
        nginx.end()
    assert node.status()["accepted"] == 4
    assert exchange(("127.0.0.1", node.port), packet([(b"a", b"b")])) == STORED
