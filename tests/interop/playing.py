"""A page of the documentation, played: its files are written, its Python runs, its lines are typed into a shell, in their order.

The page has two hosts of its own, joined by a cable, so each address and port in it is meant literally. Comments above a block,
which no reader sees, are its stage directions:

    <!-- first: CODE -->     Python that stands before it: what the reader has and the page does not show
    <!-- shell: LINES -->    lines that are typed before it, for the same reason
    <!-- on: beta -->        it is typed on the second host
    <!-- end: beta -->       the programs there end first
    <!-- not run: REASON --> it is not played, and why
"""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from documents import ROOT, Block
from netns import Hosts
from programs import Program
from real_programs import NGINX
from support import PATIENCE, environment, eventually

APPLICATION = {
    "mailer.py": """
from spoolnode import spool

@spool
def mail(number, to):
    print("mail", number, to)
""",
    "orders.py": """
from spoolnode import current_task, spool

@spool(retry_base=0.1)
def serve(customer):
    if current_task().attempt == 1:
        raise ValueError("no such customer")
""",
    "manage.py": """
import os, sys
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
""",
    "mysite/__init__.py": "",
    "mysite/settings.py": """
SECRET_KEY = "x"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
INSTALLED_APPS = ["shop", "spoolnode.django"]
TASKS = {"default": {"BACKEND": "spoolnode.django.Backend"}}
""",
    "shop/__init__.py": "",
    "shop/models.py": """
from django.db import models

class Order(models.Model):
    total = models.IntegerField()
""",
}
"""What the reader of a page has already: the application that most pages send to, and a project of Django."""
CHECKED = {
    r"make (\w+)": lambda found: f"make -n -C {ROOT} {found[1]}",
    r"pip install '\.\[(\w+)\]'": lambda found: f"grep -q '^{found[1]} = ' {ROOT}/pyproject.toml",
}
"""Lines whose work has tests of its own, or needs a network: that there is such a thing is checked."""
EXAMPLES = ROOT / "examples"
IDENTITY = r"\b[0-9a-f]{12}_\d+_\d+\b"
VARIES = {
    r"code=[\w-]+": "CODE",
    r"\b[0-9a-f]{12}(_\d+_\d+)?\b": "ID",
    r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT": "TIME",
    r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d": "TIME",
    r"\d+(\.\d+)?": "N",
    r"N (ms|min|h|d)\b": "N s",
    r" +": " ",
}
"""Texts that differ each time."""
SERVERS = {
    r"spoolnode join ": '"action": "ready"',
    r"python manage.py spoolnode": '"action": "ready"',
    r"nginx ": None,
}
"""The lines that do not end, and what the program says when it is there; None: it says nothing, and its port is there."""
ASKED_AGAIN = r"spoolnode (peers|ls|status|show|timers|dead ls)\b"
"""Lines that only look: what they show may come a little later."""
NGINX_AROUND = """
daemon off; pid nginx.pid; error_log stderr; events {{}}
http {{ access_log off; client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
server {{ listen 127.0.0.1:8080; {} }} }}
"""


def without_what_varies(text: str) -> str:
    for pattern, name in VARIES.items():
        text = re.sub(pattern, name, text)
    return text.strip()


class Play:
    """A page that is being played."""

    def __init__(self, directory: Path, hosts: Hosts) -> None:
        self._hosts = hosts
        self._homes = [directory / "alpha", directory / "beta"]
        for home in self._homes:
            shutil.copytree(EXAMPLES, home / "examples")
        self._servers: list[tuple[str, Program]] = []
        for name, text in APPLICATION.items():
            self._write(name, text)
        self._count = 0
        self._identity = ""
        self._typed: tuple[int, str] = (0, "")
        self._output = ""
        self._hints = ""

    def end(self) -> None:
        """Ends the programs, the last first."""
        self._end([program for _, program in reversed(self._servers)])

    def block(self, block: Block) -> None:
        """Plays the next block. An AssertionError says what the page promises and does not keep."""
        host = 1 if block.comment("on") else 0
        if block.comment("end"):
            self._end([program for kind, program in self._servers if kind.startswith("1")])
        for line in filter(None, block.comment("shell").split("\n")):
            self._type(host, line.strip())
        getattr(self, f"_{block.language}")(block, host)

    def _python(self, block: Block, host: int) -> None:
        text = f"{block.comment('first')}\n{block.text}\n"
        if not importlib.util.find_spec("django.tasks"):
            text = re.sub("^.*# Django 5.2: (.*)$", r"\1", text, flags=re.M)
        if block.file:
            self._write(block.file, text)
            return
        self._count += 1
        self._write(f"example_{self._count}.py", text)
        self._output = self._run(host, f"python -c 'import example_{self._count}'")

    def _sh(self, block: Block, host: int) -> None:
        for line in block.text.replace("\\\n", "").split("\n"):
            self._type(host, line)

    def _text(self, block: Block, host: int) -> None:
        host, line = self._typed
        expected = without_what_varies(block.text)
        if line and re.match(ASKED_AGAIN, line):

            def shows() -> bool:
                lines = without_what_varies(self._run(host, line)).split("\n")
                return all(shown.strip() in map(str.strip, lines) for shown in expected.split("\n"))

            eventually(shows, f"{line} shows\n{expected}")
        elif not line:  # of the server that runs
            server = self._servers[-1][1]
            for shown in expected.split("\n"):
                server.wait_for(lambda shown=shown: shown in without_what_varies(server.output), repr(shown))
        else:
            # Some pages show hints on standard error, too; curl writes its progress there, but not on a terminal.
            assert expected in (without_what_varies(self._output), without_what_varies(self._output + self._hints))

    def _nginx(self, block: Block, host: int) -> None:
        name = block.file or f"nginx_{self._count}.conf"
        self._write(name, block.text if "http {" in block.text else NGINX_AROUND.format(block.text))
        self._run(host, f"{NGINX} -t -p . -c {name} -e stderr")

    def _json(self, block: Block, host: int) -> None:
        json.loads(block.text)

    def _write(self, name: str, text: str) -> None:
        for home in self._homes:
            path = home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def _type(self, host: int, line: str) -> None:
        """Types a line. An id in it is that of the last task of this play."""
        line = re.sub(rf"{IDENTITY}|\bID\b", self._identity or "ID", line)
        if line.startswith("cd "):
            self._homes[host] = self._homes[host] / line.removeprefix("cd ")
            return
        for pattern, check in CHECKED.items():
            if found := re.match(pattern, line):
                line = check(found)
        server = next((pattern for pattern in SERVERS if re.match(pattern, line)), None)
        self._typed, self._output = (host, "" if server else line), ""
        if server is None:
            self._output = self._run(host, line)
        else:
            self._serve(host, server, line)

    def _serve(self, host: int, pattern: str, line: str) -> None:
        """Starts it, in place of the one of its kind that runs on this host."""
        kind = f"{host} {pattern}"
        self._end([program for other, program in self._servers if other == kind])
        program = Program(self._homes[host], f"server_{time.monotonic_ns()}")
        self._servers.append((kind, program))
        program.run(self._on(host, ["bash", "-c", f"exec {line}"]), **self._environment())
        if said := SERVERS[pattern]:
            program.wait_for_output(said)
        else:
            asks = self._on(host, ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8080"])
            program.wait_for(lambda: _ends(self._homes[host], asks, self._environment())[0] == 0, "it listens")

    def _end(self, programs: list[Program]) -> None:
        for program in programs:
            program.end()
        self._servers = [server for server in self._servers if server[1] not in programs]

    def _run(self, host: int, line: str) -> str:
        status, output, self._hints = _ends(self._homes[host], self._on(host, ["bash", "-c", line]), self._environment())
        assert status == 0, f"{line}\n{output}{self._hints}\n{[program.output[-2000:] for _, program in self._servers]}"
        self._identity = (re.findall(IDENTITY, output) or [self._identity])[-1]
        return output

    def _on(self, host: int, command: list[str]) -> list[str]:
        return self._hosts.command(host, command)

    def _environment(self) -> dict[str, str]:
        around = environment(PYTHONDONTWRITEBYTECODE="1", DJANGO_SETTINGS_MODULE="mysite.settings")
        around["PATH"] = f"{Path(sys.executable).parent}:{around['PATH']}:/usr/sbin:/sbin"
        return around


def _ends(directory: Path, command: list[str], around: dict[str, str]) -> tuple[int, str, str]:
    """How a program ends that does end: its status, its output and its errors."""
    done = subprocess.run(
        command, cwd=directory, env=around, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=PATIENCE * 2, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr
