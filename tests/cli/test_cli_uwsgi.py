"""People who come from uWSGI: its ini files, read as the real one reads them, its options, and what they are told."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import RunningNode, command

from spoolnode.cli.settings import SETTINGS, gather
from spoolnode.cli.uwsgi_ini import read_ini
from spoolnode.cli.uwsgi_settings import from_ini
from spoolnode.node.badconfig import BadConfig
from spoolnode.node.config import Config
from spoolnode.protocol.packet import MAX_BLOCK

INI = """
; a server with web processes and a spooler
[other]
import = of_another_section
[uwsgi]
base = %d
set-placeholder = name=shop
later = %(soon)
soon = 7
chdir = %(base)app
module = %(name).wsgi:application
master
processes = 4
spooler = %(base)spool
spooler-processes = 3
mule = %(soon - 4)
env = HOME_OF=$(OWNER)
env = UNKNOWN=$(NOBODY_SETS_THIS)
for = mail films
spooler-import = tasks.%(_)
endfor =
if-env = OWNER
touch-reload = %(base)touch
endif =
if-not-env = OWNER
touch-reload = never
endif =
procname = @(%dtitle) 50%% %(soon . 1)
ini = :other
include = %dmore.ini
"""


@pytest.fixture
def ini(tmp_path: Path) -> Path:
    (tmp_path / "more.ini").write_text("[uwsgi]\nspooler-harakiri = 30\nthreads = 2\nmule = %n\n")
    (tmp_path / "title").write_text("shop\n")
    (tmp_path / "app").mkdir()
    path = tmp_path / "uwsgi.ini"
    path.write_text(INI)
    return path


def test_ini_file_reads_as_the_real_one_reads_it(ini: Path) -> None:
    uwsgi = shutil.which("uwsgi", path=str(Path(sys.executable).parent))
    if uwsgi is None:
        pytest.skip("uwsgi is not installed")
    environment = {**os.environ, "OWNER": "ada"}
    done = subprocess.run(
        [uwsgi, "--ini", str(ini), "--show-config", "--no-server"],
        env=environment,
        cwd=ini.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    shown = (done.stdout + done.stderr).partition("[uwsgi]\n")[2].partition(";end of")[0]
    theirs = [tuple(part.strip() for part in line.partition("=")[::2]) for line in shown.splitlines() if line]
    ours = [(option.name, option.value) for option in read_ini(str(ini), environment)]
    words = {"chdir", "module", "spooler", "spooler-import", "import", "env", "touch-reload", "procname", "mule", "later",
             "spooler-harakiri", "spooler-processes"}  # fmt: skip
    assert ours
    assert [pair for pair in ours if pair[0] in words] == [pair for pair in theirs if pair[0] in words]


def test_the_spoolers_side_becomes_settings_and_the_rest_is_listed(ini: Path) -> None:
    found = from_ini([str(ini)], {}, {"OWNER": "ada"})
    place = ini.parent
    assert found.settings == {
        "app": "shop.wsgi", "import": ["of_another_section", "tasks.mail", "tasks.films"], "chdir": f"{place}/app",
        "spool": f"{place}/spool", "workers": 3, "timeout": 30.0, "env": ["HOME_OF=ada", "UNKNOWN=$(NOBODY_SETS_THIS)"],
        "touch_reload": [f"{place}/touch"],
    }  # fmt: skip
    assert set(found.ignored) >= {"master", "processes", "threads", "mule", "procname"}
    assert not set(found.ignored) & {"module", "spooler", "ini", "include", "for", "endfor", "set-placeholder"}


def test_everything_else_counts_more_than_the_ini_file(ini: Path) -> None:
    said = from_ini([str(ini)], {}, {}).settings
    config = gather({"spool": "mine"}, {"SPOOLNODE_WORKERS": "5"}, None, said).config
    assert (config.spool, config.workers, config.timeout) == ("mine", 5, 30.0)


@pytest.mark.parametrize(
    ("lines", "settings"),
    [
        ("spooler-external = /var/spool/web", {"spool": "/var/spool/web"}),
        ("spooler = a\nspooler-external = b", {"spool": "a"}),
        ("chdir = /srv\nspooler-chdir = /work", {"chdir": "/work", "pythonpath": ["/srv"]}),
        ("import = tasks", {"app": "tasks", "import": []}),
        ("buffer-size = 1000000", {"buffer_size": MAX_BLOCK}),
        ("chmod-socket", {"chmod_socket": "666"}),
        ("socket = :3031\nsocket = /run/a.sock", {"listen": [":3031", "/run/a.sock"]}),
        ("wsgi-file = app.py\npython-path = lib\npp = more", {"app": "app.py", "import": [], "pythonpath": ["lib", "more"]}),
    ],
)
def test_options_that_stand_beside_a_spooler(tmp_path: Path, lines: str, settings: dict[str, object]) -> None:
    path = tmp_path / "uwsgi.ini"
    path.write_text(f"[uwsgi]\n{lines}\n")
    assert from_ini([str(path)], {}, {}).settings == settings
    assert set(settings) <= set(SETTINGS)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("spooler = a\nspooler = b", "names 2 directories with `spooler` (a, b), and a node has one"),
        ("spooler-processes = many", "uwsgi.ini: spooler-processes is 'many'; it must be a whole number"),
        ("ini = nowhere.ini", "the file 'nowhere.ini' cannot be read: No such file or directory"),
        ("ini = :nowhere", "has no section [nowhere]"),
        ("ini = :uwsgi", "one of them names itself"),
    ],
)
def test_ini_file_that_cannot_be_used_is_one_sentence(tmp_path: Path, lines: str, says: str) -> None:
    (tmp_path / "uwsgi.ini").write_text(f"[uwsgi]\n{lines}\n")
    with pytest.raises(BadConfig) as error:
        from_ini([str(tmp_path / "uwsgi.ini")], {}, {})
    assert says in str(error.value)


def test_of_several_directories_the_command_line_chooses(tmp_path: Path) -> None:
    (tmp_path / "uwsgi.ini").write_text("[uwsgi]\nspooler = a\nspooler = b\n")
    said = from_ini([str(tmp_path / "uwsgi.ini")], {"spool": "b"}, {}).settings
    assert gather({"spool": "b"}, {}, None, said).config.spool == "b"


@pytest.mark.skipif(os.getuid() != 0, reason="only root could run tasks with more rights than the file says")
def test_root_does_not_run_what_the_file_gives_to_another_user(tmp_path: Path) -> None:
    (tmp_path / "uwsgi.ini").write_text("[uwsgi]\nuid = nobody\n")
    done = command("join", "uwsgi.ini", cwd=tmp_path)
    assert done.returncode == 2
    assert "uwsgi.ini says uid = nobody, and this is root: start the node as that user" in done.stderr


def test_node_started_with_an_ini_file_runs_its_tasks_and_says_once_what_it_ignores(node: RunningNode) -> None:
    (node.directory / "wsgi.py").write_text("def application(environ, start_response): pass\n")
    (node.directory / "tasks.py").write_text("import uwsgi\nuwsgi.spooler = lambda env: print('ran', env[b'a'])\n")
    (node.directory / "uwsgi.ini").write_text(
        "[uwsgi]\nchdir = %d\nmodule = wsgi:application\nspooler-import = tasks\nmaster = true\nprocesses = 4\n"
        "vacuum = true\nspooler = %dother\n"
    )
    node.start("uwsgi.ini")
    (note,) = node.lines("note")
    assert note["text"] == "a node ignores these options of uwsgi.ini: master, processes, vacuum"
    node.command("send", "a=b")
    node.wait_for_log("print", text="ran b'b'")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-Q", "a", "-Q", "b"], "--spool is given twice, and a node has one: start a node for each directory"),
        (["--spooler", "a", "-Q", "b"], "--spool is given twice"),
        (["-w", "a", "-w", "b"], "--app is given twice, and a node has one: name the others with --import"),
        (["--module", "a", "--wsgi-file", "b"], "--app is given twice"),
        (["--harakiri", "30"], "a node has no --harakiri: it is about web requests, which a node does not serve; for tasks"),
        (["-t", "30"], "a node has no -t: it is about web requests"),
        (["-H", "/srv/venv"], "a node has no -H: install spoolnode in that environment"),
        (["--uid", "www-data"], "a node has no --uid: start the node as that user"),
        (["--daemonize", "log"], "a node has no --daemonize: a node stays in the foreground"),
        (["--spooler-external", "d"], "a node has no --spooler-external: it is for the web server"),
    ],
)  # fmt: skip
def test_options_of_uwsgi_that_cannot_be_taken_say_what_there_is_instead(words: list[str], says: str) -> None:
    done = command("config", *words)
    assert done.returncode == 2
    assert says in done.stderr


def test_spooler_processes_count_the_workers_beside_processes_in_either_order() -> None:
    for words in (["--processes", "4", "--spooler-processes", "2"], ["--spooler-processes", "2", "-p", "4"]):
        assert "workers = 2" in command("config", *words).stdout
    assert "workers = 4" in command("config", "--processes", "4").stdout


def test_config_takes_every_option_of_join(ini: Path) -> None:
    words = ["-Q", "myspool", "-s", "/tmp/uwsgi.sock", "-b", "8192", "-w", "testapp", "-A", "10", "--ini", str(ini), "--vacuum"]
    done = command("config", *words, cwd=ini.parent)
    assert done.returncode == 0, done.stderr
    assert 'spool = "myspool"' in done.stdout
    assert 'timeout = "30s"  # from: --ini' in done.stdout
    assert Config().timeout == 0
