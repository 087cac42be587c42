"""The page about the wire: what it says to write works, in ten lines of socket code and behind a real nginx."""

import subprocess
import sys
from pathlib import Path

from documents import blocks, page, section, table
from real_programs import NGINX, Nginx
from support import PATIENCE, RunningNode, environment, need

from spoolnode.protocol import extension, names

MAILER = """
from spoolnode import spool

@spool
def mail(number, to, body=b""):
    print("mail", repr(number), repr(to), body)
"""


def test_ten_lines_of_socket_code_call_a_function(node: RunningNode) -> None:
    (code,) = blocks("docs/wire.md", "Call a function", "python")
    assert len([line for line in code.text.split("\n") if line]) <= 10
    (node.directory / "mailer.py").write_text(MAILER)
    node.start("-w", "mailer")
    for text, said in ((code.text, "stored\n"), (code.text.replace("spool_func", "spool_fun"), "refused\n")):
        done = subprocess.run(
            [sys.executable, "-c", text.replace("3031", str(node.port))],
            env=environment(), capture_output=True, text=True, timeout=PATIENCE, check=True,
        )  # fmt: skip
        assert done.stdout == said
    node.wait_for_log("print", text="mail '1' 'ada@example.org' b''")


def test_nginx_calls_a_function(node: RunningNode, nginx: Nginx) -> None:
    need(NGINX)
    (node.directory / "mailer.py").write_text(MAILER)
    node.start("-w", "mailer")
    (location,) = blocks("docs/wire.md", "Call a function", "nginx")
    nginx.start(location.text.replace("127.0.0.1:3031", node.via))
    status, headers, _ = nginx.ask("GET", "/subscribe?to=ada")
    assert status == 202
    node.wait_for_log("print", id=headers["X-Spool-Id"], text="mail '1' 'ada' b''")
    nginx.ask("POST", "/subscribe?to=bob", body=b"hello")
    node.wait_for_log("print", text="mail '1' 'bob' b'hello'")


def test_every_variable_that_a_client_may_send_is_on_the_page() -> None:
    said = {row[0].strip("`") for row in table(page("docs/wire.md"))}
    assert {name.decode() for name in names.FROM_CLIENTS} <= said


def test_every_extension_type_is_on_the_page() -> None:
    documented = {row[0] for row in table(Path(extension.__file__).read_text())}
    assert documented
    assert documented <= {row[0] for row in table(section("docs/wire-format.md", "Typed values"))}
