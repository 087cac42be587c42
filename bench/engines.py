"""The engines of a common store, each in fresh directories: a PostgreSQL, and three NATS servers."""

import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from load import BenchError
from plan import Bench, say, wait_for
from servers import Server, free_port

NATS_SERVERS = 3
READY_SECONDS = 60.0


class Database:
    """A PostgreSQL on a free port of this machine."""

    def __init__(self, before: list[str], programs: Path, home: Path, server: Server) -> None:
        """`before`: the words with which it runs as another user. `home`: its directory, which has the data."""
        self._before, self._programs, self._home, self._port = before, programs, home, server.port
        self.server = server
        self._names = iter(range(1_000_000))

    def empty(self) -> str:
        """The address of a new database."""
        name = f"bench{next(self._names)}"
        self._run("createdb", name)
        return f"postgresql://postgres@127.0.0.1:{self._port}/{name}"

    def fresh(self, bench: Bench) -> str:
        """The address of a new store."""
        return migrated(bench, self.empty())

    @contextlib.contextmanager
    def standby(self, bench: Bench) -> "Iterator[Database]":
        """A copy of it that confirms each commit from now on."""
        data = str(self._home / "standby")
        self._run("pg_basebackup", "-D", data, "-R", "-c", "fast")
        with _started(bench, self._before, self._programs, self._home, data, "cluster_name=standby") as copy:
            for statement in ("ALTER SYSTEM SET synchronous_standby_names = 'standby'", "SELECT pg_reload_conf()"):
                self._asked(statement)
            confirms = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync' AND state = 'streaming'"
            wait_for(lambda: self._asked(confirms) == "1", copy.server, "the standby confirms commits", READY_SECONDS)
            yield copy

    def promote(self) -> None:
        """Makes a standby the primary; returns when it is."""
        self._asked("SELECT pg_promote()")

    def url_with(self, other: "Database", url: str) -> str:
        """An address here, or there, whichever is the primary."""
        host = f"127.0.0.1:{self._port}"
        return f"{url.replace(host, f'{host},127.0.0.1:{other._port}')}?target_session_attrs=read-write"

    def _asked(self, statement: str) -> str:
        return self._run("psql", "-At", "-c", statement).strip()

    def _run(self, program: str, *words: str) -> str:
        to = ["-h", "127.0.0.1", "-p", str(self._port), "-U", "postgres"]
        return _run(*self._before, str(self._programs / program), *to, *words, directory=self._home)


@contextlib.contextmanager
def postgres(bench: Bench, *, syncs: bool) -> Iterator[Database]:
    """A server with a new cluster, and the settings that it has by default; without syncs, the node is what is measured."""
    say("a new PostgreSQL")
    *before, program = bench.servers.command("postgres")
    home, programs = bench.servers.path("postgres"), Path(program).parent
    home.mkdir()
    if before:  # it runs as another user
        shutil.chown(home, "nobody")
    data = str(home / "data")
    _run(*before, str(programs / "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-N", directory=home)
    with _started(bench, before, programs, home, data, f"fsync={'on' if syncs else 'off'}") as database:
        yield database


@contextlib.contextmanager
def _started(bench: Bench, before: list[str], programs: Path, home: Path, data: str, *settings: str) -> Iterator[Database]:
    """A server with this data that takes connections."""
    options = [word for setting in ("listen_addresses=127.0.0.1", *settings) for word in ("-c", setting)]
    with bench.servers.postgres("-D", data, "-k", str(home), *options) as server:
        asks = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(server.port)]
        wait_for(lambda: not subprocess.call(asks), server, "PostgreSQL takes connections", READY_SECONDS)
        yield Database(before, programs, home, server)


class Nats:
    """Three NATS servers that know each other. Each has an address of its own, so that all have the same ports."""

    def __init__(self, servers: list[Server], port: int, monitor: int) -> None:
        self.servers = servers
        self._monitor = monitor
        hosts = [f"127.0.0.{number}" for number in range(1, len(servers) + 1)]
        self.addresses = ",".join(f"nats://{host}:{port}" for host in hosts)
        self.url = f"nats://{','.join(f'{host}:{port}' for host in hosts)}?monitor={monitor}"

    def wait_ready(self) -> None:
        """Returns when the leader of all says that the others are there."""
        while not any(self._is_complete(number) for number in range(1, len(self.servers) + 1)):
            for server in self.servers:
                server.check(READY_SECONDS)
            time.sleep(0.05)

    def leader(self, stream: str) -> Server:
        """The server that leads a stream."""
        told = self._tells(1, "jsz?streams=true")
        streams = [one for account in told["account_details"] for one in account["stream_detail"]]
        name = next(one["cluster"]["leader"] for one in streams if one["name"] == stream)
        return self.servers[int(name[1:]) - 1]

    def _is_complete(self, number: int) -> bool:
        with contextlib.suppress(OSError):
            others = self._tells(number, "jsz").get("meta_cluster", {}).get("replicas", [])
            there = [other for other in others if other.get("current") and not other.get("offline")]
            return len(there) == len(self.servers) - 1
        return False

    def _tells(self, number: int, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.{number}:{self._monitor}/{path}", timeout=5) as answer:
            return json.load(answer)


@contextlib.contextmanager
def nats(bench: Bench) -> Iterator[Nats]:
    """Three new servers, each of which syncs what it acknowledges. They keep nothing yet."""
    say("three NATS servers")
    home = bench.servers.path("nats")
    home.mkdir()
    port, route, monitor = (_port_of_all() for _ in range(3))
    routes = ", ".join(f"'nats://127.0.0.{number}:{route}'" for number in range(1, NATS_SERVERS + 1))
    with contextlib.ExitStack() as stack:
        servers = []
        for number in range(1, NATS_SERVERS + 1):
            config = home / f"n{number}.conf"
            config.write_text(
                f"server_name: n{number}\nlisten: '127.0.0.{number}:{port}'\nhttp: '127.0.0.{number}:{monitor}'\n"
                f"jetstream {{ store_dir: '{home}/n{number}', sync_interval: always }}\n"
                f"cluster {{ name: bench, listen: '127.0.0.{number}:{route}', routes: [{routes}] }}\n"
            )
            servers.append(stack.enter_context(bench.servers.broker("nats", "-c", str(config), port=port)))
        three = Nats(servers, port, monitor)
        three.wait_ready()
        yield three


def migrated(bench: Bench, url: str) -> str:
    """Makes a store there. Returns the address."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            _run(*bench.servers.command("ours"), "store", "check", "--migrate", "--store", url)
        except BenchError:  # NATS servers that know each other may still have no room for a stream
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return url


def _port_of_all() -> int:
    """A port that is free at the address of each of the three."""
    while True:
        port = free_port()
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for number in range(2, NATS_SERVERS + 1):
                stack.enter_context(socket.create_server((f"127.0.0.{number}", port)))
            return port


def _run(*command: str, directory: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=directory)
    if done.returncode:
        raise BenchError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
