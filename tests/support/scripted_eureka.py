"""A Eureka that answers as its sources say, in JSON, unless told otherwise."""

from __future__ import annotations

from collections import Counter
from typing import Any

from aiohttp import web

from tests.support.scripted_registry import ScriptedRegistry


def registered(app: str, id_: str, port: int = 8080, **fields: Any) -> dict[str, Any]:
    """An instance as Eureka has it."""
    return {
        "instanceId": id_,
        "app": app.upper(),
        "hostName": "host.internal",
        "ipAddr": "10.0.0.1",
        "status": "UP",
        "overriddenStatus": "UNKNOWN",
        "port": {"$": port, "@enabled": "true"},
        "securePort": {"$": 443, "@enabled": "false"},
        "dataCenterInfo": {"@class": "com.netflix.…", "name": "MyOwn"},
        "metadata": {"@class": "java.util.Collections$EmptyMap"},
        "vipAddress": app,
        "lastUpdatedTimestamp": "1795344000000",
        **fields,
    }


class ScriptedEureka(ScriptedRegistry):
    """Owns the instances of one server, and what has changed of late."""

    def __init__(self) -> None:
        super().__init__()
        self.instances: dict[str, dict[str, Any]] = {}
        self.changes: list[dict[str, Any]] = []
        self.status = 200
        self.no_delta = False
        """What has changed is not told, as the settings of Eureka can have it."""

    def put(self, one: dict[str, Any]) -> None:
        action = "MODIFIED" if one["instanceId"] in self.instances else "ADDED"
        self.instances[one["instanceId"]] = one
        self.changes.append({**one, "actionType": action})

    def delete(self, id_: str) -> None:
        """It was cancelled, or not renewed, which Eureka does not tell apart."""
        self.changes.append({**self.instances.pop(id_), "actionType": "DELETED"})

    def wipe(self) -> None:
        """Started anew: nobody has renewed yet."""
        self.instances.clear()
        self.changes.clear()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """See `ScriptedRegistry`."""
        if self.status != 200:
            return web.Response(status=self.status)
        if request.headers.get("Accept") != "application/json":
            return web.Response(text="<applications/>", content_type="application/xml")
        delta = request.path.endswith("/apps/delta")
        if delta and self.no_delta:
            return web.Response(status=404)
        return web.json_response(self.document(self.changes if delta else self.instances.values()))

    def document(self, instances: Any) -> dict[str, Any]:
        by_app: dict[str, list[dict[str, Any]]] = {}
        for one in instances:
            by_app.setdefault(one["app"], []).append(one)
        counts = Counter(one["status"] for one in self.instances.values())
        return {
            "applications": {
                "versions__delta": "1",
                "apps__hashcode": "".join(f"{word}_{counts[word]}_" for word in sorted(counts)),
                "application": [{"name": app, "instance": each} for app, each in by_app.items()],
            }
        }
