"""A real PostgreSQL for tests, alone or with a synchronous standby. It listens on a unix socket in its directory."""

import asyncio
import fcntl
import glob
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import psycopg
from programs import Program
from support import SHARED, eventually, need, new_directory

from spoolnode.cluster.store.postgresql import PostgresStore

SERVER = "/usr/lib/postgresql/*/bin/postgres"

TASKS = "tasks"
"""The database of a store."""


@contextmanager
def short_place() -> Iterator[Path]:
    """A directory with a short name, for unix sockets, which the server can enter: it runs as another user if we are root."""
    directory = new_directory()
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


class Postgres(Program):
    """A real PostgreSQL with a cluster of its own."""

    def __init__(self, directory: Path, name: str = "data", settings: Sequence[str] = (), around: Sequence[str] = ()) -> None:
        """`settings`: as for `start`, each time. `around`: the command that runs it elsewhere."""
        super().__init__(directory, f"postgres-{name}")
        self._settings = settings
        self._data = directory / name
        self._server = Path(need(max(glob.glob(SERVER), default="postgres")))
        # It refuses root.
        self._around = around
        self._as_nobody = [] if os.geteuid() else ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]

    def start(self, *settings: str) -> Self:
        """Starts it with such settings (`name=value`); returns when it takes connections."""
        if not self._data.exists():
            subprocess.run(["cp", "--archive", "--reflink=auto", str(self._new_cluster()), str(self._data)], check=True)
            subprocess.run(["sync", "--file-system", str(self._data)], check=True)  # as initdb ends, in case its power is cut
        options = [
            "listen_addresses=",
            "fsync=off",
            "dynamic_shared_memory_type=mmap",
            *self._settings,
            *settings,
        ]  # a crash leaves nothing behind
        command = [str(self._server), "-D", str(self._data), "-k", str(self._data)]
        self.run([*self._around, *self._as_nobody, *command, *(word for option in options for word in ("-c", option))])
        self.wait_for(lambda: "ready to accept" in self.output and self.answers(), "it takes connections")
        return self

    def standby(self, name: str) -> "Postgres":
        """A standby of this name that confirms each commit; returns when it does so."""
        copy = Postgres(self.directory, name)
        copy._make_directory(copy._data)
        self._run("pg_basebackup", "-D", str(copy._data), "-R", "-h", str(self._data), "-U", "postgres", "-c", "fast")
        for left in copy._data.glob(".s.PGSQL.*"):  # those of the server that was copied
            left.unlink()
        copy.start(f"cluster_name={name}", "hot_standby_feedback=on")
        self.sql(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
        self.sql("SELECT pg_reload_conf()")
        confirms = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync' AND state = 'streaming'"
        eventually(lambda: self.sql(confirms) == [(1,)], "the standby confirms commits")
        return copy

    def promote(self) -> None:
        """Makes a standby the primary, which then waits for no standby of its own."""
        self.sql("SELECT pg_promote()")

    def sql(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Runs one statement."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def answers(self) -> bool:
        """Whether it takes connections."""
        try:
            psycopg.connect(self.url(), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def url(self, database: str = "postgres", *others: "Postgres") -> str:
        """The address of a database here, or on whichever of these servers is the primary."""
        hosts = ",".join(str(server.socket_directory) for server in (self, *others))
        return f"postgresql:///{database}?host={hosts}&user=postgres"

    @property
    def socket_directory(self) -> Path:
        """The HOST of its clients."""
        return self._data

    def restart(self, number: signal.Signals) -> None:
        """Ends it, and starts it again. SIGINT ends all connections (fast), SIGQUIT is a crash (immediate)."""
        self.end(number)
        self.start()

    def freeze(self) -> None:
        """Stops all its processes, so that none writes."""
        self.send_signal(signal.SIGSTOP)  # first the one that makes the others
        for pid in self._children():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets them go on."""
        for pid in self._children():
            os.kill(pid, signal.SIGCONT)
        self.send_signal(signal.SIGCONT)

    def kill9(self) -> None:
        """Kills all its processes."""
        for pid in self._children():
            os.kill(pid, signal.SIGKILL)
        self.end(signal.SIGKILL)

    def _children(self) -> list[int]:
        assert self.process, "it does not run"
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def _new_cluster(self) -> Path:
        """What initdb makes. It takes longer than all that most tests do, so one stands for all."""
        made = Path(os.environ[SHARED], "cluster")
        with made.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                made.parent.chmod(0o755)
                unfinished = made.with_suffix(".unfinished")
                self._make_directory(unfinished)
                self._run("initdb", "-D", str(unfinished), "-U", "postgres", "-A", "trust", "-N")
                unfinished.rename(made)
        return made

    def _make_directory(self, path: Path) -> None:
        path.mkdir(mode=0o700)
        if not os.geteuid():
            shutil.chown(path, "nobody")

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as_nobody, str(self._server.with_name(program)), *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd="/")


@contextmanager
def server_with_store() -> Iterator[Postgres]:
    """A server with a database for tasks."""
    with short_place() as directory:
        server = Postgres(directory)
        try:
            server.start()
            server.sql(f"CREATE DATABASE {TASKS}")
            asyncio.run(migrated(server.url(TASKS)))
            yield server
        finally:
            server.end(signal.SIGQUIT)


async def migrated(url: str) -> None:
    """Makes the tables of a store."""
    await (await PostgresStore.open(url, migrates=True)).close()


def empty_store(server: Postgres) -> None:
    """Removes all tasks. TRUNCATE would make all files again, which takes longer."""
    server.sql(f"ALTER DATABASE {TASKS} ALLOW_CONNECTIONS true")  # a test that failed may have taken it away
    # What a node asked just before a test killed it, the server may still do: it would take the tasks of the next test.
    server.sql(f"SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = '{TASKS}'")
    server.sql("DELETE FROM spoolnode.task; DELETE FROM spoolnode.body; DELETE FROM spoolnode.node", TASKS)
