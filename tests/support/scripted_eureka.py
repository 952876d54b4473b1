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
        self.url += "/eureka"
        self.instances: dict[str, dict[str, Any]] = {}
        self.changes: list[dict[str, Any]] = []
        self.status = 200
        self.renewals: list[str] = []
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
        app, _, id_ = request.path.partition("/apps/")[2].partition("/")
        if app and app != "delta":
            return await self._about(request, app, id_)
        delta = app == "delta"
        if delta and self.no_delta:
            return web.Response(status=404)
        return web.json_response(self.document(self.changes if delta else self.instances.values()))

    async def _about(self, request: web.Request, app: str, id_: str) -> web.Response:
        """One instance: asked for, registered, renewed, cancelled, or put out of service."""
        if request.method == "POST":
            one = (await request.json())["instance"]
            before = self.instances.get(one["instanceId"], {})
            override = before.get("overriddenStatus", "UNKNOWN")
            # As its rules are: an override wins, and so does what it has, unless either is DOWN.
            words = (override, before.get("status", "UNKNOWN"))
            known = next((word for word in words if word in ("UP", "OUT_OF_SERVICE")), None)
            status = one["status"] if one["status"] == "DOWN" else known or one["status"]
            self.put({**one, "status": status, "overriddenStatus": override})
            return web.Response(status=204)
        id_, _, rest = id_.partition("/")
        found = self.instances.get(id_)
        if found is None or found["app"] != app:
            return web.Response(status=404)
        if request.method == "GET":
            return web.json_response({"instance": found})
        if rest == "status":
            word = request.query["value"]
            override = word if request.method == "PUT" else "UNKNOWN"
            self.put({**found, "status": word, "overriddenStatus": override})
        elif request.method == "DELETE":
            self.delete(id_)
        else:
            self.renewals.append(id_)
        return web.Response()

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
