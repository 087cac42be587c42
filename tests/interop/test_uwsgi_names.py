"""The names and the answers of uWSGI's two modules, asked of a real uWSGI and of a worker of ours by the same program."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_programs import LINES, Lines, Uwsgi
from support import RunningNode

NAMES = (
    LINES
    + """
import json
import uwsgi
before = set(vars(uwsgi))
namespace = {}
exec("from uwsgidecorators import *", namespace)
import uwsgidecorators


@uwsgidecorators.spool
def report(env):
    told = {
        "uwsgi": sorted(name for name in vars(uwsgi) if not name.startswith("_")),
        "functions": sorted(name for name in vars(uwsgi) if callable(getattr(uwsgi, name)) and not name.startswith("_")),
        "before": sorted(name for name in before if not name.startswith("_")),
        "star": sorted(namespace),
        "same": namespace["uwsgi"] is uwsgi and uwsgidecorators.uwsgi is uwsgi,
        "hooks": [
            uwsgi.spooler is uwsgidecorators.manage_spool_request,
            uwsgi.mule_msg_hook is uwsgidecorators.mule_msg_dispatcher,
            uwsgi.post_fork_hook is uwsgidecorators.postfork_chain_hook,
        ],
        "spooler_functions": sorted(uwsgidecorators.spooler_functions),
        "is_function": uwsgidecorators.spooler_functions["report"] is report.f,
        "base_dict": report.base_dict,
    }
    write_line(json.dumps(told))
    write_line("end")


report(a="b")
"""
)
OPTIONAL = ("queue_", "sharedarea_", "snmp_")
"""How the names begin that a uWSGI has only with an option: here they are always there, and fail when they are called."""
OF_OTHER_RELEASES = {"add_ms_timer", "spooler_dir"}
ANSWERS = (
    LINES
    + """
import os
import uwsgi
HERE = os.path.dirname(os.path.abspath(__file__))
FILES = {
    "packet": b"\\x11\\x0e\\x00\\x00\\x05\\x00hello\\x05\\x00worldBODY",
    "short": b"\\x11\\x0e\\x00\\x00", "empty": b"", "text": b"a text",
}
for name, data in FILES.items():
    with open(os.path.join(HERE, name), "wb") as file:
        file.write(data)
QUESTIONS = [
    "uwsgi.masterpid() > 0", "uwsgi.worker_id()", "uwsgi.mule_id()", "uwsgi.total_requests()", "uwsgi.request_id()",
    "uwsgi.logsize()", "uwsgi.listen_queue()", "uwsgi.ready_fd()", "uwsgi.cl()", "uwsgi.connection_fd()",
    "uwsgi.rpc_list()", "uwsgi.accepting()", "uwsgi.suspend()", "uwsgi.green_schedule()", "uwsgi.in_farm()",
    "uwsgi.i_am_the_lord('x')", "uwsgi.signal_received()", "uwsgi.is_a_reload", "type(uwsgi.version)",
    "uwsgi.version_info", "type(uwsgi.hostname)", "uwsgi.spooler_get_task('/none')",
    "uwsgi.parsefile(HERE + '/packet')", "uwsgi.parsefile('/none')", "uwsgi.parsefile(b'/none')",
    "[uwsgi.parsefile(os.path.join(HERE, name)) for name in FILES]",
    "uwsgi.parsefile(PATH)", "uwsgi.set_user_harakiri(0)",
    "uwsgi.setprocname('x')", "uwsgi.set_warning_message('x')", "uwsgi.set_spooler_frequency(30)",
    "uwsgi.set_spooler_frequency('x')", "uwsgi.log('line')", "uwsgi.log_this_request()", "uwsgi.disconnect()",
    "uwsgi.async_sleep(0)", "len(uwsgi.mem())", "uwsgi.opt['master']", "isinstance(uwsgi.opt['spooler'], bytes)",
    "int(uwsgi.opt['spooler-frequency'])", "uwsgi.opt.get('mule')", "uwsgi.opt['module']",
    "uwsgi.signal_registered(200)", "uwsgi.signal_registered('x')", "uwsgi.signal()", "uwsgi.signal(5, 6)",
    "uwsgi.mule_msg(b'x')", "uwsgi.call('hello')", "uwsgi.rpc(None, 'hello')", "uwsgi.register_signal(10)",
    "uwsgi.register_signal(10, b'x', print)", "uwsgi.add_timer(1)", "uwsgi.add_cron(1, 2)", "uwsgi.spool()",
    "uwsgi.spool([])", "uwsgi.spool({b'a': 1})", "uwsgi.loop", "uwsgi.applications", "uwsgi.unbit", "uwsgi.cores",
    "uwsgi.numproc", "uwsgi.has_threads",
]
WHILE_LOADING = [
    "uwsgi.signal_registered(17)", "uwsgi.register_signal(17, 'spooler', print)", "uwsgi.signal_registered(17)",
    "uwsgi.register_signal(17, '', print)", "uwsgi.register_signal(18, 'mule1', print)",
    "uwsgi.register_signal(19, 'workers', print)", "uwsgi.add_timer(17, 5000)", "uwsgi.add_timer(99, 5000)",
    "uwsgi.add_rb_timer(17, 5000)", "uwsgi.add_rb_timer(17, 5000, 3)", "uwsgi.add_cron(17, 0, 0, 1, 1, -1)",
    "uwsgi.register_rpc('hello', print)", "uwsgi.signal(17, 'x')", "uwsgi.lock()", "uwsgi.is_locked()",
    "uwsgi.unlock()", "uwsgi.is_locked()", "uwsgi.lock(5)", "uwsgi.i_am_the_spooler()",
    "uwsgi.spooler_pid()", "uwsgi.spooler_pids()",
]
LATER = [
    "uwsgi.register_signal(20, '', print)", "uwsgi.signal_registered(17)", "uwsgi.lock()", "uwsgi.unlock()",
    "uwsgi.is_locked()", "uwsgi.ready()", "uwsgi.i_am_the_spooler()",
    "uwsgi.spoolers[0] == os.path.realpath(os.path.join(HERE, 'spool')).encode()",
]


def ask(when, questions):
    for number, question in enumerate(questions):
        try:
            answer = repr(eval(question))
        except Exception as error:
            answer = type(error).__name__
            answer = "ValueError" if isinstance(error, ValueError) else answer
        write_line(when, number, question, "->", answer)


if not uwsgi.is_a_reload:
    ask("loading", WHILE_LOADING)


def spooler(env):
    ask("task", QUESTIONS + LATER)
    write_line("end")
    return uwsgi.SPOOL_OK


uwsgi.spooler = spooler
PATH = uwsgi.spool({b"x": b"y", b"body": b"z"}).decode()
"""
)


@pytest.fixture
def uwsgi(place: Path) -> Iterator[Uwsgi]:
    """A uWSGI in a directory of its own: the spool of each is `spool` there."""
    program = Uwsgi(place)
    yield program
    program.end()


def under_both(uwsgi: Uwsgi, node: RunningNode, app: str) -> tuple[list[str], list[str]]:
    """The output of an application under each, up to the line "end"."""
    for directory in (uwsgi.directory, node.directory):
        (directory / "app.py").write_text(app)
    uwsgi.start("-Q", "spool", "-w", "app", "--spooler-frequency", "7")
    node.start("-w", "app", "--spooler-frequency", "7")
    Lines(uwsgi.directory).wait(begin="end")
    Lines(node.directory).wait(begin="end")
    return Lines(uwsgi.directory)(), Lines(node.directory)()


def test_every_public_name_of_both_modules_is_there(uwsgi: Uwsgi, node: RunningNode) -> None:
    (theirs, _), (ours, _) = under_both(uwsgi, node, NAMES)
    real, look_alike = json.loads(theirs), json.loads(ours)
    assert set(real["uwsgi"]) - set(look_alike["uwsgi"]) == set()
    more = {name for name in look_alike["uwsgi"] if name not in real["uwsgi"]}
    assert {name for name in more if not name.startswith(OPTIONAL)} == OF_OTHER_RELEASES
    assert set(real["functions"]) - set(look_alike["functions"]) == set()
    for what in ("star", "same", "hooks", "spooler_functions", "is_function", "base_dict"):
        assert look_alike[what] == real[what], what


def test_names_that_a_uwsgi_has_with_more_options_are_there_too(uwsgi: Uwsgi, node: RunningNode) -> None:
    (uwsgi.directory / "app.py").write_text(NAMES)
    uwsgi.start("-Q", "spool", "-w", "app", "--queue", "10", "--sharedarea", "1", "--snmp", "--snmp-community", "x", "--mule")
    theirs, _ = Lines(uwsgi.directory).wait(2)
    node.start(app=NAMES)
    ours, _ = Lines(node.directory).wait(2)
    assert set(json.loads(theirs)["uwsgi"]) - set(json.loads(ours)["uwsgi"]) == set()


def test_answers_are_the_same(uwsgi: Uwsgi, node: RunningNode) -> None:
    theirs, ours = under_both(uwsgi, node, ANSWERS)
    assert ours == theirs
