"""The worth of an acknowledgement of NATS JetStream, from what its servers say of themselves.

JetStream's API tells how many replicas there are. Whether a server syncs each message to its disk it tells only over HTTP, on its
monitoring port: where it does not, that is not known, and does not count as safe.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp

from spoolnode.cluster.store.interface import Safety
from spoolnode.cluster.store.nats_connection import ServerConnection
from spoolnode.cluster.store.nats_entries import STREAM
from spoolnode.cluster.store.nats_messages import no_stream

PATIENCE = 2.0
"""Seconds in which a server tells of itself."""
FIRST_QUICK = (2, 15)
"""The first version that syncs always and is quick all the same."""


class Monitored(NamedTuple):
    """One server, as it told over HTTP."""

    name: str
    version: str
    syncs: str
    """How often it syncs: `always`, or so many seconds."""


class ToldByServers(NamedTuple):
    """The stream, as the servers told of it."""

    version: str
    config: dict[str, Any]
    keepers: list[str]
    """The servers that keep the stream."""
    in_step: list[str]
    """Those of them that have all of it."""
    monitored: dict[str, Monitored]
    """The servers themselves, by name, as far as they told."""


async def ask_servers(connection: ServerConnection) -> Safety:
    """Asks the servers."""
    info = await connection.ask(f"STREAM.INFO.{STREAM}")
    if info is None:
        raise no_stream(connection)
    cluster = info.get("cluster") or {}
    others = cluster.get("replicas") or []
    leader = [cluster["leader"]] if cluster.get("leader") else []
    in_step = [*leader, *(peer["name"] for peer in others if peer.get("current") and not peer.get("offline"))]
    keepers = sorted([*leader, *(peer["name"] for peer in others)])
    monitored = await _monitored([urlsplit(url).hostname or "" for url in connection.known_servers], connection.address.monitor)
    return worth_of(ToldByServers(connection.server_version, info["config"], keepers, sorted(in_step), monitored))


def worth_of(said: ToldByServers) -> Safety:
    """The judgement of this. Where the servers do not say that something is safe, it is not."""
    replicas = int(said.config.get("num_replicas", 1))
    on_disk = said.config.get("storage") == "file" and said.config.get("persist_mode") != "async"
    syncs = {name: said.monitored[name].syncs if name in said.monitored else "not known" for name in said.keepers}
    always = bool(syncs) and all(value == "always" for value in syncs.values())
    facts = [
        ("replicas", f"{replicas}, of which {len(said.in_step)} are in step"),
        *((f"sync_interval of {name}", value) for name, value in syncs.items()),
        *((f"version of {name}", told.version) for name, told in sorted(said.monitored.items()) if name in said.keepers),
    ]
    return Safety(
        f"NATS JetStream {said.version}",
        survives_crash=on_disk,
        survives_power_cut=on_disk and always,
        survives_lost_disk=replicas > 1 and len(said.in_step) > 1,
        facts=facts,
        advice=[*_about_disks(on_disk, syncs, said.version), *_about_replicas(replicas, said)],
    )


def _about_disks(on_disk: bool, syncs: dict[str, str], version: str) -> list[str]:
    advice = []
    if not on_disk:
        advice.append("the stream acknowledges what is only in memory: set its storage to file, and no persist_mode")
    if late := [name for name, value in syncs.items() if value not in ("always", "not known")]:
        advice.append(
            f"{', '.join(late)} may lose the last minutes in a power cut, and if all servers have it at once, acknowledged tasks"
            " are lost: set sync_interval: always in the section jetstream of each server"
        )
    if unknown := [name for name, value in syncs.items() if value == "not known"]:
        advice.append(
            f"whether {', '.join(unknown)} syncs each message is not known, because the server does not tell it over HTTP:"
            " set http_port: 8222, and ?monitor=PORT in the address of the store if it is another one"
        )
    if not late and not unknown and tuple(map(int, version.split(".")[:2])) < FIRST_QUICK:
        advice.append("this version is slow when it always syncs: 2.15 or newer is several times as fast")
    return advice


def _about_replicas(replicas: int, said: ToldByServers) -> list[str]:
    if replicas == 1:
        return ["only one server has the tasks: with three servers, run `spoolnode store check --migrate` with ?replicas=3"]
    behind = sorted(set(said.keepers) - set(said.in_step))
    return [f"{', '.join(behind)} is away or behind: until it is back, the others must not fail"] if behind else []


async def _monitored(hosts: Sequence[str], port: int) -> dict[str, Monitored]:
    """The servers on these hosts that tell of themselves over HTTP, by name."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE)) as session:
        told = await asyncio.gather(*(_monitor(session, host, port) for host in dict.fromkeys(hosts)))
    return {one.name: one for one in told if one}


async def _monitor(session: aiohttp.ClientSession, host: str, port: int) -> Monitored | None:
    try:
        async with session.get(f"http://{f'[{host}]' if ':' in host else host}:{port}/varz") as answer:
            said = await answer.json(content_type=None)
            config = said["jetstream"]["config"]
            syncs = "always" if config.get("sync_always") else f"{config['sync_interval'] / 1e9:.0f} s"
            return Monitored(said["server_name"], said["version"], syncs)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError):
        return None  # nothing is known of it
