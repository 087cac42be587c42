"""A small fake of Consul: the health of services, with blocking queries and tokens."""

from typing import Any

from aiohttp import web
from fake_api import FakeApi


class FakeConsul(FakeApi):
    """An agent. It answers as https://developer.hashicorp.com/consul/api-docs/health says."""

    def __init__(self, token: str = "") -> None:
        super().__init__("/v1/health/service/{service}")
        self._instances: dict[str, dict[str, Any]] = {}
        self._statuses: dict[str, str] = {}
        self.index = 10
        self.token = token
        self.is_filtering = False
        """Whether the token is a good one that may read nothing."""

    def put(self, name: str, port: int, *, address: str = "", machine: str = "10.0.0.1", status: str = "passing") -> None:
        """Registers an instance, or changes it. Without an address of its own it is at that of its machine."""
        self._instances[name] = {
            "Node": {"ID": f"machine-{machine}", "Node": "machine", "Address": machine},
            "Service": {"ID": name, "Service": "spoolnode", "Address": address, "Port": port, "Tags": [], "Meta": {}},
            "Checks": [{"Node": "machine", "CheckID": f"service:{name}", "Status": status}],
        }
        self._statuses[name] = status
        self._change(self.index + 1)

    def remove(self, name: str) -> None:
        """Deregisters an instance."""
        del self._instances[name]
        self._change(self.index + 1)

    def restore(self) -> None:
        """Its servers come back from a snapshot: indexes begin from a lower one."""
        self._change(1)

    def _change(self, index: int) -> None:
        self.index = index
        self.wake()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if self.token and request.headers.get("X-Consul-Token") != self.token:
            return web.Response(status=403, text="ACL not found")
        seen = int(request.query.get("index", "0"))
        if seen:
            assert request.query["wait"].endswith("s")
        while seen and self.index == seen:
            if not await self.until_changed():
                return web.Response(status=500, text="it ends")
        headers = {"X-Consul-Index": str(self.index), "X-Consul-KnownLeader": "true"}
        if self.is_filtering:
            return web.json_response([], headers=headers | {"X-Consul-Results-Filtered-By-ACLs": "true"})
        is_passing = "passing" in request.query
        shown = [
            instance
            for name, instance in self._instances.items()
            if request.match_info["service"] == "spoolnode" and (not is_passing or self._statuses[name] == "passing")
        ]
        return web.json_response(shown, headers=headers)
