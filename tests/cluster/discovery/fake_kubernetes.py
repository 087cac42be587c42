"""A small fake of the API of Kubernetes: the EndpointSlices of a namespace, as a list and as watches, with TLS and tokens."""

import datetime
import ipaddress
import json
import ssl
from pathlib import Path
from typing import Any

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fake_api import FakeApi

SERVICE = "kubernetes.io/service-name"


def endpoint(*addresses: str, ready: bool | None = True, pod: str = "") -> dict[str, Any]:
    """An endpoint of a slice."""
    told: dict[str, Any] = {"addresses": list(addresses), "conditions": {} if ready is None else {"ready": ready}}
    return told | ({"targetRef": {"kind": "Pod", "name": pod, "namespace": "jobs"}} if pod else {})


class FakeKubernetes(FakeApi):
    """An API server, and the directory in which a pod has its credentials."""

    def __init__(self, account: Path, token: str = "a-token", namespace: str = "jobs") -> None:
        self.account = account
        super().__init__("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices", certified(account))
        self.token = token
        self.tell_pod(token)
        (account / "namespace").write_text(namespace)
        self._namespace = namespace
        self._slices: dict[str, dict[str, Any]] = {}
        self._events: list[tuple[int, str, dict[str, Any]]] = []
        self._version = 100
        self._oldest = 100
        self._cuts = 0
        self.may_watch = True
        """Whether the account has the verb `watch`, besides `list`."""
        self.says_gone_in_stream = False
        """Whether it tells that a version is too old by an event, as most servers do, or by the status of its answer."""

    def tell_pod(self, token: str) -> None:
        """Writes a token where the pod looks for it."""
        (self.account / "token").write_text(token)

    def put(self, name: str, *endpoints: dict[str, Any], ports: Any = None, service: str = "spoolnode") -> None:
        """Makes a slice, or changes it."""
        is_new = name not in self._slices
        self._version += 1
        v6 = any(":" in address for item in endpoints for address in item["addresses"])
        self._slices[name] = {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv6" if v6 else "IPv4",
            "metadata": {"name": name, "resourceVersion": str(self._version), "labels": {SERVICE: service}},
            "endpoints": list(endpoints) or None,
            "ports": [{"name": "uwsgi", "port": 3031, "protocol": "TCP"}] if ports is None else ports,
        }  # fmt: skip
        self._tell("ADDED" if is_new else "MODIFIED", self._slices[name])

    def remove(self, name: str) -> None:
        """Deletes a slice."""
        self._version += 1
        gone = self._slices.pop(name)
        self._tell("DELETED", gone | {"metadata": gone["metadata"] | {"resourceVersion": str(self._version)}})

    def bookmark(self) -> None:
        """Something else in the cluster changed."""
        self._version += 1
        self._tell("BOOKMARK", {"kind": "EndpointSlice", "metadata": {"resourceVersion": str(self._version)}})

    def compact(self) -> None:
        """Forgets what changed until now."""
        self._oldest = self._version = self._version + 1
        self._events.clear()

    def cut(self) -> None:
        """Ends all watches, as a server does from time to time."""
        self._cuts += 1
        self.wake()

    def send(self, event: dict[str, Any]) -> None:
        """Sends an event to all that watch."""
        self._version += 1
        self._tell(event["type"], event["object"])

    def _tell(self, kind: str, item: dict[str, Any]) -> None:
        self._events.append((self._version, kind, json.loads(json.dumps(item))))
        self.wake()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return _status(401, "Unauthorized")
        if request.match_info["namespace"] != self._namespace:
            return _status(403, 'endpointslices is forbidden: User "pod" cannot list resource "endpointslices"')
        label, _, service = request.query["labelSelector"].partition("=")
        assert label == SERVICE
        if request.query.get("watch") == "true" and not self.may_watch:
            return _status(403, 'endpointslices is forbidden: User "pod" cannot watch resource "endpointslices"')
        if request.query.get("watch") == "true":
            return await self._watch(request, service)
        items = [item for item in self._slices.values() if item["metadata"]["labels"][SERVICE] == service]
        return web.json_response(
            {"kind": "EndpointSliceList", "metadata": {"resourceVersion": str(self._version)}, "items": items}
        )

    async def _watch(self, request: web.Request, service: str) -> web.StreamResponse:
        since, cuts = int(request.query["resourceVersion"]), self._cuts
        if since < self._oldest and not self.says_gone_in_stream:
            return _status(410, "too old resource version")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        if since < self._oldest:
            await _write(response, "ERROR", json.loads(_status(410, "too old resource version").body or b""))
            return response
        while cuts == self._cuts:
            for version, kind, item in [event for event in self._events if event[0] > since]:
                since = version
                if kind in ("BOOKMARK", "ERROR") or item["metadata"]["labels"][SERVICE] == service:
                    await _write(response, kind, item)
            if not await self.until_changed():
                break
        return response


async def _write(response: web.StreamResponse, kind: str, item: dict[str, Any]) -> None:
    await response.write(json.dumps({"type": kind, "object": item}).encode() + b"\n")


def _status(code: int, message: str) -> web.Response:
    told = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}
    return web.Response(status=code, body=json.dumps(told).encode(), content_type="application/json")


def certified(account: Path) -> ssl.SSLContext:
    """The TLS of a server whose authority is in `ca.crt`. As of some old clusters, it has no key identifiers."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + day)
    made = builder.add_extension(here, critical=False).sign(key, hashes.SHA256())
    secret = serialization.NoEncryption()
    (account / "ca.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = account / "server.key"
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(account / "ca.crt", private)
    return context
