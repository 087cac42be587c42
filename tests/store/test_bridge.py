"""A spool's backlog into a store and back: each task once, wherever the move was interrupted."""

import asyncio
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from store_tasks import new, take
from support import RunningNode

import spoolnode
from spoolnode.cli import main
from spoolnode.cluster.store.interface import (
    REMEMBERED,
    Again,
    BytesContent,
    Lease,
    NewTask,
    StoreAway,
    StoredTask,
    TaskState,
)
from spoolnode.cluster.store.memory import MemoryStore
from spoolnode.cluster.store.pull import LEASE, PULLED, Pull
from spoolnode.cluster.store.push import IN_DOUBT, PICKLED, UNREADABLE, push, save_numbers
from spoolnode.node.disk.disk import RealDisk
from spoolnode.node.disk.layout import Layout
from spoolnode.node.spool import inspect
from spoolnode.node.spool.recovery import prepare
from spoolnode.node.spool.store import Store
from spoolnode.protocol.packet import decode_variables, encode_variables
from spoolnode.protocol.spoolfile import head

BODY = bytes(range(256)) * 2400


class Killed(BaseException):
    """The process that moves tasks ends here."""


class Fuse:
    """Kills at its n-th step."""

    def __init__(self, step: int) -> None:
        self.left = step

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


class DyingDisk(RealDisk):
    """A disk whose process dies before one of its changes."""

    def __init__(self, fuse: Fuse) -> None:
        super().__init__()
        self._fuse = fuse

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        self._fuse.step()
        super().write(descriptor, data, offset)

    def rename(self, source: str, target: str) -> None:
        self._fuse.step()
        super().rename(source, target)

    def unlink(self, path: str) -> None:
        self._fuse.step()
        super().unlink(path)

    def sync_directory(self, path: str) -> None:  # the machine does not die
        self._fuse.step()

    def sync(self, descriptor: int) -> None:
        self._fuse.step()


class DyingStore(MemoryStore):
    """A store whose client dies before or after one of its requests."""

    fuse = Fuse(0)

    def _ask(self) -> None:
        self.fuse.step()
        super()._ask()

    def _answer(self) -> None:
        super()._answer()
        self.fuse.step()


def store_at(directory: Path, fuse: Fuse | None = None) -> Store:
    layout = Layout(str(directory))
    identity = Path(layout.node_id)
    store = Store(DyingDisk(fuse or Fuse(0)), layout, identity.read_text().strip() if identity.exists() else "-")
    prepare(store, lambda _action, **_details: None)
    return store


def waiting(directory: Path) -> list[inspect.Info]:
    store = store_at(directory)
    return [*inspect.waiting_tasks(store, 1.0), *inspect.outbox_tasks(store, 1.0)]


@pytest.fixture(scope="module")
def backlog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The spool of a node that was killed: eight tasks in a batch, two with files of their own, one dropped by hand."""
    directory = tmp_path_factory.mktemp("backlog")
    node = RunningNode(directory, "alpha")
    try:
        node.start()
        for name, more in {"priority": {"priority": 3}, "at": {"at": time.time() + 7200}, "key": {"spool_key": "k"}}.items():
            spoolnode.send_to_spooler({"n": name, **more}, via=node.via)
        for name, to in {"0": None, "1": None, "2": None, "3": None, "node": "beta", "tag": "tag:gpu"}.items():
            spoolnode.send_to_spooler({"n": name}, to, via=node.via)
        spoolnode.send_to_spooler({"n": "body", "body": BODY}, via=node.via)
        node.kill9()
        dropped = node.spool / "uwsgi_spoolfile_on_host_1_2"
        dropped.write_bytes(head(encode_variables([(b"n", b"dropped")])))
        yield node.spool
    finally:
        node.clean_up()


@pytest.fixture
def spool(backlog: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(backlog, tmp_path / "spool", ignore=shutil.ignore_patterns("*.sock"))
    return tmp_path / "spool"


NAMES = sorted(["0", "1", "2", "3", "priority", "at", "node", "tag", "key", "body", "dropped"])


async def names_in(memory: MemoryStore) -> list[str]:
    """The tasks that wait in a store, by their variable n."""
    pages = [await memory.list(state, 1000) for state in (TaskState.READY, TaskState.LATER)]
    return sorted(dict(decode_variables(found.task.block))[b"n"].decode() for page in pages for found in page.tasks)


def names_on_disk(directory: Path) -> list[str]:
    store = store_at(directory)
    blocks = (store.variables_at(inspect.place_of(store, info)) for info in waiting(directory))
    return sorted(dict(block)[b"n"].decode() for block in blocks)


def moved_in(spool: Path, memory: MemoryStore, fuse: Fuse | None = None) -> Any:
    return asyncio.run(push(store_at(spool, fuse), memory))


def test_a_push_moves_all_that_waits_and_keeps_what_each_task_asks_for(spool: Path) -> None:
    memory = MemoryStore(now=1.0)
    asyncio.run(save_numbers(store_at(spool)))
    pushed = moved_in(spool, memory)
    assert (pushed.gone, pushed.left, waiting(spool)) == (11, Counter(), [])

    async def look() -> dict[str, StoredTask]:
        pages = [await memory.list(state, 1000) for state in (TaskState.READY, TaskState.LATER)]
        return {dict(decode_variables(f.task.block))[b"n"].decode(): f.task for page in pages for f in page.tasks}

    found = asyncio.run(look())
    assert {name: task.to for name, task in found.items() if task.to != "any"} == {
        "node": "beta", "tag": "tag:gpu",
    }  # fmt: skip
    assert found["priority"].rank == 3
    assert found["at"].due > 1e9
    assert found["key"].key
    assert found["body"].size == len(BODY)
    assert found["dropped"].id.startswith("host_1_2%")


def test_a_push_that_is_killed_at_any_step_and_repeated_moves_each_task_once(backlog: Path, place: Path) -> None:
    step, killed = 0, True
    while killed:
        step += 1
        spool = place / f"spool{step}"
        shutil.copytree(backlog, spool, ignore=shutil.ignore_patterns("*.sock"))
        store_at(spool)
        memory = DyingStore(now=1.0)
        memory.fuse = Fuse(step)
        killed = False
        try:
            moved_in(spool, memory, memory.fuse)
        except Killed:
            killed = True
            memory.fuse = Fuse(0)
            moved_in(spool, memory)
        memory.fuse = Fuse(0)
        assert (asyncio.run(names_in(memory)), waiting(spool)) == (NAMES, []), step
        shutil.rmtree(spool)
    assert step > 10


def filled() -> DyingStore:
    """A store with tasks of each kind."""
    memory = DyingStore(now=1_800_000_000.0)
    block = {name: encode_variables([(b"n", name.encode())]) for name in NAMES}
    tasks = [
        StoredTask(f"t{number}", block[name], to=to, rank=rank, due=due, key=key, attempts=2)
        for number, (name, to, rank, due, key) in enumerate([
            ("0", "any", 5, 0.0, b""), ("1", "any", 1 << 63, 0.0, b"k"), ("at", "any", 1 << 63, 1_900_000_000.0, b""),
            ("node", "beta", 1 << 63, 0.0, b""), ("tag", "tag:gpu", 1 << 63, 0.0, b""),
        ])
    ]  # fmt: skip
    asyncio.run(memory.publish([NewTask(task, BytesContent(BODY if task.id == "t0" else b"")) for task in tasks]))
    return memory


FILLED = sorted(["0", "1", "at", "node", "tag"])


def pulled(spool: Path, memory: MemoryStore, fuse: Fuse | None = None, node: str | None = None) -> int:
    return asyncio.run(Pull(store_at(spool, fuse), memory, node).run())


def test_a_pull_puts_each_task_where_a_node_looks_for_it(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    assert pulled(spool, filled()) == 5
    found = {info.where: info for info in waiting(spool)}
    places = Counter(where.rpartition("/")[0] for where in found)
    assert places == {"5": 1, "outbox/beta": 1, "outbox/tag:gpu": 1, "": 2}
    assert found["uwsgi_spoolfile_on_t2"].due == 1_900_000_000
    file = inspect.read_file(store_at(spool), inspect.place_of(store_at(spool), found["5/uwsgi_spoolfile_on_t0"]))
    assert (file.body, file.attempts, dict(file.variables)[b"spool_hops"]) == (BODY, 2, b"1")


def test_a_pull_for_one_node_takes_only_its_tasks_and_they_run_here(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    memory = filled()
    assert pulled(spool, memory, node="beta") == 1
    assert [info.where for info in waiting(spool)] == ["uwsgi_spoolfile_on_t3"]
    assert len(asyncio.run(names_in(memory))) == 4


def test_a_pull_that_is_killed_at_any_step_and_repeated_moves_each_task_once(place: Path) -> None:
    step, killed = 0, True
    while killed:
        step += 1
        spool = place / f"spool{step}"
        spool.mkdir()
        store_at(spool)
        memory = filled()
        memory.fuse = Fuse(step)
        killed = False
        try:
            pulled(spool, memory, memory.fuse)
        except Killed:
            killed = True
            memory.fuse = Fuse(0)
            memory.advance(LEASE + 1)
            pulled(spool, memory)
        memory.fuse = Fuse(0)
        assert (names_on_disk(spool), asyncio.run(names_in(memory))) == (FILLED, []), step
        assert [path.name for path in (spool / PULLED).rglob("*") if path.is_file()] == ["id"], step
        shutil.rmtree(spool)
    assert step > 50


class Interrupted(MemoryStore):
    """It hears nothing after the tasks were copied to the disk, the first time."""

    is_first = True

    async def again(self, orders: Sequence[Again]) -> frozenset[Lease]:
        if self.is_first:
            self.is_first = False
            raise StoreAway("as if it was killed here")
        return await super().again(orders)


@pytest.mark.parametrize("seconds", [0.0, 2 * REMEMBERED])
def test_a_pull_that_was_interrupted_leaves_what_ran_elsewhere_meanwhile(tmp_path: Path, seconds: float) -> None:
    async def story() -> None:
        memory = Interrupted()
        await memory.publish([new("0123456789ab_1700000000000000_80")])
        with pytest.raises(StoreAway):
            await Pull(store_at(tmp_path / "spool"), memory).run()
        memory.advance(LEASE)  # what the pull had claimed may be taken by others
        ((lease, _),) = await take(memory)
        await memory.end([lease])
        memory.advance(seconds)
        assert await Pull(store_at(tmp_path / "spool"), memory).run() == 0

    asyncio.run(story())
    assert not [*(tmp_path / "spool").rglob("uwsgi_spoolfile*")]


def test_a_task_that_comes_back_from_a_disk_is_no_repeat(tmp_path: Path) -> None:
    memory = filled()
    for number in range(2):
        spool = tmp_path / f"spool{number}"
        spool.mkdir()
        assert pulled(spool, memory) == 5
        assert moved_in(spool, memory).gone == 5
        assert asyncio.run(names_in(memory)) == FILLED


def test_what_must_not_leave_the_disk_stays_and_is_told(spool: Path) -> None:
    asyncio.run(save_numbers(store_at(spool)))
    memory = MemoryStore(now=1.0)
    moved_in(spool, memory)
    (spool / "uwsgi_spoolfile_on_a").write_bytes(head(encode_variables([(b"ud_spool_func", b"f"), (b"args", b"pickle")])))
    (spool / "uwsgi_spoolfile_on_b").write_bytes(b"\x11\xff\xff")
    (spool / "outbox/beta").mkdir(exist_ok=True)
    (spool / "outbox/beta/uwsgi_spoolfile_on_c@7").write_bytes(head(encode_variables([(b"n", b"c")]), 1))
    pushed = moved_in(spool, memory)
    assert (pushed.gone, pushed.left) == (0, Counter({PICKLED: 1, UNREADABLE: 1, IN_DOUBT: 1}))
    assert len(waiting(spool)) == 3


# --- the commands, real nodes, and a real PostgreSQL ---

APP = """
from spoolnode import uwsgi

def run(task):
    print("ran", task["n"], len(task.get("body", b"")))

uwsgi.spooler = run
"""


def store_command(url: str, *args: str, status: int = 0) -> str:
    done = CliRunner().invoke(main, ["store", *args, "--store", url])
    assert done.exit_code == status, done.output
    return done.stdout if status == 0 else done.stderr


def test_a_backlog_goes_through_the_store_to_another_node_and_runs_there_once(
    spool: Path, in_postgres: Any, tmp_path: Path
) -> None:
    url = in_postgres.url
    assert "11 tasks moved" in store_command(url, "push", "-Q", str(spool))
    assert "0 tasks moved" in store_command(url, "push", "-Q", str(spool))
    rows = json.loads(store_command(url, "ls", "--json"))["tasks"]
    assert (len(rows), rows[0]["priority"]) == (10, 3)
    assert all(row["size"] for row in rows)  # also without a body: the arguments count, as in `ls`
    (tmp_path / "gamma").mkdir()
    gamma = RunningNode(tmp_path / "gamma", "gamma")
    try:
        assert "11 tasks moved" in store_command(url, "pull", "-Q", str(gamma.spool))
        gamma.start("--tag", "gpu", app=APP)
        for name in ("0", "1", "2", "3", "priority", "tag", "key", "dropped", "body"):
            gamma.wait_for_log("print", text=f"ran {name}")
        assert gamma.status()["links"]["beta"]["waiting"] == 1
        refused = store_command(url, "push", "-Q", str(gamma.spool), status=1)
        assert "another node" in refused
        gamma.stop()
        assert Counter(line["text"] for line in gamma.lines("print", text="ran")).most_common(1)[0][1] == 1
        assert "2 tasks moved" in store_command(url, "push", "-Q", str(gamma.spool))
        assert "1 task moved" in store_command(url, "pull", "-Q", str(gamma.spool), "--node", "beta")
        gamma.start(app=APP)
        gamma.wait_for_log("print", text="ran node")
    finally:
        gamma.clean_up()
