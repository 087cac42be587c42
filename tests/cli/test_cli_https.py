"""TLS on `--http` of a real node: what browsers get, from which addresses, and with which certificate."""

import datetime
import http.client
import ipaddress
import json
import os
import signal
import socket
import ssl
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support import PATIENCE, RunningNode, eventually

from spoolnode.node.control.https import HttpCertificate
from spoolnode.node.control.public import MAX_HTTP
from spoolnode.node.control.routes import PREFIX

NAME = "tasks.example.org"
TOKEN = "correct-horse-battery-staple"


class Files(NamedTuple):
    certificate: Path
    key: Path

    @property
    def options(self) -> list[str]:
        return ["--http-tls-cert", str(self.certificate), "--http-tls-key", str(self.key)]


def issue(files: Files, password: bytes = b"") -> str:
    """Writes a self-signed certificate for 127.0.0.1 and `NAME`. Returns its serial number, as `getpeercert` does."""
    key, serial = ec.generate_private_key(ec.SECP256R1()), x509.random_serial_number()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    names = x509.SubjectAlternativeName([x509.DNSName(NAME), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(serial)
    builder = builder.not_valid_before(now - day).not_valid_after(now + day).add_extension(names, critical=False)
    made = builder.sign(key, hashes.SHA256())
    secret = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    files.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret))
    return f"{serial:X}"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    made = Files(tmp_path / "page.crt", tmp_path / "page.key")
    issue(made)
    return made


class Client:
    """Trusts the certificate in the file as it is now, and asks with an address or a name of its own choice."""

    def __init__(self, node: RunningNode, files: Files) -> None:
        self.context = ssl.create_default_context(cafile=str(files.certificate))
        self.port = int(node.lines("ready")[-1]["http"].rpartition(":")[2])
        self.host = f"127.0.0.1:{self.port}"

    def __call__(self, method: str, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=PATIENCE, context=self.context)
        connection.putrequest(method, path, skip_host=True)
        for name, value in {"Host": self.host, **headers}.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer, body

    def serial(self) -> str:
        """The serial number of the certificate that the node shows."""
        with (
            socket.create_connection(("127.0.0.1", self.port), PATIENCE) as plain,
            self.context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
        ):
            return str((secured.getpeercert() or {})["serialNumber"]).lstrip("0")


def test_a_session_over_tls_has_a_cookie_that_never_travels_without_and_a_token_works(node: RunningNode, files: Files) -> None:
    (token := node.directory / "token").write_text(TOKEN)
    node.start("--http", "127.0.0.1:0", "--http-token-file", str(token), *files.options)
    client = Client(node, files)
    link = node.command("web").stdout.strip()
    assert link.startswith(f"https://{client.host}/login?code=")
    answer, _ = client("GET", link.removeprefix(f"https://{client.host}"))
    cookie = str(answer.headers["Set-Cookie"])
    assert answer.status == 303
    assert "Secure" in [part.strip() for part in cookie.split(";")]
    session = cookie.partition(";")[0]
    assert client("GET", f"{PREFIX}/tasks", Cookie=session)[0].status == 200
    assert client("POST", f"{PREFIX}/pause", Cookie=session, Origin=f"https://{client.host}")[0].status == 200
    assert client("POST", f"{PREFIX}/pause", Cookie=session, Origin=f"http://{client.host}")[0].status == 403, "not of ours"
    assert client("GET", f"{PREFIX}/tasks")[0].status == 401
    assert client("GET", f"{PREFIX}/tasks", Authorization=f"Bearer {TOKEN}")[0].status == 200


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_either_version_of_tls_gets_the_whole_answer(node: RunningNode, files: Files, version: ssl.TLSVersion) -> None:
    node.start("--http", "127.0.0.1:0", *files.options)
    client = Client(node, files)
    client.context.minimum_version = client.context.maximum_version = version
    answer, body = client("GET", f"{PREFIX}/openapi.json")
    assert answer.status == 200
    assert json.loads(body)["openapi"].startswith("3.1")


def test_versions_of_tls_that_are_broken_are_not_spoken(files: Files) -> None:
    assert HttpCertificate(str(files.certificate), str(files.key)).context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_plain_http_gets_nothing(node: RunningNode, files: Files) -> None:
    node.start("--http", "127.0.0.1:0", *files.options)
    client = Client(node, files)
    with socket.create_connection(("127.0.0.1", client.port), PATIENCE) as plain:
        plain.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        got = b"".join(iter(lambda: _read(plain), b""))
    assert b"HTTP" not in got
    assert b"spoolnode" not in got
    assert client("GET", "/metrics")[0].status == 200


def _read(sock: socket.socket) -> bytes:
    try:
        return sock.recv(4096)
    except ConnectionError:
        return b""


def test_a_new_certificate_is_shown_after_a_reload_and_one_that_cannot_be_used_never(node: RunningNode, files: Files) -> None:
    node.start("--http", "127.0.0.1:0", *files.options)
    serial = issue(files)
    os.kill(node.pid, signal.SIGHUP)
    node.wait_for_log("tls_reloaded", certificate=str(files.certificate))
    client = Client(node, files)
    assert client.serial() == serial
    issue(Files(node.directory / "other.crt", files.key))
    os.kill(node.pid, signal.SIGHUP)
    said = node.wait_for_log("tls_reload_failed", level="warning")
    assert said["reason"] == f"--http-tls-key {files.key} is not the key of --http-tls-cert {files.certificate}"
    assert client.serial() == serial
    assert client("GET", "/metrics")[0].status == 200


def test_beyond_loopback_a_certificate_is_enough_and_named_networks_still_count(node: RunningNode, files: Files) -> None:
    node.start("--http", "0.0.0.0:0", "--http-name", NAME, *files.options)
    client = Client(node, files)
    assert node.command("web").stdout.startswith(f"https://{NAME}:{client.port}/login"), "what the certificate is for"
    assert client("GET", f"{PREFIX}/node", Host=NAME)[0].status == 200
    assert client("GET", f"{PREFIX}/node", Host="evil.example")[0].status == 403
    assert client("GET", f"{PREFIX}/tasks", Host=NAME)[0].status == 401


def test_handshakes_that_do_not_go_on_keep_nobody_out_and_take_no_descriptors(node: RunningNode, files: Files) -> None:
    node.start("--http", "127.0.0.1:0", *files.options)
    client = Client(node, files)
    before = len(os.listdir(f"/proc/{node.pid}/fd"))
    with ExitStack() as stack:
        for _ in range(5 * MAX_HTTP):
            stack.enter_context(socket.create_connection(("127.0.0.1", client.port), PATIENCE)).sendall(b"\x16\x03\x01")
        assert client("GET", "/metrics")[0].status == 200
        eventually(lambda: len(os.listdir(f"/proc/{node.pid}/fd")) < before + MAX_HTTP + 16, "the oldest are gone")
        assert client("GET", "/metrics")[0].status == 200


def test_a_handshake_that_does_not_go_on_ends(node: RunningNode, files: Files) -> None:
    node.start("--http", "127.0.0.1:0", *files.options)
    with socket.create_connection(("127.0.0.1", Client(node, files).port), PATIENCE) as silent:
        silent.sendall(b"\x16\x03\x01")
        assert _read(silent) == b"", "within its limit"


def test_a_node_that_serves_tls_stops_with_connections_in_any_state(node: RunningNode, files: Files) -> None:
    node.start("--http", "127.0.0.1:0", *files.options)
    client = Client(node, files)
    with ExitStack() as stack:
        begun = stack.enter_context(socket.create_connection(("127.0.0.1", client.port), PATIENCE))
        begun.sendall(b"\x16\x03\x01")
        plain = stack.enter_context(socket.create_connection(("127.0.0.1", client.port), PATIENCE))
        stack.enter_context(client.context.wrap_socket(plain, server_hostname="127.0.0.1"))
        assert node.stop() == 0
    assert not node.lines("mistake")
    assert not node.noise


def test_files_that_cannot_be_used_are_an_error_of_the_settings(node: RunningNode, files: Files) -> None:
    def said(*options: str) -> str:
        done = node.command("join", "-s", "127.0.0.1:0", "--http", "127.0.0.1:0", *options)
        assert done.returncode == 2
        return done.stderr.splitlines()[-1]

    assert "--http-tls-key is missing" in said("--http-tls-cert", str(files.certificate))
    assert "--http-tls-cert is missing" in said("--http-tls-key", str(files.key))
    assert "cannot be read" in said("--http-tls-cert", str(files.certificate), "--http-tls-key", "/nowhere")
    other = Files(node.directory / "other.crt", node.directory / "other.key")
    issue(other)
    assert "is not the key of" in said("--http-tls-cert", str(other.certificate), "--http-tls-key", str(files.key))
    assert "is not in PEM form" in said("--http-tls-cert", str(files.key), "--http-tls-key", str(files.key))
    issue(other, password=b"secret")
    assert "is encrypted, and a node cannot ask" in said(*other.options)
    assert not (node.spool / "control.sock").exists()
