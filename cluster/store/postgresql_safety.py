"""The worth of an acknowledgement of PostgreSQL, from what the server says of itself."""

from collections.abc import Awaitable, Callable
from typing import Any, LiteralString, NamedTuple

from spoolnode.cluster.store.interface import Safety, StoreUnfit
from spoolnode.cluster.store.postgresql_connections import Connection

_WAITS_FOR_STANDBY = frozenset({"on", "remote_write", "remote_apply"})
"""The values of synchronous_commit with which a commit waits for a standby."""

_MISSING_RIGHTS: LiteralString = """
SELECT current_user::text, right_of, name FROM unnest(ARRAY['task', 'body', 'limited', 'node']) AS name,
    unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS right_of
WHERE NOT has_table_privilege('spoolnode.' || name, right_of)"""
"""The rights that our user lacks there."""


class Reported(NamedTuple):
    """The settings of the server, as our own session has them, and its standbys."""

    version: str
    fsync: str
    full_page_writes: str
    synchronous_commit: str
    synchronous_standby_names: str
    standbys: list[tuple[str, str | None, str | None]]
    """Of each its name, its state and whether it is synchronous; None: we may not see it."""


async def safety(connection: Connection, run: Callable[..., Awaitable[list[Any]]]) -> Safety:
    """Asks the server. Raises `StoreUnfit` if we may not do what a node does."""
    if missing := await run(connection, _MISSING_RIGHTS):
        (user, *_), rights = missing[0], ", ".join(f"{right} on spoolnode.{table}" for _, right, table in missing)
        raise StoreUnfit(f"the user {user} of the store has not the right to {rights}: GRANT it")
    names = ("server_version", "fsync", "full_page_writes", "synchronous_commit", "synchronous_standby_names")
    rows = await run(connection, "SELECT current_setting(name) FROM unnest(%s::text[]) AS name", [list(names)])
    standbys = await run(connection, "SELECT application_name, state, sync_state FROM pg_stat_replication ORDER BY 1")
    version, fsync, full_page_writes, commit, standby_names = (row[0] for row in rows)
    shown = [(name or "", state, sync) for name, state, sync in standbys]
    return safety_of(Reported(version, fsync, full_page_writes, commit, standby_names, shown))


def safety_of(said: Reported) -> Safety:
    """The judgement of these settings. Where the server does not say that something is safe, it is not."""
    waits = said.synchronous_commit in _WAITS_FOR_STANDBY and bool(said.synchronous_standby_names)
    confirming = [name for name, state, sync in said.standbys if state == "streaming" and sync in ("sync", "quorum")]
    facts = [
        ("fsync", said.fsync),
        ("full_page_writes", said.full_page_writes),
        ("synchronous_commit", said.synchronous_commit),
        ("synchronous_standby_names", said.synchronous_standby_names or "none"),
        *((f"standby {name}", f"{state or 'hidden'}, {sync or 'hidden'}") for name, state, sync in said.standbys),
    ]
    commits_wait = said.synchronous_commit != "off"
    return Safety(
        f"PostgreSQL {said.version.split()[0]}",
        survives_crash=commits_wait,
        survives_power_cut=commits_wait and said.fsync == "on" and said.full_page_writes == "on",
        survives_lost_disk=waits and bool(confirming),
        facts=facts,
        advice=[*_about_the_server(said), *_about_standbys(said, waits, confirming)],
    )


def _about_the_server(said: Reported) -> list[str]:
    advice = []
    if said.fsync != "on":
        advice.append("fsync is off: a power cut can lose everything; set fsync = on")
    if said.full_page_writes != "on":
        advice.append("full_page_writes is off: a power cut can damage the tables; set full_page_writes = on")
    if said.synchronous_commit == "off":
        advice.append("synchronous_commit is off: a crash loses the last acknowledged tasks; set synchronous_commit = on")
    return advice


def _about_standbys(said: Reported, waits: bool, confirming: list[str]) -> list[str]:
    if waits and confirming:
        return []
    if waits and any(sync is None for _, _, sync in said.standbys):
        return ["the server does not show its standbys to this user: GRANT pg_monitor to it"]
    if waits:
        return ["no synchronous standby is connected: the server acknowledges nothing until one is"]
    if said.synchronous_standby_names:
        return ["commits do not wait for the standby: set synchronous_commit = on"]
    return ["only this server has the tasks: set synchronous_standby_names, so that they survive the loss of its disk"]
