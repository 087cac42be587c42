"""Peers that Consul names: the instances of a service that pass their checks.

An agent is asked by blocking queries. Each has the index of the last answer, and is answered when there is something newer. The
rules are those of https://developer.hashicorp.com/consul/api-docs/features/blocking: an index that goes backwards is forgotten,
one that is not above zero counts as 1, and a client rests between two queries. The fields of the answer are those of
https://developer.hashicorp.com/consul/api-docs/health.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from spoolnode.cluster.discovery.addresses import join
from spoolnode.cluster.discovery.followed import Follow
from spoolnode.cluster.discovery.json_api import Query, answer_of, connections, read_as
from spoolnode.protocol import names

WAIT_SECONDS = 60
PATIENCE = WAIT_SECONDS * 1.25
"""Seconds after which an agent counts as gone. It may wait a sixteenth longer than it was asked to."""


class Catalogued(NamedTuple):
    """A service that an agent knows."""

    agent: str
    """The address of the agent, `host:port`."""
    service: str
    token: str = ""
    """The proof that this node may read it; empty: it has none."""


def instances_of(wanted: Catalogued, rest: Callable[[], float]) -> Follow:
    """Follows the instances of a service; the key of each is its address. `rest`: seconds between two queries."""

    async def follow() -> AsyncGenerator[dict[str, list[str]], None]:
        index = 0
        async with connections() as session:
            while True:
                answer, headers = await answer_of(session, _question(wanted, index))
                addresses = read_as(addresses_in, answer)
                if not addresses and headers.get("X-Consul-Results-Filtered-By-ACLs") == "true":
                    raise OSError("its token may not read the service: it needs service:read and node:read")
                index = next_index(index, headers)
                yield {address: [address] for address in addresses}
                await asyncio.sleep(rest())

    return follow


def _question(wanted: Catalogued, index: int) -> Query:
    query = {"passing": "true"}
    if index:
        query |= {"index": str(index), "wait": f"{WAIT_SECONDS}s"}
    headers = {"X-Consul-Token": wanted.token} if wanted.token else {}
    return Query(f"http://{wanted.agent}/v1/health/service/{quote(wanted.service, safe='')}", query, headers, PATIENCE)


def next_index(last: int, headers: Mapping[str, str]) -> int:
    """The index of the next query; 0: it is to be answered at once. Pure.

    Raises:
        OSError: the answer has no index.
    """
    text = headers.get("X-Consul-Index", "")
    if not text.isascii() or not text.isdigit():
        raise OSError("its answer has no X-Consul-Index: is it Consul?")
    told = int(text)
    return 0 if told < last else max(told, 1)


def addresses_in(answer: Any) -> list[str]:
    """The addresses of the instances in an answer. An instance without an address of its own is at that of its machine. Pure.

    Raises:
        OSError: none of them has an address and a port.
    """
    if not isinstance(answer, list):
        raise TypeError("not a list")
    found = [address for entry in answer if (address := _address_in(entry))]
    if answer and not found:
        raise OSError("none of the instances of the service has an address and a port")
    return found


def _address_in(entry: Any) -> str:
    """The address of one instance; empty if it has none that makes sense: the others count all the same."""
    try:
        address = join(entry["Service"]["Address"] or entry["Node"]["Address"], entry["Service"]["Port"])
    except (TypeError, KeyError):
        return ""
    return address if names.is_address(address) else ""
