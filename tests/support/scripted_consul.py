"""A Consul that answers as 1.8 does, measured on a real one, unless told otherwise."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from tests.support.scripted_registry import ScriptedRegistry


def check(id_: str, status: str = "passing", **fields: Any) -> dict[str, Any]:
    return {"CheckID": id_, "Name": id_, "Status": status, "Notes": "", "Output": "", **fields}


def entry(service: str, id_: str, port: int = 8080, **changes: Any) -> dict[str, Any]:
    """An instance as `/v1/health/service/…` has it; `changes` are of `Service`, and `Checks` and
    `Node`."""
    node = {"ID": "id-n1", "Node": "n1", "Address": "10.0.0.9"} | changes.pop("Node", {})
    checks = changes.pop("Checks", [check("serfHealth", ServiceID="")])
    known = {
        "ID": id_,
        "Service": service,
        "Tags": [],
        "Address": "10.0.0.1",
        "Meta": None,
        "Port": port,
        "Weights": {"Passing": 1, "Warning": 1},
    }
    return {"Node": node, "Service": known | changes, "Checks": checks}


class ScriptedConsul(ScriptedRegistry):
    """Owns a catalogue of one datacenter, with the indexes that Consul gives."""

    def __init__(self) -> None:
        super().__init__()
        self.server = "server-1"
        self.index = 5
        self.services: dict[str, dict[str, dict[str, Any]]] = {}
        self.indexes: dict[str, int] = {}
        self.pairs: dict[str, dict[str, Any]] = {}
        self.graves: dict[str, int] = {}
        """Keys that were deleted → index at which."""
        self.hidden: set[str] = set()
        """Keys that the token may not see."""
        self.sessions: list[str] = []
        """Those that live."""
        self.rights = True
        """Without them Consul answers as if there were nothing."""
        self.leader = True
        self.lag = 0
        """Answers that are not the leader's say an index so much lower, and know nothing newer."""
        self.room: int | None = None
        """Requests that are taken at a time; it hangs up on further ones. None = any number."""
        self.waiting = 0
        self.holds = True
        """Requests are held until something changes."""
        self.fields: dict[str, str] = {}
        self.statuses: dict[str, int] = {}
        """Beginning of a path → status of its answers."""

    async def put(self, service: str, *entries: Mapping[str, Any]) -> None:
        self.index += 1
        known = self.services.setdefault(service, {})
        known.update((one["Service"]["ID"], dict(one)) for one in entries)
        self.indexes[service] = self.index
        await self.told()

    async def delete(self, service: str, id_: str) -> None:
        self.index += 1
        del self.services[service][id_]
        self.indexes[service] = self.index
        if not self.services[service]:
            del self.services[service], self.indexes[service]
        await self.told()

    async def put_key(self, key: str, value: bytes, session: str = "") -> None:
        self.index += 1
        self.pairs[key] = {
            "Key": key,
            "Value": base64.b64encode(value).decode() or None,
            "ModifyIndex": self.index,
            **({"Session": session} if session else {}),
        }
        await self.told()

    async def delete_key(self, *keys: str) -> None:
        self.index += 1
        for key in keys:
            del self.pairs[key]
            self.graves[key] = self.index
        await self.told()

    def wipe(self) -> None:
        self.services.clear()
        self.indexes.clear()
        self.pairs.clear()
        self.graves.clear()
        self.index = 5
        self.server += "'"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """See `ScriptedRegistry`."""
        for beginning, status in self.statuses.items():
            if request.path.startswith(beginning):
                return web.Response(status=status, text="ACL not found")
        if self.room is not None and self.waiting >= self.room:
            assert request.transport is not None
            request.transport.abort()
        self.waiting += 1
        try:
            return await self._told(request)
        finally:
            self.waiting -= 1

    async def _told(self, request: web.Request) -> web.Response:
        *_, kind, name = request.path.split("/")
        if request.path.startswith("/v1/kv/"):
            kind, name = "kv", request.path.removeprefix("/v1/kv/")
        of_one = kind == "kv" and not {"recurse", "keys"} & set(request.query)
        if of_one and not self.rights:
            return web.Response(status=403, text="Permission denied")
        waited = int(request.query.get("index", 0))
        if waited and self.holds:
            async with self._grew:
                try:
                    async with asyncio.timeout(float(request.query["wait"].rstrip("s"))):
                        await self._grew.wait_for(lambda: self._index(kind, name) > waited)
                except TimeoutError:
                    pass
        index = self._index(kind, name)
        if "stale" in request.query:
            index -= self.lag
        fields = {
            "X-Consul-Index": str(index),
            "X-Consul-Knownleader": "true" if self.leader else "false",
            "X-Consul-Lastcontact": "0",
        }
        body = self._keys(request, name) if kind == "kv" else self._body(kind, name)
        return web.Response(
            status=404 if body is None else 200,
            text="" if body is None else json.dumps(body),
            headers=fields | self.fields,
            content_type="application/json",
        )

    def _index(self, kind: str, name: str) -> int:
        if kind == "kv":
            seen = [one["ModifyIndex"] for key, one in self.pairs.items() if key.startswith(name)]
            gone = [index for key, index in self.graves.items() if key.startswith(name)]
            return max(seen + gone, default=self.index)
        return self.indexes.get(name, self.index) if kind == "service" else self.index

    def _keys(self, request: web.Request, prefix: str) -> object:
        """None = there are none."""
        seen = self.pairs.keys() - self.hidden
        found = {key: self.pairs[key] for key in sorted(seen) if key.startswith(prefix)}
        if not self.rights or not found:
            return None
        if "keys" in request.query:
            rests = {key.removeprefix(prefix).partition("/") for key in found}
            return sorted({prefix + first + slash for first, slash, _ in rests})
        return list(found.values()) if "recurse" in request.query else None

    def _body(self, kind: str, name: str) -> object:
        if kind == "info":
            return [{"ID": name}] if self.rights and name in self.sessions else []
        if kind == "catalog":
            return {"consul": [], **{one: [] for one in self.services}} if self.rights else {}
        if kind == "node":
            return [check("serfHealth")] if self.rights else []
        if name == "consul":
            server = entry("consul", "consul", 8300, Node={"ID": self.server})
            return [server] if self.rights else []
        return list(self.services.get(name, {}).values()) if self.rights else []
