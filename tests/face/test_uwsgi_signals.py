"""uWSGI's signals and locks in a worker, and what an application may do only while it is imported."""

import ctypes
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from smallnode import StartNode, context
from support import PATIENCE, environment, eventually

from spoolnode import send_to_spooler
from spoolnode.calls.registry import REGISTRY
from spoolnode.client import silence
from spoolnode.compat import uwsgi_module, uwsgidecorators
from spoolnode.compat.locks import WorkersLock
from spoolnode.compat.uwsgi_opt import uwsgi_options
from spoolnode.context import WorkerContext
from spoolnode.node.config import Config
from spoolnode.node.outcome import AskedCall, Cancelled

heard: list[Any] = []


def hear(number: int) -> None:
    heard.append(number)


@pytest.fixture(autouse=True)
def nothing_heard() -> None:
    heard.clear()


@pytest.fixture
def worker(tmp_path: Path) -> WorkerContext:
    (tmp_path / "node.id").write_text("x")
    return context(spool=str(tmp_path), is_loading=True)


@pytest.fixture
def real(worker: WorkerContext, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that `import uwsgi` gives in a worker, while the application is imported."""
    module = uwsgi_module.build(worker)
    monkeypatch.setitem(sys.modules, "uwsgi", module)
    return module


def listen(worker: WorkerContext) -> "SimpleQueue[AskedCall]":
    """The worker runs, and calls what it is asked to only when a task waits for it, or the test does."""
    calls: SimpleQueue[AskedCall] = SimpleQueue()
    worker.is_loading = False
    worker.inbox.put, worker.inbox.call_next = calls.put, lambda: calls.get_nowait().function()  # type: ignore[func-returns-value]  # None is fine
    return calls


def test_a_signal_has_one_handler_and_is_registered_while_the_application_is_imported(real: Any, worker: WorkerContext) -> None:
    assert real.signal_registered(17) is None
    real.register_signal(17, "spooler", hear)
    assert real.signal_registered(17) is True
    with pytest.raises(ValueError, match=r"unable to register signal 17: it has the handler test_uwsgi_signals:hear"):
        real.register_signal(17, "", hear)
    listen(worker)
    with pytest.raises(ValueError, match="unable to register signal 18: that is possible only while"):
        real.register_signal(18, "", hear)


@pytest.mark.parametrize("number", [-1, 256, 300])
def test_numbers_that_no_signal_has_are_refused(real: Any, number: int) -> None:
    for call in (
        real.signal_registered,
        real.signal,
        lambda n: real.register_signal(n, "", hear),
        lambda n: real.add_timer(n, 1),
    ):
        with pytest.raises(ValueError, match=f"from 0 to 255; this is {number}"):
            call(number)


def test_all_signals_can_have_a_handler_and_then_none_is_free(real: Any) -> None:
    for _ in range(256):
        real.register_signal(uwsgidecorators.get_free_signal(), "", hear)
    with pytest.raises(ValueError, match="No free uwsgi signal"):
        uwsgidecorators.get_free_signal()


def test_a_raised_signal_is_handled_after_the_task_at_hand(real: Any, worker: WorkerContext) -> None:
    uwsgidecorators.signal(0, target="workers")(hear)
    calls = listen(worker)
    real.signal(0)
    assert heard == []
    asked = calls.get_nowait()
    assert asked.name == "signal 0, test_uwsgi_signals:hear"
    asked.function()
    assert heard == [0]


def test_a_task_can_wait_for_a_signal_and_others_are_handled_meanwhile(real: Any, worker: WorkerContext) -> None:
    for number in (5, 6, 7):
        real.register_signal(number, "spooler", hear)
    listen(worker)
    for number in (5, 6, 7):
        real.signal(number)
    assert real.signal_wait() == b""
    assert real.signal_received() == 5
    assert real.signal_wait(7) == b""
    assert (heard, real.signal_received()) == ([5, 6, 7], 7)


def test_a_signal_for_another_node_is_refused_as_in_uwsgi(real: Any) -> None:
    with pytest.raises(OSError, match=r"unable to deliver signal 5 to node 10\.0\.0\.1:3031"):
        real.signal(5, "10.0.0.1:3031")


def test_a_signal_raised_while_the_application_is_imported_is_lost_as_in_uwsgi(
    real: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    real.register_signal(5, "", hear)
    real.signal(5)
    assert "not heard" in capsys.readouterr().err


def test_timers_of_the_raw_interface_are_the_nodes(real: Any) -> None:
    real.register_signal(17, "spooler", hear)
    real.add_timer(17, 3)
    real.add_rb_timer(17, 4, 2)
    real.add_ms_timer(17, 500)
    real.add_cron(17, 0, 1, -1, -1, -1)
    real.add_timer(17, 0)  # is never over, as in uWSGI
    assert [entry[1:4] for entry in REGISTRY.timers] == [
        (3.0, (-1,) * 5, 0), (4.0, (-1,) * 5, 2), (0.5, (-1,) * 5, 0), (0.0, (0, 1, -1, -1, -1), 0),
    ]  # fmt: skip
    for timer in REGISTRY.timers:
        REGISTRY.call_timer(timer)
    assert heard == [17] * 4


@pytest.mark.parametrize("seconds", [-1, "1", None, True])
def test_a_period_that_is_none_is_refused(real: Any, seconds: Any) -> None:
    with pytest.raises(ValueError, match="must be a number of seconds"):
        real.add_timer(1, seconds)


def test_a_timer_whose_signal_has_no_handler_says_so_each_time(real: Any) -> None:
    real.add_timer(99, 1)
    with pytest.raises(ValueError, match="signal 99 has no handler"):
        REGISTRY.call_timer(REGISTRY.timers[0])


def test_a_timer_cannot_be_added_by_a_task(real: Any, worker: WorkerContext) -> None:
    real.register_signal(17, "", hear)
    listen(worker)
    with pytest.raises(ValueError, match="signal 17 gets no timer now"):
        real.add_timer(17, 1)


# --- locks ---


def count(path: Path, spool: Path) -> None:
    """Adds 1 to the number in a file a hundred times, in a process of its own."""
    sys.modules["uwsgi"] = uwsgi_module.build(context(spool=str(spool)))

    @uwsgidecorators.lock
    def add() -> None:
        path.write_text(str(int(path.read_text()) + 1))

    for _ in range(100):
        add()


def test_functions_with_lock_exclude_each_other_across_workers(tmp_path: Path) -> None:
    (tmp_path / "node.id").write_text("x")
    number = tmp_path / "number"
    number.write_text("0")
    processes = [multiprocessing.get_context("fork").Process(target=count, args=(number, tmp_path)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
    assert number.read_text() == "300"


def waits_for_a_lock(thread: threading.Thread, path: Path) -> bool:
    """Whether a thread waits in the kernel for a lock on a file."""
    asked = f"-> FLOCK  ADVISORY  WRITE {os.getpid()} "
    inode = f":{path.stat().st_ino} "
    return thread.is_alive() and any(asked in line and inode in line for line in Path("/proc/locks").read_text().splitlines())


def test_a_task_that_is_cancelled_while_it_waits_for_the_lock_leaves_it_to_others(tmp_path: Path) -> None:
    path = tmp_path / "node.id"
    path.touch()
    held, wanted = WorkersLock(str(tmp_path)), WorkersLock(str(tmp_path))
    ends: SimpleQueue[BaseException] = SimpleQueue()

    def wait() -> None:
        try:
            wanted.__enter__()
        except Cancelled as error:
            ends.put(error)

    waiting = threading.Thread(target=wait)
    with held:
        waiting.start()
        eventually(lambda: waits_for_a_lock(waiting, path))
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(waiting.ident or 0), ctypes.py_object(Cancelled))
    waiting.join(PATIENCE)
    assert isinstance(ends.get(timeout=PATIENCE), Cancelled)
    assert not held.is_held


def test_functions_with_lock_exclude_each_other_across_threads_and_may_call_each_other(real: Any) -> None:
    inside, most, guard = 0, 0, threading.Lock()

    @uwsgidecorators.lock
    def inner() -> None:
        nonlocal inside, most
        with guard:
            inside += 1
            most = max(most, inside)
        with guard:
            inside -= 1

    outer = uwsgidecorators.lock(inner)
    threads = [threading.Thread(target=outer) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert most == 1


def test_lock_is_taken_while_the_application_is_imported_and_refused_to_tasks(real: Any, worker: WorkerContext) -> None:
    real.lock()
    assert real.is_locked() is True
    real.unlock()
    assert real.is_locked() is False
    with pytest.raises(ValueError, match="Invalid lock number"):
        real.lock(5)
    listen(worker)
    for function in (real.lock, real.unlock, real.is_locked):
        with pytest.raises(ValueError, match="The spooler cannot lock/unlock resources"):
            function()


# --- tasks that are enqueued while the application is imported ---


def test_only_the_first_worker_enqueues_while_it_imports(start_node: StartNode) -> None:
    node = start_node()
    with silence.importing(is_first=False):
        assert send_to_spooler({"a": "b"}, via=node.address) == silence.UNSENT_ID
        from_thread = threading.Thread(target=send_to_spooler, args=({"from": "thread"},), kwargs={"via": node.address})
        from_thread.start()
        from_thread.join(PATIENCE)
    with silence.importing(is_first=True):
        send_to_spooler({"c": "d"}, via=node.address)
    send_to_spooler({"e": "f"}, via=node.address)
    assert [task[0] for task in node.tasks] == [[(b"from", b"thread")], [(b"c", b"d")], [(b"e", b"f")]]


# --- facts ---


def test_options_have_uwsgis_names_and_are_bytes(tmp_path: Path) -> None:
    config = Config(
        spool=str(tmp_path), workers=2, timeout=60, spooler_frequency=7, app="jobs.py", listen=["a.sock", ":3031"], env=["A=B"]
    )
    assert uwsgi_options(config.__dict__) == {
        "master": True, "spooler-ordered": True, "enable-threads": True, "py-call-uwsgi-fork-hooks": True,
        "spooler": os.fsencode(tmp_path), "socket": b":3031", "wsgi-file": b"jobs.py",
        "spooler-processes": b"2", "env": b"A=B", "spooler-frequency": b"7", "spooler-harakiri": b"60", "buffer-size": b"65535",
    }  # fmt: skip


@pytest.mark.parametrize("reload", [False, True])
def test_is_a_reload_can_be_read_and_called(worker: WorkerContext, reload: bool) -> None:
    worker.is_reload = reload
    real = uwsgi_module.build(worker)
    assert bool(real.is_a_reload) is real.is_a_reload() is reload
    assert repr(real.is_a_reload) == repr(reload)


def test_node_cannot_be_reloaded_by_the_application_that_it_loads(real: Any) -> None:
    for function in (real.reload, real.stop):
        with pytest.raises(ValueError, match="while it is imported"):
            function()


def test_web_process_gets_what_the_import_of_the_decorators_does(tmp_path: Path) -> None:
    program = (
        "import spoolnode.compat; spoolnode.compat.install()\nfrom uwsgidecorators import *\n"
        "@timer(3)\ndef tick(number): pass\n@lock\ndef locked(): pass\n"
        "print(uwsgi.signal_registered(0), uwsgi.spooler is manage_spool_request, uwsgi.i_am_the_spooler())\nlocked()\n"
    )
    changes = environment(SPOOLNODE_SPOOL=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", program], env=changes, capture_output=True, text=True, check=False)
    assert done.stdout == "True True False\n"
    assert done.stderr.endswith(f"a lock needs the spool directory of a node, and {os.path.realpath(tmp_path)} is not one\n")
