"""`join`: starting, refusing to start, stopping."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documents import blocks
from support import RunningNode, command, environment

from spoolnode import __version__


def test_help_names_every_command() -> None:
    done = command("--help")
    assert done.returncode == 0
    listed = done.stdout.partition("Commands:")[2].split("\n")
    names = [line.split()[0] for line in listed if line.strip()]
    assert names == [
        *(
            "join",
            "send",
            "call",
            "status",
            "peers",
            "top",
            "accept",
            "forget",
            "ls",
            "qshape",
            "show",
            "timers",
            "tail",
            "rm",
            "cancel",
            "retry",
            "dead",
            "ping",
            "flush",
            "reload",
            "drain",
            "pause",
            "resume",
            "settle",
            "stop",
            "web",
        ),
        *("config", "store", "ca", "doctor", "completion", "demo"),
    ]
    assert "..." not in done.stdout.partition("Commands:")[2]


def test_help_loads_nothing_heavy() -> None:
    import subprocess
    import sys

    from support import environment

    program = (
        "import sys; from spoolnode.cli import main; main(['--help'], standalone_mode=False);"
        "heavy = {'rich', 'aiohttp', 'uvloop', 'msgpack', 'structlog', 'asyncio', 'http.client', 'dataclasses', 'zeroconf'};"
        "sys.exit(repr(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_version() -> None:
    assert command("--version").stdout == f"spoolnode {__version__}\n"


def test_unknown_command_is_2() -> None:
    assert command("jion").returncode == 2


def test_ready_line_says_where_who_and_which_spool(node: RunningNode, app: str) -> None:
    node.start("--discover", "none", app=app)
    (ready,) = node.lines("ready")
    assert ready["listen"] == [node.via]
    assert (ready["name"], ready["spool"], ready["app"]) == ("testnode", str(node.spool), "app.py")
    assert ready["id"] == (node.spool / "node.id").read_text().strip()
    assert not node.noise
    assert not node.lines("note")
    assert node.stop() == 0
    assert node.lines("stopped")
    assert not (node.spool / "control.sock").exists()


def test_uwsgi_command_line_of_the_manual_runs_with_a_note(node: RunningNode, app: str) -> None:
    node.spool = node.directory / "myspool"
    (node.directory / "testapp.py").write_text(app)
    socket = str(node.directory / "uwsgi.sock")
    node.start("-Q", "myspool", "-s", socket, "-b", "8192", "-w", "testapp", "-A", "10", "-M", "--spooler-ordered",
               "--spooler-freq", "5", "--spooler-quiet", "--processes", "2")  # fmt: skip
    assert {line["option"] for line in node.lines("note")} == {*("-A", "-M", "--spooler-ordered", "--spooler-quiet")}
    done = node.command("send", "name=Serena", "--via", socket)
    assert done.returncode == 0
    node.wait_for_log("print", id=done.stdout.strip(), text="ran Serena")


def test_application_is_found_and_surrounded_as_the_options_say_also_after_its_link_was_turned(node: RunningNode) -> None:
    for release in ("1", "2"):
        place = node.directory / release / "lib"
        place.mkdir(parents=True)
        (place / "base.py").write_text(f"import os\ndef go(task): print({release!r}, os.environ['GREETING'], os.getcwd())\n")
        (place.parent / "more.py").write_text("import base\nprint('more')\n")
    (node.directory / "current").symlink_to("1")
    node.start("--chdir", "current", "--pythonpath", "lib", "--env", "GREETING=a=b", "--import", "more", "--app", "base",
               "--callable", "go")  # fmt: skip
    node.command("send", "a=b")
    node.wait_for_log("print", text=f"1 a=b {node.directory}/1")
    assert node.lines("print", text="more")
    (node.directory / "current").unlink()
    (node.directory / "current").symlink_to("2")
    node.command("reload")
    node.wait_for_log("reloaded")
    node.command("send", "a=b")
    node.wait_for_log("print", text=f"2 a=b {node.directory}/2")


def test_what_is_imported_is_the_application_when_none_is_named(node: RunningNode) -> None:
    (node.directory / "tasks.py").write_text("import uwsgi\nuwsgi.spooler = lambda env: print('ran', env[b'a'])\n")
    node.start("--spooler-import", "tasks")
    node.command("send", "a=b")
    node.wait_for_log("print", text="ran b'b'")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["--env", "A"], "Error: --env is 'A'; it must be NAME=VALUE\n"),
        (["--callable", "go"], "Error: --callable is 'go', but there is no application; name it with --app MODULE\n"),
        (
            ["-w", "a:b", "--callable", "c"],
            "Error: --callable is 'c', but --app a:b names a callable already; give one of them\n",
        ),
    ],
)
def test_options_of_the_application_that_cannot_be_are_one_sentence_and_2(tmp_path: Path, line: list[str], says: str) -> None:
    done = command("join", *line, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, says)


def test_seeds_are_peers_besides_those_that_are_discovered(node: RunningNode) -> None:
    node.start("127.0.0.1:1", "127.0.0.1:2")
    rows = json.loads(node.command("peers", "--json").stdout)
    assert [(row["address"], row["sources"]) for row in rows] == [
        (f"127.0.0.1:{port}", ["static://127.0.0.1:1,127.0.0.1:2"]) for port in (1, 2)
    ]


def test_application_that_does_not_load_ends_with_its_traceback_and_1(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    done = command("join", "-s", "127.0.0.1:0", "-w", "broken", "--log-format", "json", cwd=tmp_path)
    assert done.returncode == 1
    assert "ModuleNotFoundError: No module named 'nothing_of_that_name'" in done.stderr
    assert done.stderr.endswith("Error: the application 'broken' does not load, so the node did not start\n")


def test_second_node_on_the_same_spool_is_refused(node: RunningNode) -> None:
    node.start()
    done = node.command("join", "-s", "127.0.0.1:0")
    assert done.returncode == 2
    assert f"another node (pid {node.pid}) runs on {node.spool}" in done.stderr
    assert node.is_running


def test_stop_waits_for_the_end_when_asked(node: RunningNode) -> None:
    node.start()
    done = node.command("stop", "--wait")
    assert (done.returncode, done.stdout) == (0, "stopped\n")
    assert node.wait() == 0


def test_reload_loads_the_application_anew(node: RunningNode, app: str) -> None:
    node.start(app=app)
    (node.directory / "app.py").write_text(app.replace('"ran"', '"newly ran"'))
    assert node.command("reload").returncode == 0
    node.wait_for_log("reloaded")
    node.command("send", "name=Ada")
    node.wait_for_log("print", text="newly ran Ada")


def test_reload_without_an_application_is_an_error(node: RunningNode) -> None:
    node.start()
    done = node.command("reload")
    assert (done.returncode, done.stderr) == (1, "Error: this node has no application, so there is nothing to reload\n")


def test_variable_that_is_no_setting_is_warned_about(node: RunningNode) -> None:
    node.start(SPOOLNODE_WORKES="3", SPOOLNODE_VIA="127.0.0.1:1", SPOOLNODE_GRACE="5", SPOOLNODE_SERVICE_HOST="10.0.0.1")
    (warning,) = node.lines("unknown_variable")
    assert warning["level"] == "warning"
    assert warning["reason"] == "there is no setting 'SPOOLNODE_WORKES'; did you mean 'SPOOLNODE_WORKERS'?"


@pytest.mark.parametrize("line", [["status"], ["reload"], ["stop"]])
def test_without_a_node_one_sentence_and_1(tmp_path: Path, line: list[str]) -> None:
    done = command(*line, "-Q", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == f"Error: no node runs on the spool '{tmp_path}'\n"


@pytest.mark.slow
@pytest.mark.timeout(600)  # a busy machine may be twenty times as slow
def test_demo_keeps_its_promises_however_busy_the_machine_is(tmp_path: Path) -> None:
    """It has half of one processor, on a machine with more of them, too."""
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(processors)})  # for all that we start here
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        line = [sys.executable, "-m", "spoolnode", "demo"]
        done = subprocess.run(line, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=600, check=False)
    finally:
        busy.kill()
        busy.wait()
        os.sched_setaffinity(0, processors)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all 200 have run, none is lost" in done.stdout
    assert "answer  ff 00 00 01" in done.stdout
    (shown,) = blocks("README.md", "Try it", "text")
    assert re.sub(r"[\d.]+ s", "", done.stdout.splitlines()[-1]) == re.sub(r"[\d.]+ s", "", shown.text)
    assert not list(tmp_path.iterdir())
