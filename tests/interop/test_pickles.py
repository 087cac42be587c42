"""Pickled arguments run code, so they are taken from this machine only: an unmodified application on a real node."""

import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
from real_programs import exchange, packet
from support import RunningNode, eventually, whole_lines

from spoolnode import Refused, send_to_spooler
from spoolnode.compat.uwsgi_values import environment
from spoolnode.protocol.errors import BadPacket
from spoolnode.protocol.values import pack

APP = """
import os, pickle, uwsgi
from uwsgidecorators import manage_spool_request, spool
NOTES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "notes")

def note(*what):
    with open(NOTES, "a") as file:
        file.write(repr(what) + "\\n")

@spool(pass_arguments=True)
def call(*args, **kwargs):
    note("call", args, kwargs)

@spool
def mail(env):
    note("mail", pickle.loads(env["body"]))

def manage(env):  # as the dispatchers of several packages do
    if b"ud_spool_func" in env:
        return manage_spool_request(env)
    for name in (b"args", b"kwargs", b"setup"):
        if name in env:
            pickle.loads(env[name])
    note("managed", sorted(key for key in env if isinstance(key, bytes)))
    return uwsgi.SPOOL_OK

uwsgi.spooler = manage
"""


class Evil:
    """Its pickle makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


def notes(node: RunningNode) -> list[str]:
    return whole_lines(node.directory / "notes")


def test_no_form_of_a_pickle_comes_in_by_tcp(node: RunningNode) -> None:
    node.start(app=APP)
    trace = node.directory / "ran"
    evil = pickle.dumps(Evil(trace))
    text = pickle.dumps(Evil(trace), 0).decode()
    tasks: list[dict[str, Any]] = [
        {"args": evil}, {"args": text}, {"ud_spool_func": "call", "args": evil}, {"ud_spool_func": "call", "kwargs": evil},
        {"ud_spool_func": b"call", "kwargs": evil}, {"function_name": "x", "setup": evil}, {"n": 1, "args": evil, "body": b"x"},
    ]  # fmt: skip
    for task in tasks:
        with pytest.raises(Refused, match="pickled"):
            send_to_spooler(task, via=node.via)
    send_to_spooler({"args": [1, 2], "last": "yes"}, via=node.via)
    eventually(lambda: notes(node) or node.lines("retry"), "the last task has run")
    assert not trace.exists()
    assert node.status()["dead"] == 0


def test_the_machines_own_socket_takes_them_from_our_client_too(node: RunningNode) -> None:
    node.start(app=APP)
    via = str(node.spool / "spool.sock")
    call = {"ud_spool_func": "call", "ud_spool_ret": "-2", "args": pickle.dumps((1, "two")), "kwargs": pickle.dumps({"three": 3})}
    send_to_spooler(call, via=via)
    send_to_spooler({"args": pickle.dumps(1)}, via=via)
    eventually(lambda: len(notes(node)) == 2, "both have run")
    assert sorted(notes(node)) == ["('call', (1, 'two'), {'three': 3})", "('managed', [b'args'])"]


TASKS_APP = """
import os, pickle, uwsgi

def manage(env):  # as uwsgi-tasks does it: names as text, `body` before all else
    message = {key.decode() if isinstance(key, bytes) else key: value for key, value in env.items()}
    if message.get("function_name"):
        for name in ("body", "args", "kwargs", "setup"):
            if name in message:
                pickle.loads(message[name])
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "notes"), "a") as file:
        file.write("managed\\n")
    return uwsgi.SPOOL_OK

uwsgi.spooler = manage
"""


def test_a_variable_called_body_is_a_body_for_who_unpickles_it(node: RunningNode) -> None:
    node.start(app=TASKS_APP)
    trace = node.directory / "ran"
    evil = pickle.dumps(Evil(trace))
    host, port = node.via.rsplit(":", 1)
    refused = [
        packet([(b"function_name", b"os.getcwd"), (b"body", evil)]),
        packet([(b"body", evil), (b"body", b""), (b"function_name", b"os.getcwd")]),
        packet([(b"function_name", b"os.getcwd"), (b"CONTENT_LENGTH", str(len(evil)).encode())]) + evil,
    ]
    for request in refused:
        assert exchange((host, int(port)), request) == b"\xff\x00\x00\x00"
    for more in ({"setup": evil}, {"body": evil}):
        with pytest.raises(Refused, match="pickled"):
            send_to_spooler({"function_name": 5, **more}, via=node.via)
    assert exchange((host, int(port)), packet([(b"body", evil)])) == b"\xff\x00\x00\x01"
    eventually(lambda: notes(node), "the last task has run")
    assert not trace.exists()


@pytest.mark.parametrize(
    "said",
    [
        [(b"function_name", b"m.f"), (b"body", b"x")],
        [(b"function_name", b"m.f"), (b"body", b"x"), (b"spool_values", pack({"n": 1}))],
        [(b"body", b"x"), (b"spool_values", pack({"function_name": 5}))],
    ],
)
def test_no_environment_is_built_from_it_without_the_mark_of_the_door(said: list[tuple[bytes, bytes]]) -> None:
    said = [*said, (b"spool_origin", b"0123456789ab")]
    with pytest.raises(BadPacket, match="not unpickled"):
        environment(said, b"", "name")
    assert environment([*said, (b"spool_pickled", b"1")], b"", "name")[b"body"] == b"x"


def test_a_variable_called_body_from_this_machine_is_unpickled(node: RunningNode) -> None:
    node.start(app=TASKS_APP)
    trace = node.directory / "ran"
    request = packet([(b"function_name", b"os.getcwd"), (b"body", pickle.dumps(Evil(trace)))])
    assert exchange(str(node.spool / "spool.sock"), request) == b"\xff\x00\x00\x01"
    eventually(lambda: notes(node), "it has run")
    assert trace.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickled_body_arrives_as_bytes_whatever_its_protocol(node: RunningNode, protocol: int) -> None:
    node.start("--max-attempts", "1", app=APP)
    body = pickle.dumps({"to": ["\u00e9"]}, protocol)
    send_to_spooler({"ud_spool_func": "mail", "ud_spool_ret": "-2", "body": body}, via=node.via)
    eventually(lambda: notes(node) or node.status()["dead"], "it has ended")
    assert notes(node) == [repr(("mail", {"to": ["\u00e9"]}))]


def looks_like_a_pickle(module: str, function: str) -> tuple[UUID, str]:
    """A tuple whose text calls that function when it is unpickled: `(U` and `qœ` mean something to pickle."""
    spelt = "".join(f"U{chr(len(name))}{name}" for name in (module, function))
    return UUID(int=1), f"{'-' * 40}{spelt}qœ)R."


def test_the_text_of_a_tuple_is_never_a_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    module = ModuleType("a_module_with_a_name_of_32_letters_")
    module.a_function_with_a_name_of_32_letters_ = lambda: called.append("called")  # type: ignore[attr-defined] # made here
    monkeypatch.setitem(sys.modules, module.__name__, module)
    made = looks_like_a_pickle(module.__name__, "a_function_with_a_name_of_32_letters_")
    pickle.loads(str(made).encode())
    assert called == ["called"], "it would be one"
    shown = environment([(b"spool_values", pack({"args": made}))], b"", "name")[b"args"]
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads(shown)
    assert called == ["called"]
