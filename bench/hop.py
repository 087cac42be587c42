"""One hop: tasks given to one node for another, durable on both disks; beside brokers that get the same tasks."""

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import proc
from latency import STORED, WARM_UP, WORDS, Fifo, block_of, percentile
from load import BenchError
from pair import BETA, Pair, pair
from plan import Bench, wait_for
from report import Row, Target, compare
from servers import Server, free_port, status

LEAST_RATE, MOST_MS, LEAST_TLS = 25_000, 3.0, 0.6
CONNECTIONS, WINDOW = 4, 512
"""Connections that give tasks to alpha, and to the brokers."""
LOOK_SECONDS = 0.02
"""Seconds between two looks at beta's counter."""
TAIL = 0.1
"""The part of a stream, at its beginning, that does not count: windows grow and code is cold."""


class Hop(NamedTuple):
    """One run."""

    fed: float
    """Tasks a second at beta while alpha is being fed, without the beginning of the stream."""
    whole: float
    """Tasks a second from the first task given to alpha until the last is on beta's disk."""
    backlog: float
    """Tasks a second from a backlog, when beta has come back."""
    alpha_us: float
    beta_us: float
    """CPU of both nodes for each task, in the first part."""
    done: float = 0.0
    """Tasks a second from the first task given to alpha until the last has run on beta."""


def hop(bench: Bench) -> list[Row]:
    """One hop: rates plain, with TLS, and beside brokers."""
    runs = bench.in_turn(
        {
            "ours plain": lambda: _hop(bench),
            "nats-server": lambda: _nats(bench),
            "ours tls": lambda: _hop(bench, tls=True),
            "beanstalkd": lambda: _beanstalk(bench),
            "ours worker": lambda: _hop_and_run(bench),
        },
        pairs=bench.plan.cluster_pairs,
    )
    plain, tls, worked = runs["ours plain"], runs["ours tls"], runs["ours worker"]
    return [*_rows(bench, plain, tls, worked), *_broker_rows(plain, runs)]


def _rows(bench: Bench, plain: list[Hop], tls: list[Hop], worked: list[Hop]) -> list[Row]:
    tasks, enough = f"{bench.plan.hop_tasks:,}", Target("least", LEAST_RATE)
    rows = [
        compare("hop", f"{tasks} given to one node, on the disk of the other", "tasks/s", [run.whole for run in plain],
                target=enough, beside=""),
        compare("hop", "  as long as they were being given", "tasks/s", [run.fed for run in plain], beside=""),
        compare("hop", "  CPU of the sender, which also takes them in", "us/task", [run.alpha_us for run in plain], beside=""),
        compare("hop", "  CPU of the receiver", "us/task", [run.beta_us for run in plain], beside=""),
        compare("hop", f"{tasks} waiting, and the other node comes back", "tasks/s", [run.backlog for run in plain],
                target=enough, beside=""),
        compare("hop", f"{tasks} given, the other node's worker runs no-ops: on its disk", "tasks/s",
                [run.whole for run in worked], beside=""),
        compare("hop", "  and done", "tasks/s", [run.done for run in worked], beside=""),
    ]  # fmt: skip
    least = Target("ratio", LEAST_TLS)
    for what, name in (("given to one node, on the disk of the other", "whole"), ("waiting", "backlog")):
        mine, theirs = [getattr(run, name) for run in tls], [getattr(run, name) for run in plain]
        rows.append(compare("hop", f"TLS: {tasks} {what}", "tasks/s", mine, theirs, target=least, beside="plain"))
    return rows


def _broker_rows(plain: list[Hop], runs: dict[str, list[Hop] | list[float]]) -> list[Row]:
    ours = [run.whole for run in plain]
    guarantees = {"nats-server": "its disk: in the page cache", "beanstalkd": "its disk: fsync for each"}
    return [
        compare("hop", f"a task is acknowledged: ours on two disks, {name} on one", "tasks/s", ours, runs[name],
                note=guarantees[name] if runs[name] else "not measured: tests/install.sh bench", beside=name)
        for name in guarantees
    ]  # fmt: skip


def _hop(bench: Bench, *, tls: bool = False) -> Hop:
    with pair(bench, tls=tls) as two:
        bench.load.extended(two.alpha.port, connections=1, window=16, tasks=200, node=BETA)
        wait_for(lambda: two.accepted() == 200, two.beta, "200 tasks have not arrived")
        fed = _feed(two)
        return fed._replace(backlog=_backlog(two))


def _feed(two: Pair) -> Hop:
    """Gives alpha the tasks, and watches beta's counter."""
    bench, tasks = two.bench, two.bench.plan.hop_tasks
    before, cpus = two.accepted(), [proc.tree_cpu_seconds(server.pid) for server in (two.alpha, two.beta)]
    begin = time.monotonic()
    with ThreadPoolExecutor(1) as thread:
        load = thread.submit(bench.load.extended, two.alpha.port, connections=CONNECTIONS, window=WINDOW, tasks=tasks, node=BETA)
        seen: list[tuple[float, int]] = []
        while not load.done():
            seen.append((time.monotonic() - begin, two.accepted() - before))
            time.sleep(LOOK_SECONDS)
        load.result()
    end = wait_for(lambda: two.accepted() - before >= tasks, two.beta, "the tasks have not arrived", 60 + tasks / 2000)
    used = [proc.tree_cpu_seconds(server.pid) - cpu for server, cpu in zip((two.alpha, two.beta), cpus, strict=True)]
    alpha_us, beta_us = (seconds / tasks * 1e6 for seconds in used)
    return Hop(_slope(seen), tasks / (end - begin), 0.0, alpha_us, beta_us)


def _backlog(two: Pair) -> float:
    """Beta stops, tasks wait for it, it comes back."""
    bench, tasks = two.bench, two.bench.plan.hop_tasks
    two.stop_beta()
    bench.load.extended(two.alpha.port, connections=CONNECTIONS, window=WINDOW, tasks=tasks, node=BETA)
    two.start_beta().wait_ready()
    seen = list(arrivals(two, tasks))
    return _slope(seen)


def arrivals(two: Pair, tasks: int, since: int = 0) -> Iterator[tuple[float, int]]:
    """Times (monotonic) and numbers of these tasks that beta had, until it has them all."""
    end = time.monotonic() + 60 + tasks / 2000
    count = 0
    while count < tasks:
        count = two.accepted() - since
        yield time.monotonic(), count
        if time.monotonic() > end:
            raise BenchError(f"{count} of {tasks} tasks have arrived; alpha's log: {two.alpha.last_words()}")
        time.sleep(LOOK_SECONDS)


def _slope(seen: list[tuple[float, int]]) -> float:
    """Tasks a second between the beginning of a stream, which is left out, and its end."""
    most = seen[-1][1] if seen else 0
    inside = [(when, count) for when, count in seen if count > TAIL * most]
    if len(inside) < 2 or inside[-1][1] == inside[0][1]:
        raise BenchError("the stream was over before it could be measured: more tasks are needed")
    return (inside[-1][1] - inside[0][1]) / (inside[-1][0] - inside[0][0])


def _hop_and_run(bench: Bench) -> Hop:
    """The same without a backlog, with a worker at the other end that runs the tasks at once."""
    stamp, tasks = bench.servers.path("stamp"), bench.plan.hop_tasks
    with pair(bench, app="noop:noop", environment={"BENCH_STAMP": str(stamp)}) as two:
        wait_for(lambda: status(two.beta_port)["workers"] == 1, two.beta, "beta has no worker")
        begin = time.monotonic()
        fed = _feed(two)
        end = wait_for(lambda: status(two.beta_port)["done"] >= tasks, two.beta, "the tasks have not run", 60 + tasks / 1000)
    return fed._replace(done=tasks / (end - begin))


# -- one task at a time --


def hop_latency(bench: Bench) -> list[Row]:
    """From the sender's connect to alpha, and from alpha's acknowledgement, to the start of the callable on beta."""

    def ours(tls: bool) -> list[tuple[float, float]]:
        fifo = Fifo(bench.servers.path("fifo"))
        with fifo, pair(bench, app="stamp:stamp", environment=fifo.environment, tls=tls) as two:
            wait_for(lambda: status(two.beta_port)["workers"] == 1, two.beta, "beta has no worker")
            return _latencies(two.alpha, fifo, bench.plan.samples)

    runs = bench.in_turn(
        {"ours plain": lambda: ours(tls=False), "ours tls": lambda: ours(tls=True)}, pairs=bench.plan.cluster_pairs
    )
    rows = []
    for trust in ("plain", "tls"):
        for index, since in ((0, "connect to one node"), (1, "its acknowledgement")):
            for share, name in ((0.50, "p50"), (0.99, "p99")):
                figures = [percentile([sample[index] for sample in run], share) / 1000 for run in runs[f"ours {trust}"]]
                target = Target("most", MOST_MS) if (trust, index, name) == ("plain", 1, "p50") else None
                what = f"{trust}: {since} to start of the callable on the other: {name}"
                rows.append(compare("hop latency", what, "ms", figures, target=target, beside=""))
    return rows


def _latencies(alpha: Server, fifo: Fifo, samples: int) -> list[tuple[float, float]]:
    block = block_of([*WORDS, b"spool_node", BETA.encode()])
    packet = b"\x11" + len(block).to_bytes(2, "little") + b"\x00" + block
    results = []
    for _ in range(samples + WARM_UP):
        begin = time.monotonic()
        with socket.create_connection(("127.0.0.1", alpha.port), timeout=10) as connection:
            connection.sendall(packet)
            if connection.recv(4) != STORED:
                raise BenchError(f"a task was not taken: {alpha.last_words()}")
            acknowledged = time.monotonic()
        called = fifo.read(10)
        if called is None:
            raise BenchError(f"a task was not run within 10 s: {alpha.last_words()}")
        results.append((called - begin, called - acknowledged))
        time.sleep(0.01)
    return results[WARM_UP:]


# -- brokers --


@contextmanager
def _broker(bench: Bench, name: str, port: int, *options: str) -> Iterator[Server]:
    with bench.servers.broker(name, *options, port=port) as server:
        server.wait_ready(broker=True)
        yield server


def _nats(bench: Bench) -> float:
    """One JetStream server with a stream on disk. 2.9 cannot be told to fsync before it acknowledges (2.10 can)."""
    port, store, config = free_port(), bench.servers.path("nats"), bench.servers.path("nats.conf")
    config.write_text(f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{store}" }}\n')
    with _broker(bench, "nats-server", port, "-c", str(config)) as server:
        _make_stream(port, server)
        return _publish(bench, "nats", port)


def _make_stream(port: int, server: Server) -> None:
    stream = {"name": "BENCH", "subjects": ["bench"], "storage": "file", "retention": "workqueue", "num_replicas": 1}
    request = json.dumps(stream).encode()
    head = f'CONNECT {{"verbose":false}}\r\nSUB made 1\r\nPUB $JS.API.STREAM.CREATE.BENCH made {len(request)}\r\n'
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(head.encode() + request + b"\r\n")
        answer = b""
        while b"created" not in answer:
            more = connection.recv(65536)
            answer += more
            if not more or b'"error"' in answer:
                raise BenchError(f"NATS made no stream: {answer[-300:]!r}; its log: {server.last_words()}")


def _beanstalk(bench: Bench) -> float:
    """beanstalkd with a binlog that is fsynced before each answer."""
    port, store = free_port(), bench.servers.path("beanstalk")
    store.mkdir()
    with _broker(bench, "beanstalkd", port, "-l", "127.0.0.1", "-p", str(port), "-b", str(store), "-f", "0"):
        return _publish(bench, "beanstalk", port)


def _publish(bench: Bench, kind: str, port: int) -> float:
    bench.load.broker(kind, port, connections=CONNECTIONS, window=WINDOW, seconds=0.1)
    return bench.load.broker(kind, port, connections=CONNECTIONS, window=WINDOW, seconds=2 * bench.plan.seconds).rate
