"""Certificates by command: all that a user needs for TLS, without another tool."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from support import command

from spoolnode.cli import main


def test_an_authority_and_a_node_in_two_commands(tmp_path: Path) -> None:
    from spoolnode.cluster.trust import Trust

    assert command("ca", "init", cwd=tmp_path).returncode == 0
    done = command("ca", "issue", "Web_1.example", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1].split()
    assert last[:4] == ["spoolnode", "join", "--name", "Web_1.example"]
    given = {option: str(tmp_path / value) for option, value in zip(last[4::2], last[5::2], strict=True)}
    Trust(given["--tls-cert"], given["--tls-key"], given["--tls-ca"], "Web_1.example")


def test_show_tells_whose_it_is_and_how_long(tmp_path: Path) -> None:
    command("ca", "init", "here", "--days", "100", cwd=tmp_path)
    command("ca", "issue", "alpha", "--dir", "here", "--out", "there", "--days", "10", cwd=tmp_path)
    shown = command("ca", "show", "there/alpha.crt", "here/ca.crt", "--json", cwd=tmp_path)
    node, authority = json.loads(shown.stdout)
    assert (node["name"], node["authority"], node["days_left"]) == ("alpha", False, 9)
    assert (authority["name"], authority["authority"], authority["days_left"]) == ("", True, 99)
    assert len(node["sha256"]) == 32 * 3 - 1
    text = command("ca", "show", "there/alpha.crt", cwd=tmp_path).stdout
    assert "the node alpha" in text
    assert "9 days left" in text


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["ca", "issue", "alpha", "--dir", "nowhere"], "make an authority there with `spoolnode ca init nowhere`"),
        (["ca", "issue", "any"], "cannot be a node's name"),
        (["ca", "issue", "a/b"], "cannot be a node's name"),
        (["ca", "show", "nowhere"], "cannot be read: No such file"),
        (["ca", "init"], "never overwritten"),
        (["ca", "show", "ca/ca.key"], "has no certificate in PEM form"),
        (["ca", "show", "ca/ca.crl"], "ca/ca.crl is a list of revoked certificates, not a certificate"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(tmp_path: Path, args: list[str], reason: str) -> None:
    command("ca", "init", cwd=tmp_path)
    command("ca", "revoke", cwd=tmp_path)
    done = command(*args, cwd=tmp_path)
    assert done.returncode == 1
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_show_says_that_a_certificate_is_revoked_when_the_list_lies_beside_it(tmp_path: Path) -> None:
    command("ca", "init", cwd=tmp_path)
    for name in ("alpha", "beta"):
        command("ca", "issue", name, cwd=tmp_path)
    command("ca", "revoke", "alpha", cwd=tmp_path)
    done = command("ca", "show", "ca/alpha.crt", "ca/beta.crt", "ca/ca.crt", "--json", cwd=tmp_path)
    assert [row["revoked"] for row in json.loads(done.stdout)] == [True, False, False]
    assert "(REVOKED)" in command("ca", "show", "ca/alpha.crt", cwd=tmp_path).stdout


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "spoolnode.cluster.authority", raising=False)
    monkeypatch.delattr("spoolnode.cluster.authority", raising=False)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    done = CliRunner().invoke(main, ["ca", "init", "nowhere"])
    assert done.exit_code == 1
    assert "pip install cryptography" in done.output


def test_a_certificate_is_taken_back_in_one_command(tmp_path: Path) -> None:
    command("ca", "init", cwd=tmp_path)
    command("ca", "issue", "alpha", "--out", "there", cwd=tmp_path)
    done = command("ca", "revoke", "alpha", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ca/ca.crl  1 more revoked, valid until 20")
    assert done.stdout.endswith(": the --tls-crl of every node\n")
    done = command("ca", "revoke", "nobody", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        1, "Error: no certificate for nobody is known in ca: name its file with --cert FILE\n"
    )  # fmt: skip
