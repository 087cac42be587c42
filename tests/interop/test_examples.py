"""Every file in examples/ does what its first two lines say."""

import grp
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest
from documents import blocks
from real_programs import NGINX, STORED, Nginx, Program, exchange, free_port, need, packet
from support import PATIENCE, RunningNode, environment, eventually

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = ["mailer.py", "nginx.conf", "spoolnode.service", "testapp.py"]


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
    assert sorted(visible) == FILES
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


def test_systemd_unit_starts_a_node_that_its_journal_and_the_web_server_can_use(examples: Path, place: Path) -> None:
    text = (examples / "spoolnode.service").read_text()
    line = re.search("^ExecStart=/srv/app/venv/bin/spoolnode (join .*)$", text, flags=re.M)
    assert line
    words = line[1].replace("/var/lib/spoolnode/spool", f"{place}/spool").replace("/run/spoolnode", str(place)).split()
    words[words.index("-w") + 1] = "mailer"
    unit = Program(place, "journal")
    unit.directory = examples
    group = grp.getgrnam("www-data").gr_gid if not os.getuid() else os.getgid()
    command = ["setpriv", f"--regid={group}", "--clear-groups"] if not os.getuid() else []
    unit.run([*command, sys.executable, "-m", "spoolnode", *words, "--discover", "none"], **environment())
    try:
        unit.wait_for_output("ready")
        assert '{"' not in unit.output, "people read the journal"
        socket = (place / "uwsgi.sock").stat()
        assert stat.S_IMODE(socket.st_mode) == 0o660
        assert socket.st_gid == group
        assert re.search("^Group=www-data$", text, flags=re.M)
        assert re.search("^StateDirectoryMode=0700$", text, flags=re.M), "others of that group have no business in the spool"
    finally:
        unit.end()


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
