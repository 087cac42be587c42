"""The driver for NATS JetStream: its traps, and what dying processes leave behind. On one server; three: `test_nats_cluster`."""

import asyncio
import base64
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from nats.aio.transport import TcpTransport
from nats_servers import NatsCluster
from programs import free_port
from store_tasks import body_of, held, ids, new, take
from subjects import InNats, Subject
from support import need

from spoolnode.cluster.store import nats_connection, nats_stream, nats_times
from spoolnode.cluster.store.interface import (
    CHUNK,
    REMEMBERED,
    TOGETHER,
    Again,
    Lease,
    Publication,
    StoreAway,
    StoreUnfit,
    TaskState,
)
from spoolnode.cluster.store.nats import NatsStore
from spoolnode.cluster.store.nats_address import NatsAddress
from spoolnode.cluster.store.nats_bodies import ABANDONED, BodyUpload
from spoolnode.cluster.store.nats_changes import Change, StreamTasks
from spoolnode.cluster.store.nats_clock import REMEASURE, Clock
from spoolnode.cluster.store.nats_entries import PREFIX, STREAM
from spoolnode.cluster.store.nats_messages import Got, Messages
from spoolnode.cluster.store.nats_safety import Monitored, ToldByServers, worth_of
from spoolnode.cluster.store.nats_stream import check_server
from spoolnode.cluster.store.opening import open_store
from spoolnode.protocol.names import LAST


@pytest.fixture
def subject(nats_server: NatsCluster) -> InNats:
    """A stream that is empty at first."""
    return InNats(nats_server)


def nats_of(subject: Subject) -> NatsStore:
    assert isinstance(subject.store, NatsStore)
    return subject.store


async def asked(store: NatsStore, what: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> int:
    """How many requests that takes."""
    number = 0
    request = store._connection.request

    async def counted(*args: Any) -> Any:
        nonlocal number
        number += 1
        return await request(*args)

    with monkeypatch.context() as patch:
        patch.setattr(store._connection, "request", counted)
        await what()
    return number


async def left_in(store: NatsStore, kind: str) -> int:
    """How many messages there are of a kind."""
    return sum((await store._messages.counts(f"{PREFIX}.{kind}.>")).values())


# --- what is written ---


def test_a_repeat_is_the_same_task_long_after_jetstream_has_forgotten_its_message(subject: InNats) -> None:
    """JetStream knows message ids for two minutes, by default. Here they do not matter."""

    async def story(subject: Subject) -> None:
        store = nats_of(subject)
        info = await store._connection.ask(f"STREAM.INFO.{STREAM}")
        assert info
        assert info["config"]["duplicate_window"] < REMEMBERED * 1e9
        await store.end([await held(store, new("a"))])
        later = await subject.pass_time(REMEMBERED - 5)
        assert await later.publish([new("a")]) == [Publication.REPEATED]
        assert await (await subject.pass_time(10)).publish([new("a")]) == [Publication.STORED]

    subject.run(story)


def test_nothing_is_left_of_a_task_but_its_end_which_the_server_itself_removes(subject: InNats) -> None:
    async def story(subject: Subject) -> None:
        store = nats_of(subject)
        lease = await held(store, new("a", bytes(CHUNK + 1), key=b"k", due=subject.now() - 5))
        await store.extend([lease], 40)
        await store.again([Again(lease, due=subject.now() + 60)])
        ((lease, _),) = await store.claim(["a"], 30)
        await store.end([lease])
        counts = await store._messages.counts(f"{PREFIX}.>")
        assert counts == {f"{PREFIX}.ended": 1, f"{PREFIX}.task.a.0": 1}
        for name in ("ended", "task.a.0"):
            got = await store._connection.ask(f"STREAM.MSG.GET.{STREAM}", {"last_by_subj": f"{PREFIX}.{name}"})
            assert got
            assert b"Nats-TTL: 4200s" in base64.b64decode(got["message"]["hdrs"])

    subject.run(story)


def test_a_group_that_is_larger_than_a_batch_is_stored_and_taken_and_ended(subject: InNats) -> None:
    async def story(subject: Subject) -> None:
        number = 2 * TOGETHER + 1
        tasks = [new(f"t{n}", key=b"%d" % n) for n in range(number)]
        assert await subject.store.publish(tasks) == [Publication.STORED] * number
        leases = [lease for lease, _ in await take(subject.store, most=number)]
        assert len(leases) == number
        assert await subject.store.extend(leases, 30) == frozenset()
        assert await subject.store.end(leases) == frozenset()

    subject.run(story)


def test_what_a_take_asks_does_not_grow_with_the_backlog(subject: InNats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_times, "SWEEP", 0.0)  # so that each take sweeps, however long the publication has lasted

    async def story(subject: Subject) -> None:
        store = nats_of(subject)
        costs = []
        for size in (40, 600):
            await store.publish([new(f"{size}_{n}", to=("any", "beta")[n % 2]) for n in range(size)])
            await store.watch(["any"], 0)
            costs.append([
                await asked(store, what, monkeypatch)
                for what in (
                    lambda: take(store, most=5), store.count, lambda: store.find("40_19"), lambda: store.list(TaskState.READY, 5),
                )
            ])  # fmt: skip
        assert costs[0] == costs[1], costs

    subject.run(story)


def test_a_taker_asks_nothing_about_what_it_has_itself(subject: InNats, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(subject: Subject) -> None:
        store = nats_of(subject)
        await store.publish([new(f"t{number}") for number in range(10)])
        leases = [lease for lease, _ in await take(store)]
        assert await asked(store, lambda: store.extend(leases, 60), monkeypatch) == 10  # the entries that go
        assert await asked(store, lambda: store.end(leases), monkeypatch) == 10
        assert (await store.count())[TaskState.HELD].number == 0

    subject.run(story)


def test_two_bodies_of_names_of_one_length_are_stored_together(subject: InNats) -> None:
    """nats-server #8376: a batch with two conditions on other subjects than its own, of equal length, was refused."""

    async def story(subject: Subject) -> None:
        tasks = [new(f"t{number}", b"body %d" % number) for number in range(4)]
        assert await subject.store.publish(tasks) == [Publication.STORED] * 4
        assert await left_in(nats_of(subject), "upload") == 0
        for lease, task in await take(subject.store):
            assert await body_of(subject.store, lease) == b"body " + task.id[1:].encode()

    subject.run(story)


# --- a new leader, which may not have all that was acknowledged at first ---


def lags(monkeypatch: pytest.MonkeyPatch, *subjects: str) -> None:
    """The leader does not know the last message of these subjects, until it has stored one itself."""
    last, catch_up = Messages.last, Messages.catch_up
    unknown = set(subjects)

    async def lagging(self: Messages, subject: str) -> Got | None:
        return None if subject in unknown else await last(self, subject)

    async def caught_up(self: Messages) -> None:
        unknown.clear()
        await catch_up(self)

    monkeypatch.setattr(Messages, "last", lagging)
    monkeypatch.setattr(Messages, "catch_up", caught_up)


def test_no_lease_is_told_as_lost_and_no_task_as_gone_before_the_leader_has_caught_up(
    subject: InNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(subject: Subject) -> None:
        await held(subject.store, new("a"))
        other = await subject.another()  # which knows of the lease only what it reads
        lags(monkeypatch, f"{PREFIX}.task.a.0")
        assert await other.extend([Lease("a", 0, 1)], 30) == frozenset()
        lags(monkeypatch, f"{PREFIX}.task.a.0")
        found = await other.find("a")
        assert found
        assert found.state == TaskState.HELD

    subject.run(story)


def test_a_leader_stores_a_message_to_catch_up_and_one_of_these_is_kept(subject: InNats) -> None:
    async def story(subject: Subject) -> None:
        for turn in (1, 2):
            assert await subject.store.end([Lease("never", 0, turn)])
        store = nats_of(subject)
        assert await store._messages.counts(f"{PREFIX}.>") == {f"{PREFIX}.turn": 1}
        got = await store._messages.last(f"{PREFIX}.turn")
        assert got
        assert got.seq > 1

    subject.run(story)


def test_a_replica_that_lags_hides_no_task_and_shows_none_twice(subject: InNats, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one read that may ask any replica gets what was there before the last changes."""
    before: list[Got] = []

    async def lagging(*_: object) -> list[Got]:
        return before

    async def story(subject: Subject) -> None:
        store, bulk = nats_of(subject), Messages._bulk
        await store.publish([new("a"), new("b")])
        before.extend(await bulk(store._messages, f"{PREFIX}.ready.any.{LAST}.new", 1, 2))
        assert len(before) == 2
        await store.publish([new("c"), new("d")])
        monkeypatch.setattr(Messages, "_bulk", lagging)
        assert ids(await take(store, most=3)) == ["a", "b", "c"]
        await store.publish([new("e")])
        assert await take(store, most=2) == []  # it still has the old ones only
        monkeypatch.undo()
        assert ids(await take(store)) == ["d", "e"]

    subject.run(story)


# --- what dying processes leave behind ---


class Died(Exception):
    """The process ends here."""


def dies_before_clearing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def dies(self: StreamTasks, changes: Sequence[Change]) -> None:
        raise Died

    monkeypatch.setattr(StreamTasks, "_clear", dies)


def test_what_a_dying_writer_leaves_behind_is_not_taken_nor_shown_and_goes(
    subject: InNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(subject: Subject) -> None:
        store = nats_of(subject)
        await store.publish(
            [new("taken"), new("ready"), new("removed"), new("later", due=subject.now() + 5), new("key", key=b"k")]
        )
        with monkeypatch.context() as patch:
            dies_before_clearing(patch)
            for act in (store.take(1, ["any"], 30.0), store.remove("removed"), store.claim(["later", "key"], 30)):
                with pytest.raises(Died):
                    await act
        listed = await store.list(TaskState.READY, 10)
        assert [found.task.id for found in listed.tasks] == ["ready"]
        assert await left_in(store, "ready") == 1
        assert await store.publish([new("other", key=b"k")]) == [Publication.STORED]
        assert ids(await take(store)) == ["ready", "other"]
        after = await subject.pass_time(6)
        await take(after)
        assert (await after.list(TaskState.LATER, 10)).tasks == []
        assert (await after.count())[TaskState.LATER].number == 0
        left = set(ids(await take(await subject.pass_time(31)))) - {"key", "other"}  # of these two, one ends
        assert left == {"later", "ready", "taken"}

    subject.run(story)


def test_an_entry_that_is_out_of_date_does_not_hold_up_a_taker(subject: InNats, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(subject: Subject) -> None:
        store = nats_of(subject)
        await store.publish([new("a"), new("b")])
        with monkeypatch.context() as patch:
            dies_before_clearing(patch)
            with pytest.raises(Died):
                await take(store, most=1)
        assert ids(await take(store)) == ["b"]

    subject.run(story)


def test_an_entry_that_a_new_leader_does_not_know_the_mark_of_yet_is_kept(
    subject: InNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader that was just elected may lag a little behind the replica from which the list came."""

    async def story(subject: Subject) -> None:
        store = nats_of(subject)
        await store.publish([new("a")])
        lagging: list[Got | None] = [None, Got(f"{PREFIX}.task.a.0", 1, b"")]

        async def behind(self: Messages, what: str) -> Got | None:
            return lagging[0]

        for _ in lagging:
            with monkeypatch.context() as patch:
                patch.setattr(Messages, "last", behind)
                assert (await store.list(TaskState.READY, 10)).tasks == []
            lagging.reverse()
        assert ids(await take(store)) == ["a"]

    subject.run(story)


def test_a_body_of_a_publisher_that_died_is_removed_in_the_end(subject: InNats) -> None:
    async def story(subject: Subject) -> None:
        store = nats_of(subject)
        await BodyUpload(store._messages, new("a", bytes(2 * CHUNK))).run()
        await store.publish([new("b", b"whole")])
        assert await left_in(store, "body") == 3
        later = await subject.pass_time(ABANDONED + 1)
        await take(later, "elsewhere")
        assert (await left_in(store, "body"), await left_in(store, "upload")) == (1, 0)

    subject.run(story)


def test_a_publisher_that_was_slow_is_refused_once_its_body_was_removed(subject: InNats, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(subject: Subject) -> None:
        store, run = nats_of(subject), BodyUpload.run

        async def slow(self: BodyUpload) -> None:
            await run(self)
            later = await subject.pass_time(ABANDONED + 1)
            await take(later, "elsewhere")

        monkeypatch.setattr(BodyUpload, "run", slow)
        with pytest.raises(StoreAway):
            await store.publish([new("a", b"body")])
        assert await store.find("a") is None

    subject.run(story)


def test_a_body_stays_whole_if_the_answer_about_its_task_was_lost(subject: InNats, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(subject: Subject) -> None:
        store, commit = nats_of(subject), Messages.commit

        async def unanswered(self: Messages, messages: Any) -> None:
            await commit(self, messages)
            raise StoreAway("the answer was lost")

        with monkeypatch.context() as patch:
            patch.setattr(Messages, "commit", unanswered)
            with pytest.raises(StoreAway):
                await store.publish([new("a", b"body")])
        assert await store.publish([new("a", b"body")]) == [Publication.REPEATED]
        later = await subject.pass_time(ABANDONED + 1)
        ((lease, _),) = await take(later)  # and removes what was left behind
        assert await body_of(later, lease) == b"body"
        assert await left_in(store, "upload") == 0

    subject.run(story)


def test_what_became_due_while_nobody_looked_is_found(subject: InNats) -> None:
    async def story(subject: Subject) -> None:
        await held(subject.store, new("held"), lease=10)
        await subject.store.publish([new("later", due=subject.now() + 60)])
        assert sorted(ids(await take(await subject.pass_time(30 * 86400)))) == ["held", "later"]

    subject.run(story)


# --- the stream ---


def test_a_limit_that_would_drop_tasks_is_refused_and_taken_back(subject: InNats) -> None:
    async def story(subject: Subject) -> None:
        store = nats_of(subject)
        info = await store._connection.ask(f"STREAM.INFO.{STREAM}")
        assert info
        assert (info["config"]["max_msgs"], info["config"]["max_bytes"], info["config"]["max_age"]) == (-1, -1, 0)
        await store._connection.ask(f"STREAM.UPDATE.{STREAM}", {**info["config"], "max_msgs": 1000, "discard": "old"})
        url = subject.cluster.url if isinstance(subject, InNats) else ""
        with pytest.raises(StoreUnfit, match=r"discard=old, max_msgs=1000\).*--migrate"):
            await NatsStore.open(url)
        await (await NatsStore.open(url, migrates=True)).close()
        await (await NatsStore.open(url)).close()

    subject.run(story)


def test_a_stream_that_is_gone_is_told_and_not_made_anew(subject: InNats) -> None:
    """A server that was restarted empty has lost tasks; nobody should go on as if nothing had happened."""

    async def story(subject: Subject) -> None:
        store = nats_of(subject)
        url = subject.cluster.url if isinstance(subject, InNats) else ""
        await store._connection.ask(f"STREAM.DELETE.{STREAM}")
        try:
            with pytest.raises(StoreUnfit, match="no stream"):
                await NatsStore.open(url)
            with pytest.raises((StoreUnfit, StoreAway)):
                await store.count()
        finally:
            await (await NatsStore.open(url, migrates=True)).close()

    subject.run(story)


def test_a_stream_of_a_later_version_is_left_alone(subject: InNats, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(subject: Subject) -> None:
        url = subject.cluster.url if isinstance(subject, InNats) else ""
        with monkeypatch.context() as patch:
            patch.setattr(nats_stream, "VERSION", 2)
            await (await NatsStore.open(url, migrates=True)).close()
        for migrates in (False, True):
            with pytest.raises(StoreUnfit, match=r"version 2.*knows 1"):
                await NatsStore.open(url, migrates=migrates)
        await nats_of(subject)._connection.ask(f"STREAM.DELETE.{STREAM}")
        await (await NatsStore.open(url, migrates=True)).close()

    subject.run(story)


@pytest.mark.parametrize("name", [STREAM, f"{STREAM}_nodes"])
def test_a_stream_of_another_program_is_left_as_it_is(subject: InNats, name: str) -> None:
    async def story(subject: Subject) -> None:
        url = subject.cluster.url if isinstance(subject, InNats) else ""
        ask = nats_of(subject)._connection.ask
        await ask(f"STREAM.DELETE.{name}")
        foreign = {"name": name, "subjects": ["orders.>"], "num_replicas": 1}
        await ask(f"STREAM.CREATE.{name}", foreign)
        try:
            with pytest.raises(StoreUnfit, match=rf"{name}' of another program \(subjects: orders\.>\)"):
                await NatsStore.open(url, migrates=True)
            info = await ask(f"STREAM.INFO.{name}")
            assert info
            assert {key: info["config"][key] for key in foreign} == foreign
        finally:
            await ask(f"STREAM.DELETE.{name}")
            await (await NatsStore.open(url, migrates=True)).close()

    subject.run(story)


def test_more_replicas_than_servers_are_refused(nats_server: NatsCluster) -> None:
    async def story() -> None:
        with pytest.raises(StoreUnfit, match="replicas"):
            await NatsStore.open(nats_server.url.replace("replicas=1", "replicas=3"), migrates=True)

    asyncio.run(story())


def test_an_old_server_is_refused() -> None:
    check_server("2.14.6")
    check_server("3.0.0")
    for version in ("2.9.10", "2.14.5", "1.4.1"):
        with pytest.raises(StoreUnfit, match=f"nats-server {version}; a store needs 2.14.6"):
            check_server(version)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("nats://h1/tasks", "hosts and options only"),
        ("nats://h1?replica=3", "'replica' is not an option"),
        ("nats://h1?replicas=three", "a number from 1 to 5"),
        ("nats://h1?replicas=6", "a number from 1 to 5"),
        ("nats://h1,,h3", "a host is missing"),
        ("nats://h1:port", "not a host with a port"),
        ("nats://h1?creds=/nowhere/file", "cannot be read"),
        ("nats://h1?tls_ca=/nowhere/file", "cannot be read"),
    ],
)
def test_an_address_that_makes_no_sense_is_told(url: str, why: str) -> None:
    with pytest.raises(StoreUnfit, match=why):
        asyncio.run(open_store(url))


def test_an_address_names_hosts_a_user_and_files() -> None:
    address = NatsAddress.read("nats://app:p%40ss@h1,h2:4333,[::1]?replicas=5&creds=/c&tls_ca=/t")
    assert address.hosts == ("h1:4222", "h2:4333", "[::1]:4222")
    assert (address.user, address.password, address.replicas, address.creds) == ("app", "p@ss", 5, "/c")
    assert address.servers[0] == "tls://h1:4222"
    assert "p@ss" not in f"{address} {address.name}"
    assert NatsAddress.read("nats://h1").replicas == 3


def test_a_store_that_is_nowhere_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_connection, "PATIENCE", 1.0)
    with pytest.raises(StoreAway, match=r"127\.0\.0\.1:1 is away"):
        asyncio.run(open_store("nats://user:secret@127.0.0.1:1"))


def test_an_attempt_to_connect_ends_in_time_though_it_misses_that_it_is_cancelled() -> None:
    missed = 0

    async def deaf() -> None:
        nonlocal missed
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                missed += 1
                if missed == 3:
                    raise

    with pytest.raises(TimeoutError):
        asyncio.run(nats_connection.within(0.01, deaf()))
    assert missed == 3


# --- time ---


def test_the_time_is_that_of_the_servers() -> None:
    clock = Clock()
    asked = time.time()
    clock.heard("2030-01-01T00:00:00.123456789Z", asked, asked + 0.2)
    there = 1893456000.123456 + time.time() - asked - 0.1
    assert abs(clock.now() - there) < 30
    clock.heard("2040-01-01T00:00:00Z", asked + 1, asked + 5)  # slow, so it says less
    assert abs(clock.now() - there) < 30
    clock.heard("2040-01-01T00:00:00Z", asked + REMEASURE, asked + REMEASURE + 4)
    assert clock.now() - there > 1e8


# --- what is safe ---


def reported(**changes: Any) -> ToldByServers:
    """Three servers that are as they should be."""
    told = ToldByServers(
        "2.15.1", {"storage": "file", "num_replicas": 3}, ["a", "b", "c"], ["a", "b", "c"],
        {name: Monitored(name, "2.15.1", "always") for name in "abc"},
    )  # fmt: skip
    return told._replace(**changes)


@pytest.mark.parametrize(
    ("said", "survives", "advice"),
    [
        (reported(), (True, True, True), ""),
        (reported(monitored={}), (True, False, True), "not known"),
        (reported(monitored={**reported().monitored, "b": Monitored("b", "2.15.1", "120 s")}), (True, False, True), "b may lose"),
        (reported(config={"storage": "file", "num_replicas": 1}, keepers=["a"], in_step=["a"]), (True, True, False), "only one"),
        (reported(config={"storage": "memory", "num_replicas": 3}), (False, False, True), "only in memory"),
        (reported(config={"storage": "file", "num_replicas": 3, "persist_mode": "async"}), (False, False, True), "in memory"),
        (reported(in_step=["a", "b"]), (True, True, True), "c is away or behind"),
        (reported(in_step=["a"]), (True, True, False), "b, c is away or behind"),
        (reported(version="2.14.0"), (True, True, True), "slow"),
    ],
)
def test_what_is_safe_is_what_the_servers_say(said: ToldByServers, survives: tuple[bool, bool, bool], advice: str) -> None:
    worth = worth_of(said)
    assert (worth.survives_crash, worth.survives_power_cut, worth.survives_lost_disk) == survives
    assert (advice in " ".join(worth.advice)) if advice else worth.advice == []


def test_a_server_tells_how_often_it_syncs(subject: InNats) -> None:
    async def story(subject: Subject) -> None:
        said = await subject.store.check()
        assert said.engine == "NATS JetStream 2.15.1"
        assert ("sync_interval of n1", "120 s") in said.facts
        assert not said.survives_power_cut

    subject.run(story)


# --- the door ---


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with certificates for 127.0.0.1, each vouching for itself: that of the server, and that of a stranger."""
    directory = tmp_path_factory.mktemp("certificates")
    for name in ("server", "stranger"):
        making = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=n1 -addext subjectAltName=IP:127.0.0.1"
        files = ["-keyout", directory / f"{name}.key", "-out", directory / f"{name}.pem"]
        subprocess.run([need("openssl"), *making.split(), *files], check=True, capture_output=True)
    return directory


@pytest.mark.parametrize(
    ("encrypts", "trusts", "why"),
    [(True, "server", ""), (True, "stranger", "is not trusted"), (True, "", "is not trusted"), (False, "server", "in the clear")],
)
def test_with_certificates_the_connection_is_encrypted_or_refused(
    place: Path, certificates: Path, encrypts: bool, trusts: str, why: str
) -> None:
    cluster = NatsCluster(place, 1)
    lines = "authorization { user: app, password: right }"
    if encrypts:
        lines += f"\ntls {{ cert_file: '{certificates}/server.pem', key_file: '{certificates}/server.key' }}"
    cluster.servers[0].configure(lines)
    url = cluster.url.replace("nats://", "nats://app:right@") + (f"&tls_ca={certificates}/{trusts}.pem" if trusts else "")
    try:
        cluster.start()
        if not why:
            asyncio.run(closed(NatsStore.open(url, migrates=True)))
            return
        with pytest.raises(StoreUnfit, match=why):
            asyncio.run(closed(NatsStore.open(url, migrates=True)))
    finally:
        cluster.end()


def test_a_store_that_is_closed_while_its_servers_are_away_tries_no_more(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's wait_for loses a cancellation that comes with the refusal of a connection. Here each one does."""
    cluster, tries = NatsCluster(place, 1), asyncio.Event()

    async def connect(*_: object, **__: object) -> None:
        tries.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.02)
        raise ConnectionRefusedError

    async def story() -> None:
        store = await NatsStore.open(cluster.url, migrates=True)
        monkeypatch.setattr(TcpTransport, "connect", connect)
        cluster.end()
        await tries.wait()
        await store.close()
        async with asyncio.timeout(20):
            while len(asyncio.all_tasks()) > 1:
                await asyncio.sleep(0.01)

    try:
        cluster.start()
        asyncio.run(story())
    finally:
        cluster.end()


def test_a_user_who_may_not_is_told_so_and_the_password_is_not(place: Path) -> None:
    cluster = NatsCluster(place, 1)
    cluster.servers[0].configure("authorization { user: app, password: right }")
    try:
        cluster.start()
        for login, error in (("app:right@", None), ("app:secret@", StoreUnfit), ("", StoreUnfit)):
            opening = NatsStore.open(cluster.url.replace("nats://", f"nats://{login}"), migrates=True)
            if error is None:
                asyncio.run(closed(opening))
                continue
            with pytest.raises(error, match="does not let us in") as caught:
                asyncio.run(closed(opening))
            assert "secret" not in str(caught.value)
    finally:
        cluster.end()


@pytest.mark.parametrize(
    ("greeting", "told"),
    [(None, "Connection refused"), (b"HTTP/1.1 400 Bad Request\r\n\r\n", "a server of another kind answers there")],
)
def test_why_it_cannot_be_reached_is_told_in_words(greeting: bytes | None, told: str) -> None:
    async def story() -> None:
        async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(greeting or b"")
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(greet, "127.0.0.1") as server:
            port = server.sockets[0].getsockname()[1] if greeting else free_port()
            with pytest.raises(StoreAway, match=f"{port} is away: .*{told}$"):
                await closed(NatsStore.open(f"nats://127.0.0.1:{port}"))

    asyncio.run(story())


async def closed(opening: Any) -> None:
    await (await opening).close()
