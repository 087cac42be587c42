"""A worker's hold on tasks, with real files, real locks and a second process."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from unittest import mock

import pytest
from support import eventually

from spoolnode.node.disk.disk import RealDisk
from spoolnode.node.disk.layout import Layout, held_batch
from spoolnode.node.spool.held_place import HeldPlace, HeldTask, encode_held, location_at
from spoolnode.node.spool.reader import Progress
from spoolnode.node.spool.retry import RetryPolicy
from spoolnode.node.spool.store import Store
from spoolnode.node.work import taskfile
from spoolnode.node.work.messages import CORRUPT, EARLY, GONE, LOCKED, SHORT, UNREADABLE, WITHHELD
from spoolnode.node.work.taskfile import (
    CLOSE_TOGETHER,
    HELD,
    KEPT_BATCHES,
    BatchReader,
    HeldReader,
    NotNow,
    SpoolFileReader,
    Task,
    close_removed,
)
from spoolnode.protocol import batch, names, spoolfile
from spoolnode.protocol.packet import encode_variables
from spoolnode.protocol.spoolfile import ATTEMPTS_AT, FINISHED, STATE_AT

NODE = "0123456789ab"
BLOCK = encode_variables([(b"a", b"b")])
NAME = "uwsgi_spoolfile_on_x"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A waiting spool file."""
    path = tmp_path / NAME
    path.write_bytes(spoolfile.head(BLOCK) + b"body")
    return path


@pytest.fixture
def reader(tmp_path: Path) -> SpoolFileReader:
    return SpoolFileReader(str(tmp_path), RetryPolicy(max_attempts=0))


@contextmanager
def another_process(path: Path, command: str) -> Iterator[str]:
    """A process that opens the file, runs a line with its descriptor `f`, says what came out, and waits."""
    code = f"import fcntl, sys; f = open(sys.argv[1], 'r+b'); print({command}, flush=True); sys.stdin.read()"
    line = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate()


def is_locked(path: Path) -> bool:
    """Whether another process, uWSGI say, finds it locked."""
    code = (
        "import fcntl, sys\nf = open(sys.argv[1], 'r+b')\n"
        "try:\n    fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\nexcept OSError:\n    sys.exit(3)"
    )
    return subprocess.run([sys.executable, "-c", code, path], check=False).returncode == 3


def verdict(reader: SpoolFileReader, ref: str = NAME) -> str:
    with pytest.raises(NotNow) as caught:
        reader.read(ref)
    assert not HELD
    return caught.value.verdict


def test_a_task_is_read_and_held_locked_until_it_ends_well(reader: SpoolFileReader, path: Path) -> None:
    task = reader.read(NAME)
    assert (task.block, task.body, task.file_name, task.timeout) == (BLOCK, b"body", NAME, 0.0)
    assert {str(path): task} == HELD
    assert is_locked(path)
    task.begin()
    assert path.read_bytes()[ATTEMPTS_AT] == 1
    task.finish()
    assert not path.exists()
    assert not HELD


def test_a_task_that_did_not_end_well_is_let_go_with_its_attempt_counted(reader: SpoolFileReader, path: Path) -> None:
    for attempt in (1, 2):
        task = reader.read(NAME)
        task.begin()
        task.leave()
        assert path.read_bytes() == spoolfile.head(BLOCK, attempt) + b"body"
    assert not is_locked(path)


def open_files() -> Iterator[str]:
    """The names of the files that this process has open."""
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            yield os.readlink(f"/proc/self/fd/{descriptor}")


def remove_many(reader: SpoolFileReader, path: Path) -> int:
    """Runs 300 tasks; how many of their removed files are open then."""
    for _ in range(300):
        path.write_bytes(spoolfile.head(BLOCK, 0))
        os.utime(path, (1, 1))
        reader.read(NAME).finish()
    return sum(str(path) in name for name in open_files())


def test_removed_files_are_closed_aside_and_none_stays_open(reader: SpoolFileReader, path: Path) -> None:
    remove_many(reader, path)
    close_removed()
    eventually(lambda: not any(str(path) in name for name in open_files()), "all are closed")


def test_removed_files_are_closed_where_no_thread_can_be_started(
    reader: SpoolFileReader, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(taskfile, "start_new_thread", no_thread)
    monkeypatch.setattr(taskfile, "_closers", [])  # those of other tests do not hear of the groups below
    monkeypatch.setattr(taskfile, "_groups", SimpleQueue())
    assert remove_many(reader, path) < CLOSE_TOGETHER
    close_removed()
    assert not any(str(path) in name for name in open_files())


def test_a_task_with_two_names_keeps_its_lock_when_the_other_one_is_done(reader: SpoolFileReader, path: Path) -> None:
    other = path.with_name(f"{NAME}_too")
    other.hardlink_to(path)
    reader.read(NAME).finish()
    second = reader.read(other.name)
    close_removed()
    assert is_locked(other)
    second.leave()


def test_attempts_stop_where_a_byte_ends(reader: SpoolFileReader, path: Path) -> None:
    path.write_bytes(spoolfile.head(BLOCK, 255))
    task = reader.read(NAME)
    task.begin()
    task.leave()
    assert path.read_bytes()[ATTEMPTS_AT] == 255


def test_what_another_process_has_locked_is_left_alone_until_it_lets_go(reader: SpoolFileReader, path: Path) -> None:
    with another_process(path, "fcntl.lockf(f, fcntl.LOCK_EX)") as said:
        assert said == "None"
        assert verdict(reader) == LOCKED
    reader.read(NAME).leave()


@pytest.mark.parametrize("names", [1, 2])
@pytest.mark.parametrize(("change", "wanted"), [("removed", GONE), ("replaced", LOCKED)])
def test_a_name_that_leads_elsewhere_by_the_time_of_the_lock_is_no_task(
    reader: SpoolFileReader, path: Path, names: int, change: str, wanted: str
) -> None:
    """Another spooler ended it meanwhile, and another task may have taken its place."""
    if names == 2:
        path.with_name("another_name").hardlink_to(path)
    eventually(lambda: time.time() - path.stat().st_ctime > 1.1, "nobody has touched it for a second")
    lockf = fcntl.lockf

    def meanwhile(*how: int) -> None:
        path.unlink()
        if change == "replaced":
            path.write_bytes(spoolfile.head(BLOCK) + b"next")
        lockf(*how)

    with mock.patch("fcntl.lockf", meanwhile):  # the only way to come between two calls
        assert verdict(reader) == wanted
    assert not path.exists() or path.read_bytes() == spoolfile.head(BLOCK) + b"next"


def test_what_is_gone_is_gone(reader: SpoolFileReader, path: Path) -> None:
    path.unlink()
    assert verdict(reader) == GONE


def test_a_task_that_removed_its_own_file_has_ended_well(reader: SpoolFileReader, path: Path) -> None:
    task = reader.read(NAME)
    path.unlink()
    task.finish()
    assert not HELD


def test_a_finished_file_whose_removal_was_cut_short_is_removed_and_not_run(reader: SpoolFileReader, path: Path) -> None:
    path.write_bytes(bytes([FINISHED]) + path.read_bytes()[1:])
    assert verdict(reader) == GONE
    assert not path.exists()


def test_a_file_that_cannot_be_removed_is_marked_so_that_it_does_not_run_again(
    reader: SpoolFileReader, path: Path, tmp_path: Path
) -> None:
    task = reader.read(NAME)
    # A directory that took the file's name: unlink fails, and the file itself still lies elsewhere.
    path.rename(tmp_path / "moved")
    path.mkdir()
    task.finish()
    assert (tmp_path / "moved").read_bytes()[STATE_AT] == FINISHED
    assert not HELD


def test_a_file_of_the_future_waits_for_its_time(reader: SpoolFileReader, path: Path) -> None:
    due = time.time() + 1000
    os.utime(path, (due, due))
    with pytest.raises(NotNow) as caught:
        reader.read(NAME)
    assert caught.value.verdict == EARLY
    assert caught.value.detail == path.stat().st_mtime


@pytest.mark.parametrize("size", range(12))
def test_a_file_that_ends_before_its_variables_do_is_short_and_says_for_how_long(
    reader: SpoolFileReader, path: Path, size: int
) -> None:
    whole = spoolfile.head(encode_variables([(b"abc", b"defg")]))
    path.write_bytes(whole[:size])
    os.utime(path, (time.time() - 50, time.time() - 50))
    with pytest.raises(NotNow) as caught:
        reader.read(NAME)
    assert caught.value.verdict == SHORT
    assert 49 < float(caught.value.detail) < 100
    assert not is_locked(path)


def test_malformed_variables_are_corrupt_with_the_reason(reader: SpoolFileReader, path: Path) -> None:
    path.write_bytes(spoolfile.head(b"\x05\x00abc"))
    with pytest.raises(NotNow) as caught:
        reader.read(NAME)
    assert caught.value.verdict == CORRUPT
    assert "past the end" in str(caught.value.detail)


@pytest.mark.parametrize("kind", ["link", "directory", "fifo"])
def test_what_is_no_regular_file_is_not_opened_for_a_task(reader: SpoolFileReader, path: Path, kind: str) -> None:
    path.unlink()
    if kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    assert verdict(reader) == CORRUPT


def test_a_machine_that_is_short_of_descriptors_says_nothing_about_the_file(reader: SpoolFileReader, path: Path) -> None:
    code = (
        "import os, resource, sys\n"
        "from spoolnode.node.spool.retry import RetryPolicy\n"
        "from spoolnode.node.work.taskfile import BatchReader, NotNow, SpoolFileReader\n"
        "reader, batches = SpoolFileReader(sys.argv[1], RetryPolicy()), BatchReader(sys.argv[1], 'n')\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        "for read in (lambda: reader.read(sys.argv[2]), lambda: batches.reader(7)(72)):\n"
        "    try:\n        read()\n    except NotNow as error:\n        print(error.verdict)\n"
    )
    (path.parent / "incoming").mkdir()
    (path.parent / "incoming" / "7.batch").write_bytes(b"x")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, path.parent, NAME], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [LOCKED, LOCKED], done.stderr


def test_tasks_of_a_function_that_is_held_back_are_given_back_untouched(reader: SpoolFileReader, path: Path) -> None:
    for variables in ([(b"spool_func", b"mail")], [(b"a", b"b"), (b"ud_spool_func", b"mail")]):
        path.write_bytes(spoolfile.head(encode_variables(variables)) + b"body")
        before = path.read_bytes()
        with pytest.raises(NotNow) as caught:
            reader.reader({b"mail", b"pay"})(NAME)
        assert (caught.value.verdict, caught.value.detail) == (WITHHELD, "mail")
        assert path.read_bytes() == before, "no attempt is counted"
        reader.reader({b"pay"})(NAME).finish()
        assert not path.exists()


# -- records of a batch --


def make_batch(root: Path, number: int, bodies: list[bytes]) -> list[int]:
    (root / "incoming").mkdir(exist_ok=True)
    data, offsets = bytearray(batch.encode_header(number)), []
    for body in bodies:
        offsets.append(len(data) + batch.RECORD_SIZE)
        data += batch.encode_record(number, BLOCK, body, 1.0, 0.0, names.LAST)
    Path(Layout(str(root)).batch(number)).write_bytes(data)
    return offsets


def test_the_tasks_of_a_batch_are_read_begun_and_finished_in_place(tmp_path: Path) -> None:
    first, second = make_batch(tmp_path, 7, [b"one", b""])
    read = BatchReader(str(tmp_path), NODE).reader(7)
    task = read(first)
    assert (task.block, task.body, task.file_name) == (BLOCK, b"one", f"uwsgi_spoolfile_on_{NODE}_7_{first}")
    task.begin()
    task.leave()
    read(first).begin()
    data = (tmp_path / "incoming" / "7.batch").read_bytes()
    assert (data[first + STATE_AT], data[first + ATTEMPTS_AT]) == (spoolfile.WAITING, 2)
    task.finish()
    with pytest.raises(NotNow) as caught:
        read(first)
    assert caught.value.verdict == GONE
    assert read(second).body == b""
    states = [record.state for record in batch.read_records((tmp_path / "incoming" / "7.batch").read_bytes(), 7)]  # type: ignore[union-attr] # no damage
    assert states == [FINISHED, spoolfile.WAITING]


def test_a_record_of_a_function_that_is_held_back_is_given_back(tmp_path: Path) -> None:
    block = encode_variables([(b"spool_func", b"mail")])
    (tmp_path / "incoming").mkdir()
    record = batch.encode_record(7, block, b"", 1.0, 0.0, names.LAST)
    Path(Layout(str(tmp_path)).batch(7)).write_bytes(batch.encode_header(7) + record)
    offset = batch.HEADER_SIZE + batch.RECORD_SIZE
    with pytest.raises(NotNow) as caught:
        BatchReader(str(tmp_path), NODE).reader(7, {b"mail"})(offset)
    assert (caught.value.verdict, caught.value.detail) == (WITHHELD, "mail")
    assert BatchReader(str(tmp_path), NODE).reader(7, {b"pay"})(offset).block == block


def test_a_batch_that_is_not_there_has_lost_its_tasks(tmp_path: Path) -> None:
    read = BatchReader(str(tmp_path), NODE).reader(7)
    with pytest.raises(NotNow) as caught:
        read(72)
    assert caught.value.verdict == GONE


# -- spots of a take from a common store --


def take(root: Path, *tasks: HeldTask) -> list[str]:
    (root / "tmp").mkdir(exist_ok=True)
    data, spots = encode_held(9, tasks)
    (root / held_batch(9)).write_bytes(data)
    return list(spots.values())


def store_at(root: Path) -> Store:
    return Store(RealDisk(), Layout(str(root)), NODE)


def held_reader(root: Path, most: int = 4, held: Collection[bytes] = ()) -> Callable[[str], Task]:
    policy = RetryPolicy(max_attempts=most)
    return HeldReader(BatchReader(str(root), NODE), SpoolFileReader(str(root), policy), policy).reader(held)


def test_the_tasks_of_a_take_are_read_begun_and_finished_in_place_under_their_own_names(tmp_path: Path) -> None:
    first, second = take(tmp_path, HeldTask("x_1_2", BLOCK, 0, 2, 5.0), HeldTask("7", BLOCK, 0, 0, 1e12))
    read = held_reader(tmp_path)
    task = read(first)
    assert (task.block, task.body, task.file_name) == (BLOCK, b"", "uwsgi_spoolfile_on_x_1_2")
    task.begin()
    assert (task.attempt, task.ready_at) == (3, 5.0)
    task.leave()
    assert read(second).ready_at <= time.time(), "it is due by the clock of the store"
    task.finish()
    with pytest.raises(NotNow) as caught:
        read(first)
    assert caught.value.verdict == GONE
    place = HeldPlace(spots={"1": first, "2": second})
    assert place.ended(store_at(tmp_path), ["1", "2"]) == {"1"}
    assert place.progress(store_at(tmp_path), "1") == Progress(FINISHED, 3)


def test_a_task_with_a_body_that_was_taken_has_a_file(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / NAME).write_bytes(spoolfile.head(BLOCK) + b"body")
    task = held_reader(tmp_path)(f"tmp/{NAME}")
    assert (task.body, task.file_name) == (b"body", NAME)
    task.finish()
    assert HeldPlace().ended(store_at(tmp_path), [f"tmp/{NAME}"]) == {f"tmp/{NAME}"}


@pytest.mark.parametrize(
    ("block", "attempts", "verdict"),
    [
        (encode_variables([(b"spool_func", b"mail")]), 0, WITHHELD),
        (BLOCK, 4, "failed"),
        (BLOCK[:-1], 0, CORRUPT),
    ],
)
def test_a_task_of_a_take_that_may_not_start_does_not(tmp_path: Path, block: bytes, attempts: int, verdict: str) -> None:
    (spot,) = take(tmp_path, HeldTask("x", block, 0, attempts, 1.0))
    with pytest.raises(NotNow) as caught:
        held_reader(tmp_path, held={b"mail"})(spot)
    assert caught.value.verdict == verdict


def test_what_cannot_be_read_of_a_take_is_kept_and_the_rest_goes_on(tmp_path: Path) -> None:
    damaged, _ = take(tmp_path, HeldTask("x", b"\xff\xff", 0, 0, 1.0), HeldTask("y", BLOCK, 0, 0, 1.0))
    (tmp_path / "corrupt").mkdir()
    place = HeldPlace(spots={"tmp/uwsgi_spoolfile_on_x": damaged})
    (line,) = place.quarantine(store_at(tmp_path), "tmp/uwsgi_spoolfile_on_x", "why")
    assert line[1]["corrupt"] == "uwsgi_spoolfile_on_x"
    assert (tmp_path / "corrupt" / "uwsgi_spoolfile_on_x").read_bytes() == spoolfile.head(b"\xff\xff")
    assert (tmp_path / held_batch(9)).exists()


def test_a_take_that_is_not_there_has_lost_its_tasks(tmp_path: Path) -> None:
    (spot,) = take(tmp_path, HeldTask("x", BLOCK, 0, 0, 1.0))
    (tmp_path / held_batch(9)).unlink()
    with pytest.raises(NotNow) as caught:
        held_reader(tmp_path)(spot)
    assert caught.value.verdict == GONE


@pytest.mark.parametrize("to", ["tag:gpu", "10.0.0.2:3031", "0.held:3"])
def test_a_task_for_a_destination_with_a_colon_lies_in_a_file(tmp_path: Path, to: str) -> None:
    assert location_at(Layout(str(tmp_path)), f"outbox/{to}/uwsgi_spoolfile_on_a_1") is None


def test_a_task_outlives_the_mappings_that_are_kept(tmp_path: Path) -> None:
    reader = BatchReader(str(tmp_path), NODE)
    (offset,) = make_batch(tmp_path, 0, [b"x"])
    task = reader.reader(0)(offset)
    for number in range(1, KEPT_BATCHES + 3):
        make_batch(tmp_path, number, [b"x"])
        reader.reader(number)(offset)
    before = len(os.listdir("/proc/self/fd"))
    task.finish()
    assert (tmp_path / "incoming" / "0.batch").read_bytes()[offset] == FINISHED
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize(("value", "seconds"), [(b"2.5", 2.5), (b"-1", 0.0), (b"0", 0.0), (b"x", 0.0), (b"", 0.0), (b"1e9", 0.0)])
def test_a_limit_that_makes_no_sense_is_none(reader: SpoolFileReader, path: Path, value: bytes, seconds: float) -> None:
    path.write_bytes(spoolfile.head(encode_variables([(names.TIMEOUT, value)])))
    task = reader.read(NAME)
    assert task.timeout == seconds
    task.leave()


@pytest.mark.parametrize(
    ("attempts", "said", "runs"),
    [
        (3, [], True),
        (4, [], False),
        (4, [(names.RETRY, b"5,,")], True),
        (1, [(names.RETRY, b"1,,")], False),
        (9, [(names.RETRY, b"0,,")], True),
        (4, [(names.REASON, b"it was copied out of dead/ by hand")], True),
    ],
)
def test_a_task_whose_last_attempt_was_cut_short_does_not_start_once_more(
    path: Path, attempts: int, said: list[tuple[bytes, bytes]], runs: bool
) -> None:
    reader = SpoolFileReader(str(path.parent), RetryPolicy(max_attempts=4))
    path.write_bytes(spoolfile.head(encode_variables([(b"a", b"b"), *said]), attempts))
    if runs:
        reader.read(NAME).leave()
        return
    with pytest.raises(NotNow) as caught:
        reader.read(NAME)
    assert (caught.value.verdict, caught.value.detail) == ("failed", "the node ended while the task ran")
    assert path.read_bytes()[ATTEMPTS_AT] == attempts


def test_the_attempt_counts_before_the_body_is_read(reader: SpoolFileReader, path: Path) -> None:
    """A body that is more than the memory gets its reader killed, again and again, if that did not count."""
    os.truncate(path, 256 << 20)
    child = os.fork()
    if child == 0:
        try:
            reader.read(NAME)
        finally:
            os._exit(0)
    ended = 0
    with path.open("rb") as file:
        while not os.pread(file.fileno(), 1, ATTEMPTS_AT)[0] and not ended:
            ended = os.waitpid(child, os.WNOHANG)[0]
    assert not ended, "it had read all before it counted"
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_of_a_batch_that_was_cut_short_the_whole_tasks_run_and_the_others_are_corrupt(tmp_path: Path) -> None:
    first, second = make_batch(tmp_path, 7, [b"1", b"2" * 100])
    reader = BatchReader(str(tmp_path), NODE)
    assert reader.reader(7)(second).body == b"2" * 100
    os.truncate(Layout(str(tmp_path)).batch(7), second + 50)  # under the mapping that is kept
    read = reader.reader(7)
    assert read(first).body == b"1"
    for offset in (second, second + 1000):
        with pytest.raises(NotNow) as refusal:
            read(offset)
        assert refusal.value.verdict == CORRUPT
    os.truncate(Layout(str(tmp_path)).batch(7), 0)
    with pytest.raises(NotNow) as refusal:
        reader.reader(7)(first)
    assert refusal.value.verdict == CORRUPT


def test_a_batch_that_was_removed_has_lost_its_tasks_though_it_was_mapped(tmp_path: Path) -> None:
    (offset,) = make_batch(tmp_path, 7, [b"1"])
    reader = BatchReader(str(tmp_path), NODE)
    assert reader.reader(7)(offset).body == b"1"
    os.unlink(Layout(str(tmp_path)).batch(7))
    with pytest.raises(NotNow) as refusal:
        reader.reader(7)(offset)
    assert refusal.value.verdict == GONE


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EIO, errno.EROFS, errno.ESTALE])
def test_what_cannot_be_read_now_is_not_corrupt(reader: SpoolFileReader, path: Path, code: int) -> None:
    def failing(*args: object, **options: object) -> int:
        raise OSError(code, os.strerror(code), str(path))

    with mock.patch("os.open", failing):  # for root, who runs these tests in CI, every file can be read
        assert verdict(reader) == UNREADABLE
    assert path.exists()
