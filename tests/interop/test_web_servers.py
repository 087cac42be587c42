"""Tasks sent by web applications, under the servers that people run them with: real ones, each in processes of its own."""

import json
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from documents import blocks, lines_to_type
from real_programs import Uwsgi, WebServer
from support import RunningNode, eventually

PAGE = "docs/web-frameworks.md"

FRAMEWORKS = ("FastAPI", "Starlette", "Flask", "aiohttp")

VARIANTS = {"uvicorn": ("--loop uvloop", "--loop asyncio"), "gunicorn": ("", "--preload"), "flask": ("",)}
"""More options of each server, one after another."""

GUNICORN = """
workers = 2

def when_ready(server):
    from main import mail
    mail.spool("master")
"""
"""Its configuration: what the master has opened when it forks its workers is not theirs to use."""

UWSGI_APPLICATION = """
import json
import os
import uwsgi
from uwsgidecorators import lock, spool, timer

@spool
def ran(env):
    print("ran", env["name"], env["by"], os.getpid())

@spool(pass_arguments=True)
def with_arguments(*args, **kwargs):
    print("ran with", args, kwargs)

@timer(3600)
def sometimes(signum):
    print("never")

@lock
def alone():
    pass

alone()

def web(environ, start_response):
    name = environ["PATH_INFO"][1:].encode()
    path = ran.spool({b"name": name, b"by": str(os.getpid()).encode()})
    with_arguments(1, two=[name.decode()])
    answer = json.dumps([os.path.dirname(path.decode()), bool(uwsgi.i_am_the_spooler())]).encode()
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]
"""
"""It runs in a node's workers and, unmodified, in web processes."""

CONFIGURATION = "import spoolnode.compat\n\nspoolnode.compat.install()\n"

REQUESTS = 24
"""So many of each kind."""


def lines_of_the_page() -> list[tuple[str, str]]:
    """Each framework with each line of its section that starts a server, in all variants."""
    return [
        (framework, f"{block.text} {variant}".strip())
        for framework in FRAMEWORKS
        for block in blocks(PAGE, framework, "sh")
        for variant in VARIANTS[block.text.split()[0]]
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("framework", "line"), lines_of_the_page())
def test_each_request_of_an_example_gets_the_id_of_its_task_which_runs_once(
    node: RunningNode, server: WebServer, place: Path, framework: str, line: str
) -> None:
    (example,) = blocks(PAGE, framework, "python")
    for directory in (place, node.directory):
        (directory / "main.py").write_text(example.text)
    (place / "gunicorn.conf.py").write_text(GUNICORN)
    (join,) = lines_to_type(PAGE)[:1]
    node.start(*shlex.split(join)[2:])
    server.start(line, "/mails/first", "POST", SPOOLNODE_VIA=node.via)
    ways = ["mails", "sync"] if "/sync/" in example.text else ["mails"]
    names = [f"{way}{number}" for way in ways for number in range(REQUESTS)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda name: server.ask(f"/{name.rstrip('0123456789')}/{name}", "POST"), names))
    others = ["first", *(["master"] if line.startswith("gunicorn") else [])]
    eventually(lambda: len(node.lines("print")) >= len([*names, *others]), "all have run")
    eventually(lambda: node.status()["total"] == 0, "all have ended")
    ran = {line["text"].removeprefix("mail to "): line["id"] for line in node.lines("print")}
    assert sorted(ran) == sorted([*names, *others])
    assert len(node.lines("print")) == len(ran)
    assert [ran[name] for name in names] == [answer["task"] for answer in answers]


@pytest.mark.slow
def test_uwsgi_application_sends_from_gunicorn_when_its_configuration_installs_the_modules(
    node: RunningNode, server: WebServer, place: Path
) -> None:
    node.start(app=UWSGI_APPLICATION)
    (place / "uwsgiapp.py").write_text(UWSGI_APPLICATION)
    (place / "gunicorn.conf.py").write_text(CONFIGURATION)
    server.start("gunicorn uwsgiapp:web", "/first", SPOOLNODE_SPOOL=str(node.spool))
    assert server.ask("/second") == [str(node.spool), False]
    ran = node.wait_for_log("print", text="ran second")["text"].split()
    assert ran[2] != ran[3], "not in the web process"
    node.wait_for_log("print", text="ran with (1,) {'two': ['second']}")


@pytest.mark.slow
def test_uwsgi_application_stays_under_a_real_uwsgi_with_one_more_line(node: RunningNode, uwsgi: Uwsgi) -> None:
    """The line is that of docs/uwsgi.md: uwsgidecorators look for a spooler of this uWSGI, and there is none."""
    line = blocks("docs/uwsgi.md", "Its web processes", "python")[0].text
    node.start(app=UWSGI_APPLICATION)
    (uwsgi.directory / "wsgi.py").write_text(f"{line}\nfrom app import web as application\n")
    uwsgi.start("--spooler-external", str(node.spool), "-w", "wsgi")
    answer = uwsgi.call(PATH_INFO="/second")
    assert json.loads(answer) == [str(node.spool), False]
    ran = node.wait_for_log("print", text="ran second")["text"].split()
    assert ran[2] != ran[3], "not in the web process"
    node.wait_for_log("print", text="ran with (1,) {'two': ['second']}")
