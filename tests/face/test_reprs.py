"""What lives long says what it is: in a debugger, and in the message of a failed test."""

import os
from pathlib import Path

import pytest
from smallnode import StartNode, context

from spoolnode import client, send_to_spooler, spool
from spoolnode.calls.registry import REGISTRY
from spoolnode.compat.locks import WorkersLock
from spoolnode.compat.signals import Signals
from spoolnode.compat.spool_view import SpoolView
from spoolnode.runtime.handler import Dispatcher


def test_connections_say_where_they_lead_and_what_is_under_way(start_node: StartNode) -> None:
    node = start_node()
    send_to_spooler({"a": "b"}, via=node.address)
    said = f"<Pipeline to {node.address}: open, 0 unanswered, 0 unsent>"
    shared = f"<ThreadConnection of {said}>"
    assert repr(client._endpoints[os.getpid(), node.address]) == f"<Endpoint {node.address}: {shared}>"


def test_calls_say_which_function_is_called_and_how() -> None:
    @spool(name="work")
    def work() -> None: ...

    assert repr(work) == "<spooled function work>"
    assert repr(work.options(priority=3, node="beta")).startswith("<call of work: Options(at=None, priority=3, node='beta'")
    assert repr(Dispatcher(context(), None)) == f"<Dispatcher to {REGISTRY!r}>"
    assert "work" in repr(REGISTRY)


def test_parts_of_uwsgi_say_what_they_hold(tmp_path: Path) -> None:
    worker = context(spool=str(tmp_path), is_loading=True)
    signals = Signals(worker)
    assert repr(signals) == "<Signals: handlers of none>"
    signals.register(17, "", lambda _: None)
    assert repr(signals) == "<Signals: handlers of 17>"
    (tmp_path / "node.id").touch()
    lock = WorkersLock(str(tmp_path))
    assert repr(lock) == f"<WorkersLock on {tmp_path / 'node.id'}>"
    with lock:
        assert repr(lock).endswith("held here>")
    assert repr(SpoolView(str(tmp_path), "0123456789ab")) == f"<SpoolView of {tmp_path}>"


def test_decorators_of_uwsgi_say_what_they_decorate(monkeypatch: pytest.MonkeyPatch) -> None:
    from spoolnode.compat import uwsgidecorators

    @uwsgidecorators.spoolraw
    def work(env: object) -> None: ...

    assert repr(work) == f"<SpooledRaw {__name__}:{work.f.__qualname__}>"
