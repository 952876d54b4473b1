"""A Nacos that answers over HTTP as its sources say, unless told otherwise."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from tests.support.scripted_registry import ScriptedRegistry


def host(port: int = 8080, **fields: Any) -> dict[str, Any]:
    """An instance as Nacos has it."""
    return {
        "instanceId": f"10.0.0.1#{port}#DEFAULT#DEFAULT_GROUP@@users",
        "ip": "10.0.0.1",
        "port": port,
        "weight": 1.0,
        "healthy": True,
        "enabled": True,
        "ephemeral": True,
        "clusterName": "DEFAULT",
        "serviceName": "DEFAULT_GROUP@@users",
        "metadata": {},
        **fields,
    }


class ScriptedNacos(ScriptedRegistry):
    """Owns the services of one member."""

    def __init__(self, password: str = "") -> None:
        super().__init__()
        self.services: dict[str, list[dict[str, Any]]] = {}
        self.forgotten: set[str] = set()
        """Services that the list of names lacks."""
        self.protects = False
        self.password = password
        """Of everybody; "" = none is needed."""
        self.token = "t1"
        self.logins: list[str] = []
        self.apis = {"v1", "v3"}
        self.beats = 0

    def wipe(self) -> None:
        self.services.clear()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """See `ScriptedRegistry`."""
        _, context, api, *rest = request.path.split("/")
        if context != "nacos" or api not in self.apis:
            return web.Response(status=404)
        if rest[-1] == "login":
            form = await request.post()
            self.logins.append(request.path)
            if form.get("password") != self.password:
                return web.Response(status=403, text="unknown user!")
            return web.json_response({"accessToken": self.token, "tokenTtl": 18000})
        if self.password and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.Response(status=403, text="authorization failed!")
        query = request.query
        if rest == ["ns", "service", "list"]:
            names = sorted(self.services.keys() - self.forgotten)
            start = (int(query["pageNo"]) - 1) * int(query["pageSize"])
            page = names[start : start + int(query["pageSize"])]
            return web.json_response({"count": len(names), "doms": page})
        if request.method != "GET":
            form = {**query, **await request.post()}
            return self._changed(request.method, api, rest, {k: str(v) for k, v in form.items()})
        name = query["serviceName"].rpartition("@@")[2]
        hosts = self.services.get(name, [])
        if api == "v3":
            return web.json_response({"code": 0, "message": "success", "data": hosts})
        if self.protects:
            hosts = [{**one, "healthy": True} for one in hosts]
        return web.json_response(
            {
                "name": query["serviceName"],
                "cacheMillis": 10000,
                "hosts": hosts,
                "lastRefTime": 1,
                "reachProtectionThreshold": self.protects,
            }
        )

    def _changed(
        self, method: str, api: str, rest: list[str], given: dict[str, str]
    ) -> web.Response:
        """One instance: registered, beaten for, or deregistered."""
        where = ["ns", "instance"] if api == "v1" else ["client", "ns", "instance"]
        beat = rest == [*where, "beat"] or given.get("heartBeat") == "true"
        assert beat or rest == where, rest
        name = given["serviceName"].rpartition("@@")[2]
        hosts = self.services.get(name, [])
        place = given["ip"], int(given["port"]), given["clusterName"]
        others = [one for one in hosts if (one["ip"], one["port"], one["clusterName"]) != place]
        if beat:
            self.beats += 1
            known = len(others) < len(hosts)
            code = {"v1": (10200, 20404), "v3": (0, 21003)}[api][not known]
            return web.json_response({"code": code, "message": "", "data": None})
        if method == "POST":
            fields = {"weight": float(given["weight"]), "metadata": json.loads(given["metadata"])}
            others.append(host(place[1], ip=place[0], clusterName=place[2], **fields))
        self.services[name] = others
        if not others:
            del self.services[name]
        if api == "v1":
            return web.Response(text="ok")
        return web.json_response({"code": 0, "message": "success", "data": "ok"})
