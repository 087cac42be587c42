"""`import uwsgi` and `import uwsgidecorators` in a worker: as the real ones in Python 3, and where ours do better."""

import asyncio
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
from smallnode import SmallNode, StartNode, context
from support import PATIENCE

from spoolnode import uwsgi
from spoolnode.calls.registry import REGISTRY
from spoolnode.compat import uwsgi_module, uwsgidecorators
from spoolnode.compat.absent import FUNCTIONS, NEVER_CALLED
from spoolnode.context import WorkerContext
from spoolnode.node.outcome import Call, Ending, Outcome
from spoolnode.protocol import names
from spoolnode.protocol.errors import BadPacket
from spoolnode.protocol.values import encode_task, pack
from spoolnode.runtime.handler import Dispatcher


@pytest.fixture
def worker() -> WorkerContext:
    return context()


@pytest.fixture
def real(worker: WorkerContext, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that `import uwsgi` gives in a worker."""
    module = uwsgi_module.build(worker)
    monkeypatch.setitem(sys.modules, "uwsgi", module)
    return module


@pytest.fixture(autouse=True)
def no_spooler() -> Iterator[None]:
    yield
    uwsgi.spooler = None


@pytest.fixture
def node(start_node: StartNode, monkeypatch: pytest.MonkeyPatch) -> SmallNode:
    """The worker's own node, on its unix socket."""
    started = start_node(unix=True)
    monkeypatch.setenv("SPOOLNODE_VIA", started.address)
    return started


def dispatch(worker: WorkerContext, variables: list[tuple[bytes, bytes]], body: bytes = b"") -> Outcome:
    outcome = Dispatcher(worker, None)(Call.of(variables, body, "uwsgi_spoolfile_on_x"))
    assert isinstance(outcome, Outcome)
    return outcome


# --- uwsgi.spool ---


def test_spool_returns_the_path_that_the_file_has_or_would_have(real: Any, node: SmallNode) -> None:
    assert real.spool({b"a": b"b"}) == b"/var/spool/x/uwsgi_spoolfile_on_small_1_1"
    assert real.send_to_spooler is real.spool
    assert real.spool({b"a": b"b", b"priority": b"5"}) == b"/var/spool/x/5/uwsgi_spoolfile_on_small_1_2"


def test_task_for_later_asks_for_its_file_at_once_because_people_unlink_it(real: Any, node: SmallNode) -> None:
    later, before = str(time.time() + 100).encode(), str(time.time() - 100).encode()
    real.spool({b"a": b"b", b"at": later})
    real.spool({b"a": b"b", b"at": before})
    assert [dict(variables).get(names.FILE) for variables, _ in node.tasks] == [b"1", None]


@pytest.mark.parametrize(
    "task", [{b"a": b"b"}, {"a": "b"}, {b"a": bytearray(b"b")}, {b"a": memoryview(b"b")}, {b"a": [98]}, {b"a": (98,)}]
)
def test_spool_takes_bytes_what_becomes_bytes_and_str(real: Any, node: SmallNode, task: Any) -> None:
    real.spool(task)
    assert node.tasks == [([(b"a", b"b")], b"")]


def test_spool_takes_keywords(real: Any, node: SmallNode) -> None:
    real.spool(a="b", priority=b"3")
    assert node.tasks[0][0] == [(b"a", b"b"), (b"priority", b"3")]


@pytest.mark.parametrize("key", [b"body", "body"])
def test_body_is_appended_and_the_callers_dict_is_left_alone(real: Any, node: SmallNode, key: Any) -> None:
    task = {b"a": b"b", key: b"\x00" * 70_000}
    real.spool(task)
    assert key in task
    assert node.tasks == [([(b"a", b"b"), (names.BODY_LENGTH, b"70000")], b"\x00" * 70_000)]


@pytest.mark.parametrize("task", [None, 1, [b"a"], {b"a": 1}, {b"a": None}, {b"a": 1.5}, {1: b"a"}, {b"a": [300]}])
def test_spool_refuses_what_is_no_dict_of_bytes(real: Any, task: Any) -> None:
    with pytest.raises(ValueError, match="spooler callable"):
        real.spool(task)


@pytest.mark.parametrize("size", [65_536, 70_000])
def test_value_over_64_kb_is_an_error_and_never_cut(real: Any, node: SmallNode, size: int) -> None:
    with pytest.raises(ValueError, match=f"unable to spool job: .*{size}"):
        real.spool({b"a": bytes(size)})
    assert node.tasks == []


def test_node_that_is_gone_is_a_value_error_as_in_uwsgi(real: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPOOLNODE_VIA", "/nowhere.sock")
    with pytest.raises(ValueError, match=r"unable to spool job: /nowhere.sock: .*nothing was stored"):
        real.spool({b"a": b"b"})


# --- the rest of uwsgi ---


def test_facts_of_the_worker_are_there(real: Any, worker: WorkerContext) -> None:
    assert (real.SPOOL_OK, real.SPOOL_RETRY, real.SPOOL_IGNORE) == (-2, -1, 0)
    assert real.spoolers == (b"/var/spool/x",)
    assert real.opt["spooler"] == b"/var/spool/x"
    assert (real.spooler_pid(), real.spooler_pids()) == (78, [78, 79])
    assert real.masterpid() == 77
    assert real.i_am_the_spooler() is True
    assert isinstance(real.version, bytes)
    assert isinstance(real.hostname, bytes)


def test_jobs_and_tasks_are_seen_as_in_uwsgi(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = {"/var/spool/x/uwsgi_spoolfile_on_1": ([(b"a", b"b")], b"payload")}
    real = uwsgi_module.build(context(jobs=lambda: list(tasks), get_task=tasks.get))
    assert real.spooler_jobs() == [b"/var/spool/x/uwsgi_spoolfile_on_1"]
    assert real.spooler_get_task(real.spooler_jobs()[0]) == {
        b"a": b"b",
        "spooler_task_name": b"/var/spool/x/uwsgi_spoolfile_on_1",
        "body": b"payload",
    }
    assert real.spooler_get_task("/none") is None


def test_frequency_is_that_of_spoolforever(real: Any, worker: WorkerContext) -> None:
    assert real.set_spooler_frequency(5) is True
    assert worker.frequency == 5.0
    real.set_spooler_frequency(0)
    assert worker.frequency == 30.0
    with pytest.raises(TypeError):
        real.set_spooler_frequency("5")


@pytest.mark.parametrize("name", ["lock", "unlock", "is_locked"])
def test_locks_refuse_as_in_a_spooler(real: Any, name: str) -> None:
    with pytest.raises(ValueError, match="cannot lock"):
        getattr(real, name)(0)


def test_name_that_is_not_there_is_an_attribute_error_that_says_where(real: Any) -> None:
    with pytest.raises(AttributeError, match="'nothing' in a worker of spoolnode"):
        _ = real.nothing
    assert not hasattr(real, "spooler")


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_what_cannot_work_fails_when_it_is_called_with_one_sentence(real: Any, name: str) -> None:
    with pytest.raises(ValueError, match=rf"^uwsgi\.{name} does not work in a worker of spoolnode: [^\n]+$"):
        getattr(real, name)("x", 1)


def test_harakiri_of_the_user_ends_the_worker(real: Any) -> None:
    pid = os.fork()
    if not pid:
        real.set_user_harakiri(0.05)
        threading.Event().wait(PATIENCE)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGALRM


# --- what a callable receives, and what it returns ---


def test_bytes_flavour_has_bytes_and_two_str_keys(real: Any, worker: WorkerContext) -> None:
    seen = []
    real.spooler = seen.append
    dispatch(worker, [(b"a", b"1"), (b"a", b"\xff"), (b"body", b"var"), (names.ID, b"x")], b"payload")
    assert seen == [{b"a": b"\xff", b"body": b"var", "spooler_task_name": b"uwsgi_spoolfile_on_x", "body": b"payload"}]


def test_bytes_flavour_shows_typed_values_as_text(real: Any, worker: WorkerContext) -> None:
    seen: list[Any] = []
    real.spooler = seen.append
    dispatch(worker, [(names.VALUES, pack({"n": 5, "raw": b"\xff", "yes": True, "list": [1, "x"]}))])
    shown = {b"n": b"5", b"raw": b"\xff", b"yes": b"True", b"list": b"[1, 'x']"}
    assert seen == [{**shown, "spooler_task_name": b"uwsgi_spoolfile_on_x"}]


PICKLE = pickle.dumps(())
TYPED_PICKLE = (names.VALUES, pack({"args": PICKLE, "n": 1}))
FROM_A_PEER = (names.ORIGIN, b"0123456789ab")
MARK = (names.PICKLED, b"1")


@pytest.mark.parametrize(
    "variables",
    [
        [TYPED_PICKLE],
        [(b"ud_spool_func", b"f"), (names.VALUES, pack({"kwargs": PICKLE}))],
        [(b"args", PICKLE), FROM_A_PEER],
        [(b"args", PICKLE), (names.VALUES, pack({"n": 1}))],
        [(b"function_name", b"f"), (b"setup", PICKLE), FROM_A_PEER],
        [TYPED_PICKLE, (names.VALUES, pack({"args": PICKLE}))],
    ],
)
def test_what_a_library_would_unpickle_reaches_no_callable_unless_the_door_has_marked_it(
    real: Any, worker: WorkerContext, variables: list[tuple[bytes, bytes]]
) -> None:
    seen: list[Any] = []
    real.spooler = seen.append
    with pytest.raises(BadPacket, match="pickled"):
        dispatch(worker, variables)
    assert not seen
    dispatch(worker, [*variables, MARK])
    assert len(seen) == 1


def test_pickles_that_were_put_into_the_directory_and_typed_lists_of_that_name_are_delivered(
    real: Any, worker: WorkerContext
) -> None:
    seen: list[Any] = []
    real.spooler = seen.append
    dispatch(worker, [(b"args", PICKLE)])
    dispatch(worker, [(names.VALUES, pack({"args": [1]}))])
    assert [env[b"args"] for env in seen] == [PICKLE, b"[1]"]


def test_no_variable_shadows_what_the_worker_itself_says(real: Any, worker: WorkerContext) -> None:
    seen: list[Any] = []
    real.spooler = seen.append
    typed = msgpack.packb({"spooler_task_name": b"x", "at": b"1", "spool_id": b"y", "n": 1})
    dispatch(worker, [(b"spooler_task_name", b"/etc/x"), (names.VALUES, typed)])
    assert seen == [{b"n": b"1", "spooler_task_name": b"uwsgi_spoolfile_on_x"}]


def test_str_flavour_has_what_was_sent(worker: WorkerContext) -> None:
    seen: list[Any] = []
    uwsgi.spooler = seen.append
    block, body = encode_task({"s": "x\udcff", "n": 5, "body": b"payload"})
    from spoolnode.protocol.packet import decode_variables

    dispatch(worker, decode_variables(block), body)
    assert seen == [{"s": "x\udcff", "n": 5, "body": b"payload", "spooler_task_name": "uwsgi_spoolfile_on_x"}]


def test_bytes_flavour_comes_before_the_str_flavour(real: Any, worker: WorkerContext) -> None:
    real.spooler = lambda env: -2
    uwsgi.spooler = lambda env: -1
    assert dispatch(worker, [(b"a", b"b")]).kind is Ending.DONE


@pytest.mark.parametrize(
    ("returned", "kind"),
    [(None, Ending.DONE), (-2, Ending.DONE), ("x", Ending.DONE), (-1, Ending.RETRY), (True, Ending.FAILED), (0, Ending.IGNORED)],
)
def test_what_a_callable_returns_decides(real: Any, worker: WorkerContext, returned: Any, kind: Ending) -> None:
    real.spooler = lambda env: returned
    assert dispatch(worker, [(b"a", b"b")]).kind is kind


def test_asynchronous_callable_gives_an_awaitable(real: Any, worker: WorkerContext) -> None:
    async def spooler(env: Any) -> int:
        return -1

    async def work() -> Outcome:
        awaitable = Dispatcher(worker, None)(Call.of([(b"a", b"b")], b"", "x"))
        assert not isinstance(awaitable, Outcome)
        return await awaitable

    real.spooler = spooler
    assert asyncio.run(work()).kind is Ending.RETRY


def test_task_without_a_callable_fails_with_the_reason(worker: WorkerContext) -> None:
    outcome = dispatch(worker, [(b"a", b"b")])
    assert outcome.kind is Ending.FAILED
    assert "no callable for this task" in outcome.reason


# --- uwsgidecorators ---

seen: list[Any] = []


def note(*args: Any, **kwargs: Any) -> None:
    seen.append((args, kwargs))


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    seen.clear()


def run(node: SmallNode, worker: WorkerContext) -> Outcome:
    return dispatch(worker, *node.tasks[-1])


def test_calling_a_decorated_function_stores_the_call(real: Any, node: SmallNode, worker: WorkerContext) -> None:
    mail = uwsgidecorators.spool(note)
    assert mail({"a": "1"}, b="2") == b"/var/spool/x/uwsgi_spoolfile_on_small_1_1"
    assert dict(node.tasks[0][0]) == {b"a": b"1", b"b": b"2", b"ud_spool_func": b"note", b"ud_spool_ret": b"-2"}
    assert run(node, worker).kind is Ending.DONE
    ((env,), _) = seen[0]
    assert (env["a"], env["b"], env["spooler_task_name"]) == ("1", "2", "uwsgi_spoolfile_on_x")


def test_raw_function_and_the_older_spelling_are_there(real: Any, node: SmallNode) -> None:
    def job(env: Any) -> None: ...

    decorated = uwsgidecorators.spool(job)
    assert decorated.f is job
    decorated.spool(a="1")
    job.spool(a="2")  # type: ignore[attr-defined] # the decorator adds it
    assert len(node.tasks) == 2


def test_value_that_is_not_utf8_stays_bytes(real: Any, node: SmallNode, worker: WorkerContext) -> None:
    uwsgidecorators.spool(note)({"a": b"\xff", "body": b"\xfe\xfd"})
    run(node, worker)
    assert seen[0][0][0]["a"] == b"\xff"
    assert seen[0][0][0]["body"] == b"\xfe\xfd"


def test_arguments_are_passed_as_they_are(real: Any, node: SmallNode, worker: WorkerContext) -> None:
    mail = uwsgidecorators.spool(pass_arguments=True)(note)
    mail(1, (2, {3}), key=None, at=5, priority="1", body="x")
    sent = dict(node.tasks[0][0])
    assert (sent[b"at"], sent[b"priority"], node.tasks[0][1]) == (b"5", b"1", b"x")
    assert run(node, worker).kind is Ending.DONE
    assert seen == [((1, (2, {3})), {"key": None})]


def evil() -> None:
    seen.append("unpickled")


class Evil:
    def __reduce__(self) -> Any:
        return evil, ()


@pytest.mark.parametrize("function", [b"unknown", b"note"])
def test_pickle_is_opened_only_for_a_function_that_takes_arguments(real: Any, worker: WorkerContext, function: bytes) -> None:
    uwsgidecorators.spool(note)
    real.spooler = lambda env: -2
    dispatch(worker, [(b"ud_spool_func", function), (b"args", pickle.dumps(Evil()))])
    assert "unpickled" not in seen


def test_spoolforever_runs_again_after_the_frequency(real: Any, node: SmallNode, worker: WorkerContext) -> None:
    real.set_spooler_frequency(7)
    uwsgidecorators.spoolforever(note)({"a": "b"})
    assert run(node, worker) == Outcome(Ending.AGAIN, delay=7.0)


@pytest.mark.parametrize(("returned", "kind"), [(-2, Ending.DONE), (-1, Ending.RETRY), (0, Ending.IGNORED), (None, Ending.DONE)])
def test_spoolraw_lets_the_result_decide(real: Any, node: SmallNode, worker: WorkerContext, returned: Any, kind: Ending) -> None:
    uwsgidecorators.spoolraw(lambda env: returned)({"a": "b"})
    assert run(node, worker).kind is kind


def test_task_from_elsewhere_without_a_stored_result_is_done_when_it_ended_well(real: Any, worker: WorkerContext) -> None:
    uwsgidecorators.spool(note)
    assert dispatch(worker, [(b"ud_spool_func", b"note")]).kind is Ending.DONE


def test_two_functions_of_one_name_are_warned_of(real: Any) -> None:
    def other() -> None: ...

    other.__name__ = "note"
    uwsgidecorators.spool(note)
    with pytest.warns(UserWarning, match="have the same name"):
        uwsgidecorators.spool(other)


def test_timers_are_called_with_their_signal(real: Any, worker: WorkerContext) -> None:
    worker.is_loading = True
    uwsgidecorators.timer(3, target="spooler")(note)
    uwsgidecorators.cron(0, 1, -1, -1, -1, target="spooler")(note)
    uwsgidecorators.rbtimer(4, signum=0x11)(lambda num: note("rb", num))
    assert [timer.seconds for timer in REGISTRY.timers] == [3.0, 0.0, 4.0]
    for timer in REGISTRY.timers:
        REGISTRY.call_timer(timer)
    assert [args for args, _ in seen] == [(0,), (1,), ("rb", 0x11)]
    assert real.signal_received() == 0x11


def test_thread_and_harakiri_run_the_function(real: Any) -> None:
    done = threading.Event()
    uwsgidecorators.thread(done.set)()
    assert done.wait(PATIENCE)
    uwsgidecorators.harakiri(60)(note)(1)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert [args for args, _ in seen] == [(1,)]


@pytest.mark.parametrize("name", sorted(NEVER_CALLED.keys() - {"rpc"}))
def test_decorator_whose_function_nobody_calls_says_so_and_lets_the_application_load(
    real: Any, worker: WorkerContext, name: str
) -> None:
    worker.is_loading = True
    with pytest.warns(UserWarning, match=f"uwsgidecorators.{name}: .*never called"):
        assert getattr(uwsgidecorators, name)("x")(note) in (note, None)
    worker.is_first = False
    getattr(uwsgidecorators, name)("y")(note)  # the others do not repeat it


@pytest.mark.parametrize("decorate", [uwsgidecorators.mulefunc, uwsgidecorators.mulefunc(1), uwsgidecorators.mulefunc("farm")])
def test_mule_function_loads_and_calling_it_fails(real: Any, decorate: Any) -> None:
    with pytest.raises(ValueError, match="test_uwsgi_lookalikes:note is a @mulefunc: calling it fails: a node has no mules"):
        decorate(note)(1)
    assert uwsgidecorators.mule_functions["note"] is note


def test_function_for_rpc_stays_what_it_is(real: Any) -> None:
    assert uwsgidecorators.rpc("hello")(note) is note
    with pytest.raises(ValueError, match=r"uwsgi\.call does not work"):
        real.call("hello")


# --- spoolnode.uwsgi ---


def test_str_module_sends_dicts_and_keywords(node: SmallNode) -> None:
    assert uwsgi.send_to_spooler({"Name": "Serena"}) == "small_1_1"
    assert uwsgi.spool(Name="Serena", n=1) == "small_1_2"
    assert node.tasks[0][0] == [(b"Name", b"Serena")]
