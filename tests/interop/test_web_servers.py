"""Tasks sent by web applications, under the servers that people run them with: real ones, each in processes of its own."""

import http.client
import json
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from documents import blocks
from real_programs import Program, Uwsgi
from support import RunningNode, environment, eventually

TASKS = """
from spoolnode import spool

@spool
def ran(name):
    print("ran", name)
"""

ASGI = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from spoolnode import asend_to_spooler
from app import ran

async def send(request):
    name = request.path_params["name"]
    first = await ran.aspool(name)
    second = await asend_to_spooler({"spare": name}, node="nobody")
    return JSONResponse([first, second])

web = Starlette(routes=[Route("/{name}", send)])
"""

WSGI = """
import json
import os

from app import ran

opened = ran.spool(f"import{os.getpid()}")  # in the master with --preload: what it opened is not its children's to use

def web(environ, start_response):
    name = environ["PATH_INFO"][1:]
    answer = json.dumps([ran.spool(name), os.getpid()]).encode()
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]
"""

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


class Server(Program):
    """A web server on a unix socket."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "server")
        self.socket = directory / "web.sock"

    def start(self, node: RunningNode, *command: str, **changes: str) -> None:
        """Starts it; returns when it answers."""
        settings = {"SPOOLNODE_VIA": node.via, "PYTHONDONTWRITEBYTECODE": "1", **changes}
        self.run([sys.executable, "-m", *command], **environment(**settings))
        self.wait_for(lambda: self.socket.exists() and self.ask("first"), "an answer")

    def ask(self, name: str) -> Any:
        """The answer to one request, decoded; None while nothing listens."""
        connection = http.client.HTTPConnection("web")
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.settimeout(20)
            connection.sock.connect(str(self.socket))
            connection.request("GET", f"/{name}")
            response = connection.getresponse()
            assert response.status == 200, self.output
            return json.loads(response.read())
        except ConnectionRefusedError:
            return None
        except ConnectionResetError:
            raise AssertionError(self.output) from None
        finally:
            connection.close()

    def ask_many(self) -> list[Any]:
        """The answers to many requests at once."""
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(self.ask, [f"n{number}" for number in range(REQUESTS)]))


@pytest.fixture
def server(node: RunningNode, place: Path) -> Iterator[Server]:
    """Beside a node that runs app.py. Ended at the end of the test."""
    node.start(app=TASKS)
    (place / "app.py").write_text(TASKS)
    (place / "asgi.py").write_text(ASGI)
    (place / "wsgi.py").write_text(WSGI)
    server = Server(place)
    yield server
    server.end()


def names_that_ran(node: RunningNode) -> list[str]:
    return sorted(line["text"].removeprefix("ran ") for line in node.lines("print", text="ran n"))


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_asgi_application_under_uvicorn(node: RunningNode, server: Server, loop: str) -> None:
    server.start(node, "uvicorn", "asgi:web", "--uds", str(server.socket), "--loop", loop)
    answers = server.ask_many()
    assert len({identity for answer in answers for identity in answer}) == 2 * REQUESTS
    eventually(lambda: len(names_that_ran(node)) >= REQUESTS, "all ran")
    assert names_that_ran(node) == sorted(f"n{number}" for number in range(REQUESTS))
    assert node.status()["outbox"]


@pytest.mark.slow
@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
@pytest.mark.parametrize("kind", ["sync", "gthread", "gevent"])
def test_wsgi_application_under_gunicorn(node: RunningNode, server: Server, kind: str, preload: bool) -> None:
    options = ["--bind", f"unix:{server.socket}", "--worker-class", kind, "--workers", "2", "--graceful-timeout", "1"]
    server.start(node, "gunicorn", "wsgi:web", *options, *(["--preload"] if preload else []))
    answers = server.ask_many()
    assert len({identity for identity, _ in answers}) == REQUESTS
    eventually(lambda: len(names_that_ran(node)) >= REQUESTS, "all ran")
    assert names_that_ran(node) == sorted(f"n{number}" for number in range(REQUESTS))


@pytest.mark.slow
def test_uwsgi_application_sends_from_gunicorn_when_its_configuration_installs_the_modules(
    node: RunningNode, server: Server, place: Path
) -> None:
    node.stop()
    node.start(app=UWSGI_APPLICATION)
    (place / "uwsgiapp.py").write_text(UWSGI_APPLICATION)
    (place / "gunicorn.conf.py").write_text(CONFIGURATION)
    options = ["--bind", f"unix:{server.socket}", "--graceful-timeout", "1"]
    server.start(node, "gunicorn", "uwsgiapp:web", *options, SPOOLNODE_VIA="", SPOOLNODE_SPOOL=str(node.spool))
    assert server.ask("second") == [str(node.spool), False]
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
