"""Peers named by SRV records, which also have the port: Kubernetes' named ports, Consul.

They need dnspython, an extra, because the standard library's resolver cannot ask for them. It is imported only if it is used.
"""

import asyncio
import importlib
from collections.abc import Awaitable, Callable
from typing import Any

from spoolnode.cluster.discovery.addresses import Lookup, addresses_at, join
from spoolnode.cluster.discovery.polled import Ask
from spoolnode.node.badconfig import BadConfig

ANSWER_SECONDS = 10.0

Records = Callable[[str], Awaitable[list[tuple[str, int]]]]
"""A name -> targets and ports of its SRV records, the best first. Raises OSError if no answer came."""


def targets_of(name: str, records: Records, lookup: Lookup = addresses_at) -> Ask:
    """Asks for the SRV records of a name and for the addresses of their targets; the key is `target:port`."""

    async def ask() -> dict[str, list[str]]:
        targets = await records(name)
        found = await asyncio.gather(*(_addresses(lookup, host, port) for host, port in targets))
        answer = {join(*target): addresses for target, addresses in zip(targets, found, strict=True) if addresses}
        if targets and not answer:
            raise OSError(f"no target of the SRV records of {name} has an address")
        return answer

    return ask


async def _addresses(lookup: Lookup, host: str, port: int) -> list[str]:
    """Empty if the lookup fails: a node that has just gone still has its record, and the others must not be forgotten."""
    try:
        return await lookup(host, port)
    except OSError:
        return []


def with_dnspython(make_resolver: Callable[[], Any] | None = None) -> Records:
    """The lookup of SRV records by dnspython; `make_resolver` makes another resolver than the system's.

    Raises:
        BadConfig: it is not installed.
    """
    try:
        errors: Any = importlib.import_module("dns.exception")
        resolver: Any = importlib.import_module("dns.asyncresolver")
    except ImportError:
        raise BadConfig("dns+srv:// needs dnspython, which is not installed: pip install dnspython") from None

    async def records(name: str) -> list[tuple[str, int]]:
        try:
            # In a thread, and each time: it reads resolv.conf, which may have changed.
            made = await asyncio.to_thread(make_resolver or resolver.Resolver)
            answer = await made.resolve(name, "SRV", search=True, lifetime=ANSWER_SECONDS)
        except errors.DNSException as error:
            raise OSError(str(error)) from error
        best_first = sorted(answer, key=lambda record: (record.priority, -record.weight))
        return [(record.target.to_text(omit_final_dot=True), int(record.port)) for record in best_first if record.port]

    return records
