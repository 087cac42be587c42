"""docs/store.md: its lines, typed in their order, with real servers in place of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from documents import Block, blocks, page
from nats_servers import NatsCluster
from postgres import Postgres
from subjects import InNats, InPostgres
from support import PATIENCE, RunningNode, environment

from spoolnode.cluster.store import nats_address, nats_bodies, nats_stream, postgresql_schema
from spoolnode.cluster.store.interface import CHUNK, REMEMBERED, TaskState
from spoolnode.protocol.packet import encode_variables
from spoolnode.protocol.spoolfile import head

PAGE = "docs/store.md"
POSTGRESQL = "postgresql://app@db1,db2/app"
NATS = "nats://h1,h2,h3"
JOIN = "spoolnode join"


def typed(block: Block) -> str:
    """What to type for a block."""
    return block.text if block.language == "sh" else f"{sys.executable} - <<'END'\n{block.text}\nEND"


@pytest.fixture(params=["nats", "postgresql"])
def shell(request: pytest.FixtureRequest, nats_server: NatsCluster, in_postgres: InPostgres, tmp_path: Path) -> str:
    """A script of all blocks of the page but those about the other engine, for a directory with three waiting tasks."""
    InNats(nats_server)  # empties it
    in_postgres.server.sql("CREATE TABLE IF NOT EXISTS orders (number integer)", in_postgres.database)
    spool = tmp_path / "spool"
    spool.mkdir()
    for number in range(3):
        (spool / f"uwsgi_spoolfile_on_host_{number}").write_bytes(head(encode_variables([(b"n", str(number).encode())])))
    texts = [typed(block) for block in blocks(PAGE) if block.language in ("sh", "python") and JOIN not in block.text]
    mine, others = (NATS, POSTGRESQL) if request.param == "nats" else (POSTGRESQL, NATS)
    assert {sum(url in text for text in texts) for url in (mine, others)} == {1, 2}
    url = nats_server.url if request.param == "nats" else in_postgres.url
    return "\n".join(text.replace(f"={mine}", f"='{url}'").replace(mine, url) for text in texts if others not in text)


def test_the_page_does_what_it_says(shell: str, in_postgres: InPostgres, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "spoolnode"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m spoolnode "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        ["bash", "-e", "-c", shell], cwd=tmp_path, env=environment(PATH=f"{program.parent}:{os.environ['PATH']}"),
        capture_output=True, text=True, timeout=PATIENCE * 2, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "3 tasks moved into the store" in done.stdout
    assert "its disk is lost" in done.stdout
    assert f"3 tasks moved into {tmp_path}/other" in done.stdout
    assert len(list((tmp_path / "other").glob("uwsgi_spoolfile_on_host_*"))) == 3
    assert not list((tmp_path / "spool").glob("uwsgi_spoolfile_on_*"))
    assert "0 tasks are ready" in done.stdout
    ready = "SELECT count(*) FROM spoolnode.task WHERE state = 'ready'"
    assert in_postgres.server.sql(ready, in_postgres.database) == [(shell.count("spool_in("),)]


def test_a_node_starts_as_the_page_says(in_postgres: InPostgres, tmp_path: Path) -> None:
    (line,) = [block.text.strip() for block in blocks(PAGE) if block.language == "sh" and JOIN in block.text]
    (tmp_path / "tasks.py").write_text("from spoolnode import spool\n\n\n@spool\ndef mail(): ...\n")
    node = RunningNode(tmp_path)
    try:
        node.start(*line.removeprefix(JOIN).split(), SPOOLNODE_STORE=in_postgres.url)
        ready = node.wait_for_log("ready")
        assert ready["store"].startswith("PostgreSQL 1")
        assert "survive a crash" in ready["store"]
        store = node.status()["store"]
        assert (store["there"], store["taken"], store["survives_crash"], store["survives_lost_disk"]) == (True, 0, True, False)
        assert "acknowledged tasks survive a crash" in node.command("status").stdout
    finally:
        node.clean_up()


def test_the_figures_of_the_page_are_those_of_the_code(postgres: Postgres) -> None:
    text = " ".join(page(PAGE).split())
    assert f"PostgreSQL {postgresql_schema.OLDEST_SERVER} or newer" in text
    assert f"nats-server {'.'.join(map(str, nats_stream.OLDEST_SERVER))} or newer" in text
    assert f"`monitor` | the port on which the servers tell of themselves over HTTP | {nats_address.MONITOR} |" in text
    assert f"from the next `--migrate` on | {nats_address.REPLICAS} |" in text
    assert nats_bodies.ABANDONED == 3600.0
    assert "removed after an hour" in text
    assert (CHUNK, REMEMBERED, postgresql_schema.LOCK_TIMEOUT) == (256 << 10, 3600.0, "3s")
    assert "256 KiB" in text
    assert "for an hour" in text
    assert "three seconds" in text
    tables = {row[0] for row in postgres.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'spoolnode'", "tasks")}
    assert all(f"`spoolnode.{name}`" in text for name in tables)
    assert set(TaskState) == {"ready", "later", "held", "dead", "ended"}
