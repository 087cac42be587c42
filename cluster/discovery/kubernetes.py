"""Peers that Kubernetes names: the ready endpoints of a Service, as its EndpointSlices have them.

A node in a pod asks the API of its cluster: for the list, then for the changes since. Where the API is, and what proves who asks,
is in https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/. Lists, watches and 410 Gone are in
https://kubernetes.io/docs/reference/using-api/api-concepts/, and the fields of a slice in
https://kubernetes.io/docs/reference/kubernetes-api/discovery/: an endpoint whose readiness is unknown counts as ready.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from spoolnode.cluster.discovery.addresses import join
from spoolnode.cluster.discovery.followed import Follow
from spoolnode.cluster.discovery.json_api import HttpError, Query, answer_of, connections, lines_of, read_as
from spoolnode.node.badconfig import BadConfig
from spoolnode.protocol import names

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod has the token of its account, the certificate of the authority, and the name of its namespace."""
WATCH_SECONDS = 60
PATIENCE = WATCH_SECONDS * 1.25
"""Seconds of silence after which the server counts as gone."""
GONE = 410
"""The status that says: the list is too old for its changes to be known."""


class ClusterApi(NamedTuple):
    """The API, as a pod reaches it."""

    address: str
    """`host:port`."""
    account: Path = ACCOUNT


class ServicePort(NamedTuple):
    """A port of a Service."""

    service: str
    namespace: str = ""
    """Empty: that of the pod."""
    port: str = ""
    """Its name or number; empty: the only one."""


def from_inside(environment: Mapping[str, str]) -> ClusterApi:
    """The API of the cluster that this process runs in.

    Raises:
        BadConfig: it does not run in one.
    """
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise BadConfig("k8s:// works only in a pod of Kubernetes, and KUBERNETES_SERVICE_HOST is not set here")
    return ClusterApi(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def endpoints_of(api: ClusterApi, wanted: ServicePort, rest: Callable[[], float]) -> Follow:
    """Follows the ready endpoints of a Service; the key of each is its pod, or its address. `rest`: seconds between watches."""

    async def follow() -> AsyncGenerator[dict[str, list[str]], None]:
        async with connections(await asyncio.to_thread(_trust, api.account)) as session:
            slices = Slices(wanted)
            answer, _ = await answer_of(session, await _question(api, wanted, {}))
            read_as(slices.listed, answer)
            while not slices.is_outdated:
                try:
                    async with lines_of(session, await _question(api, wanted, slices.since())) as events:
                        yield read_as(Slices.addresses, slices)  # not before: an account may be let list, and not watch
                        async for event in events:
                            if read_as(slices.heard, event):
                                yield read_as(Slices.addresses, slices)
                except HttpError as error:
                    if error.status != GONE:
                        raise
                    return
                await asyncio.sleep(rest())

    return follow


async def _question(api: ClusterApi, wanted: ServicePort, more: Mapping[str, str]) -> Query:
    token, here = await asyncio.to_thread(_credentials, api.account)  # each time: the token changes every hour or so
    url = f"https://{api.address}/apis/discovery.k8s.io/v1/namespaces/{wanted.namespace or here}/endpointslices"
    query = {"labelSelector": f"kubernetes.io/service-name={wanted.service}", **more}
    return Query(url, query, {"Authorization": f"Bearer {token}", "Accept": "application/json"}, PATIENCE)


def _credentials(account: Path) -> tuple[str, str]:
    """The token of the pod's account, and its namespace. Raises OSError."""
    return (account / "token").read_text(errors="replace").strip(), (account / "namespace").read_text(errors="replace").strip()


def _trust(account: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(account / "ca.crt"))
    # From Python 3.13 on, authorities that clusters made years ago are not strict enough (kubernetes-client/python#2394). The
    # chain, the dates and the name of the server are checked in any case.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


class Slices:
    """The EndpointSlices of one Service, as a list and the events after it tell them. Pure."""

    def __init__(self, wanted: ServicePort) -> None:
        self._wanted = wanted
        self._slices: dict[str, Any] = {}
        self._version = ""
        self.is_outdated = False
        """Whether the list has to be read again."""

    def listed(self, answer: Any) -> None:
        """Takes the answer to a list."""
        self._slices = {item["metadata"]["name"]: item for item in answer["items"]}
        self._version = _version_of(answer)

    def since(self) -> dict[str, str]:
        """The query for the changes since then."""
        return {
            "watch": "true", "resourceVersion": self._version, "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }  # fmt: skip

    def heard(self, event: Any) -> bool:
        """Takes an event of a watch. Returns whether the slices have changed. Raises OSError: the server reports an error."""
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            if item["code"] != GONE:
                raise OSError(f"it answers {item['code']}: {item.get('message', '')}")
            self.is_outdated = True
            return False
        self._version = _version_of(item)
        if kind == "BOOKMARK":
            return False
        if kind == "DELETED":
            self._slices.pop(item["metadata"]["name"], None)
        else:
            self._slices[item["metadata"]["name"]] = item
        return True

    def addresses(self) -> dict[str, list[str]]:
        """The addresses of all ready endpoints, by pod. Raises OSError: it is unknown at which port."""
        found: dict[str, list[str]] = {}
        for item in self._slices.values():
            ready = [endpoint for endpoint in item["endpoints"] or () if _is_ready(endpoint)]
            port = self._port_of(item) if ready else 0
            for endpoint in ready:
                addresses = [join(host, port) for host in endpoint["addresses"]]
                key = (endpoint.get("targetRef") or {}).get("name") or addresses[0]
                found.setdefault(key, []).extend(filter(names.is_address, addresses))
        return {key: addresses for key, addresses in found.items() if addresses}

    def _port_of(self, item: Any) -> int:
        wanted = self._wanted.port
        ports = [port for port in item.get("ports") or () if port.get("port")]
        fitting = [port for port in ports if wanted in ("", port.get("name"), str(port["port"]))]
        if len(fitting) != 1:
            known = ", ".join(str(port.get("name") or port["port"]) for port in ports) or "none"
            raise OSError(f"its ports are {known}: name one of them, k8s://[NAMESPACE/]SERVICE:PORT")
        return int(fitting[0]["port"])


def _version_of(item: Any) -> str:
    version = item["metadata"]["resourceVersion"]
    if not isinstance(version, str):
        raise TypeError("resourceVersion is not a text")
    return version


def _is_ready(endpoint: Any) -> bool:
    return (endpoint.get("conditions") or {}).get("ready") is not False
