"""An API server that lists and watches EndpointSlices as Kubernetes documents it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from tests.support.scripted_registry import ScriptedRegistry


def endpoint(name: str, address: str = "10.0.0.1", **changes: Any) -> dict[str, Any]:
    return {"addresses": [address], "targetRef": {"kind": "Pod", "name": name}, **changes}


def slice_of(service: str, name: str, *endpoints: Mapping[str, Any], **changes: Any) -> Any:
    labels = {"kubernetes.io/service-name": service}
    return {
        "metadata": {"name": name, "labels": labels},
        "addressType": "IPv4",
        "endpoints": list(endpoints),
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        **changes,
    }


class ScriptedKubernetes(ScriptedRegistry):
    """Owns the slices of one namespace, and all that has happened to them."""

    def __init__(self) -> None:
        super().__init__()
        self.version = 100
        self.slices: dict[str, dict[str, Any]] = {}
        self.forgotten = 0
        """Watches from before this version are told that it is gone."""
        self.token = ""
        """Who does not show it is refused."""
        self._events: list[tuple[int, dict[str, Any]]] = []

    async def put(self, one: dict[str, Any]) -> None:
        kind = "MODIFIED" if one["metadata"]["name"] in self.slices else "ADDED"
        self.slices[one["metadata"]["name"]] = await self._happened(kind, one)

    async def delete(self, name: str) -> None:
        await self._happened("DELETED", self.slices.pop(name))

    async def bookmark(self) -> None:
        await self._happened("BOOKMARK", {"metadata": {}})

    async def _happened(self, kind: str, one: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        metadata = one["metadata"] | {"resourceVersion": str(self.version)}
        one = one | {"metadata": metadata}
        self._events.append((self.version, {"type": kind, "object": one}))
        await self.told()
        return one

    def wipe(self) -> None:
        self.slices.clear()
        self._events.clear()
        self.version = 1

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """See `ScriptedRegistry`."""
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response({"code": 403, "message": "forbidden"}, status=403)
        if "watch" in request.query:
            return await self._watch(request)
        names = sorted(self.slices)
        start = int(request.query.get("continue", 0))
        end = start + int(request.query["limit"])
        metadata = {"resourceVersion": str(self.version)}
        if end < len(names):
            metadata["continue"] = str(end)
        items = [self.slices[name] for name in names[start:end]]
        return web.json_response({"metadata": metadata, "items": items})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        at = int(request.query["resourceVersion"])
        if at < self.forgotten:
            await _say(response, "ERROR", {"code": 410, "message": "too old resource version"})
            return response
        if at > self.version:
            await _say(response, "ERROR", {"code": 504, "message": "Too large resource version"})
            return response
        while True:
            async with self._grew:
                while self.version <= at:
                    await self._grew.wait()
            await self.speaks.wait()
            for version, event in self._events:
                if version > at:
                    await _say(response, event["type"], event["object"])
            at = self.version


async def _say(response: web.StreamResponse, kind: str, object_: Mapping[str, Any]) -> None:
    await response.write(json.dumps({"type": kind, "object": object_}).encode() + b"\n")
